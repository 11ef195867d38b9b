"""Reader of a DICOM RT Structure Set, by any tool, into one label volume on the stack's grid."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import RTStructureSetStorage

from errors import OverlappingSegments, SegmentationMismatch, UnreadableFile
from imaging import codes
from imaging.frames import items, numbers, text, whole_number
from imaging.seg_read import Segment, check_frame_of_reference, check_source, first_code, referenced_uids
from imaging.stack import Stack
from names import label

# A contour lies on a slice if it is no further from it than this share of the distance between slices.
OFF_SLICE_WITHIN = 0.05
# Or than this, because positions are texts of a few decimals.
ROUNDING_MM = 0.01
CLOSED_CONTOUR_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# MetScope's description of a ROI: tracking identifier and UID.
TRACKING = re.compile(r"(.+) ([0-9]+(?:\.[0-9]+)*)")
GROSS_TUMOUR = "GTV"


@dataclass(frozen=True)
class _Roi:
    """A region of interest: its segment, RTROIInterpretedType, frame of reference and closed contours."""

    segment: Segment
    kind: str
    frame_of_reference_uid: str
    contours: Sequence[Dataset]


def is_structure_set(dataset: Dataset) -> bool:
    return bool(dataset.get("SOPClassUID") == RTStructureSetStorage)


def contour_sources(dataset: Dataset) -> list[set[str]]:
    """Return the SOP Instance UIDs of the images of each contour of a lesion that names any.

    Raises: UnreadableFile.
    """
    contours = [contour for roi in _lesions(dataset) for contour in roi.contours]
    return [uids for contour in contours if (uids := referenced_uids(items(contour, "ContourImageSequence")))]


def listed_series(dataset: Dataset) -> list[Dataset]:
    """Return the items of a structure set that name a series and its images, contoured or not."""
    return [
        series
        for frame_of_reference in items(dataset, "ReferencedFrameOfReferenceSequence")
        for study in items(frame_of_reference, "RTReferencedStudySequence")
        for series in items(study, "RTReferencedSeriesSequence")
    ]


def read(dataset: Dataset, stack: Stack) -> tuple[hd.Volume, list[Segment]]:
    """Return the voxels within the contours of the lesions, on the stack's grid, and the lesions.

    Lesions are the ROIs of type GTV, or without any GTV the ROIs without a type: never organs, planning
    targets or the outline of the body. A voxel is within if its centre is. Contours of a ROI on one slice
    exclude each other, so that one within another is a hole, as is the end of a channel ("keyhole").
    Labels are int32 (slices, rows, columns), 0 background, n the n-th of these ROIs. Raises: UnreadableFile,
    SegmentationMismatch (other patient, study, images or frame of reference, a contour between slices or
    beyond the images), OverlappingSegments.
    """
    if not is_structure_set(dataset):
        raise UnreadableFile(f"SOPClassUID {dataset.get('SOPClassUID')} is not an RT Structure Set.")
    rois = _lesions(dataset)
    if not rois:
        raise UnreadableFile("The structure set has no closed contour of a GTV or of a ROI without a type.")
    sources = contour_sources(dataset)
    check_source(dataset, sources, stack)
    listed = [referenced_uids(items(series, "ContourImageSequence")) for series in listed_series(dataset)]
    referenced = set().union(*sources, *listed)
    labels = np.zeros(stack.volume.spatial_shape, np.int32)
    for roi in rois:
        check_frame_of_reference(roi.frame_of_reference_uid, referenced, stack)
        inside = _voxels(roi, stack)
        earlier_numbers = labels[inside]
        if earlier_numbers.any():
            earlier_roi = next(
                candidate
                for candidate in rois
                if candidate.segment.number == earlier_numbers[earlier_numbers > 0][0]
            )
            raise OverlappingSegments(
                f"ROIs {_quote(earlier_roi.segment)} and {_quote(roi.segment)} overlap."
            )
        labels[inside] = roi.segment.number
    present = set(np.unique(labels).tolist())
    return stack.volume.with_array(labels), [roi.segment for roi in rois if roi.segment.number in present]


def _quote(segment: Segment) -> str:
    return f'{segment.number} "{segment.name}"'


def _lesions(dataset: Dataset) -> list[_Roi]:
    """Return the ROIs that are lesions, numbered from 1; an empty list without lesions."""
    observations = _by_number(dataset, "RTROIObservationsSequence", "ReferencedROINumber")
    contours = {
        number: [
            contour
            for contour in items(item, "ContourSequence")
            if contour.get("ContourGeometricType") in CLOSED_CONTOUR_TYPES
        ]
        for number, item in _by_number(dataset, "ROIContourSequence", "ReferencedROINumber").items()
    }
    rois = []
    for number, item in _by_number(dataset, "StructureSetROISequence", "ROINumber").items():
        observation = observations.get(number, Dataset())
        kind = text(observation, "RTROIInterpretedType")
        if contours.get(number):
            segment = _segment(number, item, observation, dataset)
            where = text(item, "ReferencedFrameOfReferenceUID") or text(dataset, "FrameOfReferenceUID")
            rois.append(_Roi(segment, kind, where, contours[number]))
    lesions = [roi for roi in rois if roi.kind == GROSS_TUMOUR] or [roi for roi in rois if not roi.kind]
    # Renumbered, because some tools write numbers that are not positive.
    return [
        replace(roi, segment=replace(roi.segment, number=number))
        for number, roi in enumerate(lesions, start=1)
    ]


def _by_number(dataset: Dataset, sequence: str, keyword: str) -> dict[int, Dataset]:
    """Return the items of a sequence by the number of their ROI. Raises: UnreadableFile."""
    by_number = {}
    for item in items(dataset, sequence):
        number = whole_number(item, keyword)
        if number is None:
            raise UnreadableFile(f"An item of {sequence} has no {keyword}.")
        by_number[number] = item
    return by_number


def _segment(number: int, item: Dataset, observation: Dataset, dataset: Dataset) -> Segment:
    type_ = first_code(observation.get("RTROIIdentificationCodeSequence"))
    category = first_code(observation.get("SegmentedPropertyCategoryCodeSequence"))
    if type_ is None and text(observation, "RTROIInterpretedType") == GROSS_TUMOUR:
        category, type_ = codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM
    ours = dataset.get("Manufacturer") == "MetScope"
    tracking = TRACKING.fullmatch(text(item, "ROIDescription")) if ours else None
    return Segment(
        number=number,
        name=label(text(item, "ROIName")),
        tracking_id=tracking[1] if tracking else None,
        tracking_uid=tracking[2] if tracking else None,
        category=category,
        type=type_,
        described=_describe(item, category, type_, dataset),
    )


def _describe(item: Dataset, category: Code | None, type_: Code | None, dataset: Dataset) -> Dataset:
    """Return the attributes of a SEG that state what the segment is and what drew it."""
    described = Dataset()
    if category is not None and type_ is not None:
        described.SegmentedPropertyCategoryCodeSequence = [hd.sr.CodedConcept.from_code(category)]
        described.SegmentedPropertyTypeCodeSequence = [hd.sr.CodedConcept.from_code(type_)]
    algorithm = text(item, "ROIGenerationAlgorithm")
    if algorithm in ("AUTOMATIC", "SEMIAUTOMATIC"):
        described.SegmentAlgorithmType = algorithm
        identification = item.get("ROIDerivationAlgorithmIdentificationSequence")
        name = text(identification[0], "AlgorithmName") if identification else ""
        model = text(dataset, "ManufacturerModelName") or text(dataset, "Manufacturer")
        described.SegmentAlgorithmName = name or model or "unknown"
        if identification:
            described.SegmentationAlgorithmIdentificationSequence = identification
    return described


def _voxels(roi: _Roi, stack: Stack) -> NDArray[np.bool_]:
    """Return the voxels inside, bool (slices, rows, columns)."""
    volume = stack.volume
    inside = np.zeros(volume.spatial_shape, bool)
    for place, contour in enumerate(roi.contours, start=1):
        contour_name = f"Contour {place} of ROI {_quote(roi.segment)}"
        data = numbers(contour, "ContourData")
        if data is None or len(data) % 3 or len(data) < 9:
            raise UnreadableFile(f"{contour_name} has no ContourData of three points or more.")
        points = volume.map_reference_to_indices(data.reshape(-1, 3))
        index = int(np.rint(points[:, 0].mean()))
        off_mm = float(np.abs(points[:, 0] - index).max() * volume.spacing[0])
        if off_mm > max(OFF_SLICE_WITHIN * volume.spacing[0], ROUNDING_MM):
            raise SegmentationMismatch(f"{contour_name} lies {off_mm:.2f} mm off the slices of the series.")
        # The image extends half a voxel beyond the outermost centres.
        last = np.array(inside.shape) - 0.5
        if (points.min(axis=0) < -0.5 - OFF_SLICE_WITHIN).any() or (
            points.max(axis=0) > last + OFF_SLICE_WITHIN
        ).any():
            raise SegmentationMismatch(f"{contour_name} reaches beyond the images of the series.")
        inside[index] ^= _fill(points[:, 1:], (inside.shape[1], inside.shape[2]))
    return inside


def _fill(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill a polygon of (row, column) points by the even-odd rule: bool (rows, columns), by pixel centres."""
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int64)
    for (row, column), (next_row, next_column) in _edges(points):
        low, high = sorted((row, next_row))
        # An edge includes its upper end and not its lower one, so that a corner on a row counts once.
        crossed = np.arange(max(np.ceil(low), 0), min(np.ceil(high), rows), dtype=np.int64)
        at = column + (crossed - row) * (next_column - column) / (next_row - row) if len(crossed) else crossed
        np.add.at(crossings, (crossed, np.clip(np.ceil(at), 0, columns).astype(np.int64)), 1)
    filled: NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return filled


def _edges(points: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return zip(points, np.roll(points, -1, axis=0), strict=True)
