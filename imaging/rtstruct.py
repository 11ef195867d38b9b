"""Writer of lesions as a DICOM RT Structure Set, the form of a SEG that planning systems import."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Protocol

import highdicom as hd
import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from imaging import codes
from imaging.derived import Edition, inherit, person_name, reference
from imaging.frames import Frame, frames_of
from imaging.stack import Stack

# Class of a referenced study by PS3.3 C.8.8.5.4; retired, and missing from pydicom's dictionaries.
DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
# Fits the 16 characters of a decimal string.
MM_DECIMALS = 6
# Characters of a Structure Set Label, a DICOM Short String.
MAX_LABEL_LENGTH = 16
ML_DECIMALS = 6


class ContouredLesion(Protocol):
    """A lesion to contour, e.g. ``lesions.measure.Lesion``. number: of its label and segment."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def tracking_id(self) -> str: ...
    @property
    def tracking_uid(self) -> str: ...
    @property
    def volume_ml(self) -> float: ...


def write(
    stack: Stack,
    seg: Dataset,
    labels: hd.Volume,
    lesions: Sequence[ContouredLesion],
    edition: Edition,
    previous: Dataset | None = None,
) -> Dataset:
    """Write one ROI per lesion, unapproved, as Implicit VR Little Endian ready for ``save_as``.

    seg: the SEG of the same labels, which states what each segment is and what drew it. labels: integers
    (slices, rows, columns) on the stack's grid, n the voxels of lesion n.
    Contours are in LPS mm, each on the plane that the header of its image states.
    Raises: ValueError for labels on another grid, a lesion without voxels, no lesions, or a stack without
    headers (from NIfTI). previous: the structure set, or its UIDs, of the version that this one corrects.
    """
    if not lesions or not stack.headers:
        raise ValueError("a structure set needs lesions, and the DICOM headers of their source")
    if labels.shape != stack.volume.shape or not np.allclose(labels.affine, stack.volume.affine, atol=1e-4):
        raise ValueError("labels must lie on the stack's own grid")
    dataset = _equipment_and_series(stack, edition, previous)
    dataset.SeriesDescription = edition.series_description(edition.subject.name, "contours")
    segments = {int(segment.SegmentNumber): deepcopy(segment) for segment in seg.SegmentSequence}
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = seg.FrameOfReferenceUID, ""
    dataset.StructureSetLabel = edition.subject.name.split()[-1].upper()[:MAX_LABEL_LENGTH]
    dataset.StructureSetDescription = f"Contours of {edition.subject.in_a_sentence}; research use only"
    dataset.StructureSetDate = dataset.InstanceCreationDate
    dataset.StructureSetTime = dataset.InstanceCreationTime
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_images(stack, seg.FrameOfReferenceUID)]
    dataset.StructureSetROISequence = [_roi(lesion, seg, segments[lesion.number]) for lesion in lesions]
    dataset.ROIContourSequence = _roi_contours(stack, labels, lesions, segments)
    dataset.RTROIObservationsSequence = [_observation(lesion, segments[lesion.number]) for lesion in lesions]
    if previous is not None:
        dataset.PredecessorStructureSetSequence = [reference(previous)]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _equipment_and_series(stack: Stack, edition: Edition, previous: Dataset | None) -> Dataset:
    base = hd.SOPClass(
        study_instance_uid=stack.headers[0].StudyInstanceUID,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        # Explicit VR limits a contour to 64 KB.
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **edition.attributes("RTSTRUCT", previous),
    )
    dataset = Dataset(base)
    dataset.file_meta, dataset.preamble = base.file_meta, base.preamble
    dataset.OperatorsName = person_name(edition.editor) if edition.editor else None
    inherit(dataset, stack.headers[0], edition)
    return dataset


def _referenced_images(stack: Stack, frame_of_reference_uid: str) -> Dataset:
    """Return the source images under their series, study and frame of reference."""
    series, study, frame_of_reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = stack.headers[0].SeriesInstanceUID
    series.ContourImageSequence = [reference(header) for header in stack.headers]
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = stack.headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame_of_reference.FrameOfReferenceUID = frame_of_reference_uid
    frame_of_reference.RTReferencedStudySequence = [study]
    return frame_of_reference


def _roi(lesion: ContouredLesion, seg: Dataset, segment: Dataset) -> Dataset:
    roi, source = Dataset(), reference(seg)
    roi.ROINumber, roi.ROIName = lesion.number, lesion.name
    roi.ReferencedFrameOfReferenceUID = seg.FrameOfReferenceUID
    # A SEG has attributes for the tracking identifiers; rtstruct_read parses them from this text.
    roi.ROIDescription = f"{lesion.tracking_id} {lesion.tracking_uid}"
    roi.ROIVolume = round(lesion.volume_ml, ML_DECIMALS)
    # Both objects use AUTOMATIC, SEMIAUTOMATIC and MANUAL.
    roi.ROIGenerationAlgorithm = segment.SegmentAlgorithmType
    if "SegmentationAlgorithmIdentificationSequence" in segment:
        roi.ROIDerivationAlgorithmIdentificationSequence = segment.SegmentationAlgorithmIdentificationSequence
    source.ReferencedSegmentNumber = lesion.number
    roi.DefinitionSourceSequence = [source]
    return roi


def _observation(lesion: ContouredLesion, segment: Dataset) -> Dataset:
    """Return what the lesion is: gross tumour volume if its segment is a metastasis, otherwise no type."""
    kind = segment.SegmentedPropertyTypeCodeSequence
    metastasis = kind[0].get("CodeValue") == codes.NEOPLASM_SECONDARY.value
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = lesion.number
    observation.RTROIInterpretedType = "GTV" if metastasis else ""
    observation.ROIInterpreter = None
    observation.SegmentedPropertyCategoryCodeSequence = segment.SegmentedPropertyCategoryCodeSequence
    observation.RTROIIdentificationCodeSequence = kind
    return observation


def _roi_contours(
    stack: Stack, labels: hd.Volume, lesions: Sequence[ContouredLesion], segments: Mapping[int, Dataset]
) -> list[Dataset]:
    frames = {
        (frame.instance.SOPInstanceUID, frame.number): frame
        for header in stack.headers
        for frame in frames_of(header)
    }
    boxes = ndimage.find_objects(labels.array, max_label=max(lesion.number for lesion in lesions))
    items = []
    for lesion in lesions:
        if (box := boxes[lesion.number - 1]) is None:
            raise ValueError(f"lesion {lesion.number} has no voxels")
        slices = zip(stack.slices[box[0]], labels.array[box] == lesion.number, strict=True)
        offset = np.array((box[2].start, box[1].start))
        item, cielab = Dataset(), segments[lesion.number].RecommendedDisplayCIELabValue
        item.ReferencedROINumber = lesion.number
        item.ROIDisplayColor = list(hd.color.CIELabColor.from_dicom_value(cielab).to_rgb())
        item.RecommendedDisplayCIELabValue = list(cielab)
        item.ContourSequence = [
            _contour(outline + offset, frames[image.sop_instance_uid, image.frame])
            for image, mask in slices
            for outline in outlines(mask)
        ]
        items.append(item)
    return items


def _contour(outline: NDArray[np.int_], frame: Frame) -> Dataset:
    """Return the contour of an outline: (points, 2), corners of pixels of the frame."""
    contour, image = Dataset(), reference(frame.instance)
    if frame.number is not None:
        image.ReferencedFrameNumber = frame.number
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(outline)
    mm = (outline - 0.5) * frame.spacing_mm[::-1]  # along a row, along a column
    points = frame.position + mm @ frame.orientation.reshape(2, 3)
    contour.ContourData = points.round(MM_DECIMALS).ravel().tolist()
    return contour


# The corner of a pixel as (column, row): (0, 0) is that of the first pixel, half a pixel before its centre.
Corner = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.int_]]:
    """Yield a polygon around each piece of a slice (rows, columns): (points, 2), the corners where it turns.

    Pixels that share only a corner are two pieces. A channel of no width connects a hole to the outer edge
    (PS3.3 C.8.8.6.3, "keyhole"). Each piece of tissue is thus one contour, which is right whether a reader
    unites the contours of a slice or lets them exclude each other, and fills by parity or by winding.
    """
    # Each pixel is four equal nodes at its corners, so that a line between unequal nodes can only run along
    # edges. Where two pixels share only a corner the mean is 0.5; a level above that separates them.
    nodes = np.pad(mask, 1).repeat(2, axis=0).repeat(2, axis=1).astype(float)
    rows, columns = (np.add.outer(np.arange(-1, count + 1), (0, 1)).ravel() for count in mask.shape)
    generator = contour_generator(columns, rows, nodes, name="serial", fill_type=FillType.OuterOffset)
    for points, offsets in zip(*generator.filled(0.75, np.inf), strict=True):
        outer, *holes = (_corners(points[start:end]) for start, end in pairwise(offsets))
        ring = np.array(_with_channels(outer, holes))
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        yield ring[(before != after).any(axis=1)]


def _corners(points: NDArray[np.float64]) -> list[Corner]:
    """Return the corners that a closed line of contourpy passes, in steps of one, the first not repeated."""
    corners = np.rint(points).astype(int)
    moved = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    return [(column, row) for column, row in corners[moved].tolist()]


def _with_channels(outer: list[Corner], holes: list[list[Corner]]) -> list[Corner]:
    """Join the outside and the holes, which run in the opposite direction, into one line."""

    def top(hole: list[Corner]) -> Corner:
        return min(hole, key=lambda corner: corner[::-1])

    ring = list(outer)
    # From a hole's top straight up through the piece: to the outside, or to a hole that begins higher up.
    for hole in sorted(holes, key=lambda hole: top(hole)[1]):
        channel = [top(hole)]
        while channel[-1] not in ring:
            column, row = channel[-1]
            channel.append((column, row - 1))
        *channel, end = channel
        first, at = hole.index(channel[0]), ring.index(end)
        ring[at:at] = [end, *channel[::-1], *hole[first + 1 :], *hole[:first], *channel]
    return ring
