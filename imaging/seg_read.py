"""Reader of a DICOM Segmentation, by any tool, into one label volume on the stack's grid.

highdicom's own reader is not used: it refuses or crashes on objects that viewers write (Label Map SEG
without plane positions, incomplete real world value mappings). Only pixels, segments and planes count here.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.sr.coding import Code

from errors import OverlappingSegments, SegmentationMismatch, UnreadableFile, UnreadablePixels
from imaging.frames import items, numbers, tag_name, text, whole_number
from imaging.grid import steps_on_grid
from imaging.identity import is_uid, patient_of, same_patient
from imaging.pixels import UNDECODABLE, check_codestreams, transfer_syntax
from imaging.stack import SliceReference, Stack
from names import label

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
# The share of MaximumFractionalValue from which a voxel of a FRACTIONAL segment counts as drawn.
FRACTION_DRAWN = 0.5
# A frame may have this many times the pixels of the grid's largest plane, and a segment this many times the
# frames of its longest axis, because some tools leave a margin around the images.
MARGIN = 4
# Attributes that state what a segment is and what drew it; ``seg.write`` repeats them.
DESCRIPTION = (
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentAlgorithmType",
    "SegmentAlgorithmName",
    "SegmentationAlgorithmIdentificationSequence",
    "AnatomicRegionSequence",
)
# Functional group, attribute and number of values that together place a frame in space.
PLANE = (
    ("PlanePositionSequence", "ImagePositionPatient", 3),
    ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
    ("PixelMeasuresSequence", "PixelSpacing", 2),
)


@dataclass(frozen=True)
class Segment:
    """One segment. number: from 1; name: its Segment Label; category and type: its property codes.

    tracking_id, tracking_uid, category and type: None if a foreign SEG lacks them, or has no legal UID.
    described: the elements of DESCRIPTION in the SEG that the segment was read from.
    colour: #rrggbb, if it is to be written in another colour than its number's.
    """

    number: int
    name: str
    tracking_id: str | None
    tracking_uid: str | None
    category: Code | None
    type: Code | None
    described: Dataset | None = field(default=None, compare=False)
    colour: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _Frame:
    """A frame's number (from 1), shape (1, rows, columns) and functional groups, its own first."""

    number: int
    shape: tuple[int, int, int]
    groups: Sequence[Dataset]


def read(dataset: Dataset, stack: Stack) -> tuple[hd.Volume, list[Segment]]:
    """Read the segments that have voxels, and their voxels on the stack's grid.

    dataset: a Segmentation (BINARY, FRACTIONAL) or Label Map Segmentation with its pixel data, in any
    transfer syntax that pydicom decodes; its frames may be sparse, in any order, and turned or flipped by
    right angles relative to the stack. A frame lies at its plane position, or without one on the slice that
    it references.
    Returns labels, int32 (slices, rows, columns), 0 background, otherwise the segment's number in the SEG
    (numbers may have gaps), and the segments by number.
    Raises: UnreadableFile (not a SEG, or contradictory), UnreadablePixels, SegmentationMismatch
    (other patient, study, images, frame of reference or grid, frames too large or too many for it, a frame
    without a place), OverlappingSegments.
    """
    if dataset.get("SOPClassUID") not in (SEGMENTATION_STORAGE, LABEL_MAP_SEGMENTATION_STORAGE):
        raise UnreadableFile(f"SOPClassUID {dataset.get('SOPClassUID')} is not a Segmentation.")
    described = {segment.number: segment for segment in map(_segment, items(dataset, "SegmentSequence"))}
    groups = _functional_groups(dataset)
    check_frame_of_reference(text(dataset, "FrameOfReferenceUID"), _referenced_images(dataset), stack)
    check_source(dataset, frame_sources(dataset), stack)
    _check_size(dataset, len(groups), max(len(described), 1), stack)
    labels = np.zeros(stack.volume.spatial_shape, np.int32)
    present = set()
    for frame, number, pixel_indices in _find_pixels(dataset, groups):
        if number not in described:
            raise UnreadableFile(f"Frame {frame.number} shows segment {number}, which SegmentSequence lacks.")
        indices = _place(frame, pixel_indices, stack)
        earlier_numbers = labels[indices]
        overlapped = earlier_numbers[(earlier_numbers != 0) & (earlier_numbers != number)]
        if overlapped.size:
            raise OverlappingSegments(
                f"Segments {_quote(described[int(overlapped[0])])} and {_quote(described[number])} overlap "
                f"in frame {frame.number}; a voxel can belong to one lesion only."
            )
        labels[indices] = number
        present.add(number)
    return stack.volume.with_array(labels), [described[number] for number in sorted(present)]


def _segment(item: Dataset) -> Segment:
    number = whole_number(item, "SegmentNumber")
    if number is None:
        raise UnreadableFile("An item of SegmentSequence has no SegmentNumber.")
    tracking_uid = text(item, "TrackingUID")
    return Segment(
        number=number,
        # A backslash in a label splits it into several values.
        name=label(text(item, "SegmentLabel")),
        tracking_id=label(text(item, "TrackingID")) or None,
        tracking_uid=tracking_uid if is_uid(tracking_uid) else None,
        category=first_code(item.get("SegmentedPropertyCategoryCodeSequence")),
        type=first_code(item.get("SegmentedPropertyTypeCodeSequence")),
        described=_copy_description(item),
    )


def _copy_description(item: Dataset) -> Dataset:
    described = Dataset()
    for keyword in DESCRIPTION:
        if item.get(keyword):
            described[keyword] = item[keyword]
    # Decode the text now, because the SEG that repeats it has another character set.
    described.walk(lambda dataset, element: None)
    return described


def first_code(sequence: Sequence[Dataset] | None) -> Code | None:
    """Return the first item of a code sequence; None without an item, or if it holds no code."""
    if not sequence:
        return None
    item = sequence[0]
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    if not value:
        return None
    return Code(str(value), str(item.get("CodingSchemeDesignator", "")), str(item.get("CodeMeaning", "")))


def _quote(segment: Segment) -> str:
    return f'{segment.number} "{segment.name}"'


def _functional_groups(dataset: Dataset) -> list[list[Dataset]]:
    """Return for every frame its own functional groups, then the shared ones. Raises: UnreadableFile."""
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    count = text(dataset, "NumberOfFrames") or "0"
    if count != str(len(own)):
        raise UnreadableFile(
            f"NumberOfFrames is {count}, but PerFrameFunctionalGroupsSequence has {len(own)} items."
        )
    return [[group, *shared] for group in own]


def _check_size(dataset: Dataset, frames: int, segments: int, stack: Stack) -> None:
    """Raise SegmentationMismatch, before any frame is decoded, if they cannot be of the stack's grid."""
    rows, columns = (whole_number(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    shape = stack.volume.spatial_shape
    largest_plane = math.prod(shape) // min(shape)
    if rows * columns > MARGIN * largest_plane or frames > MARGIN * segments * max(shape):
        raise SegmentationMismatch(
            f"The segmentation has {frames} frames of {rows} x {columns} pixels and {segments} segments, the "
            f"series {' x '.join(map(str, shape))} voxels (slices, rows, columns)."
        )


def check_source(dataset: Dataset, sources: Iterable[set[str]], stack: Stack) -> None:
    """Raise SegmentationMismatch if a SEG or structure set names another patient, study or series.

    A stack from NIfTI has no identity and is not checked.
    sources: the SOP Instance UIDs of the images that each frame or contour names.
    """
    if not stack.headers:
        return
    if not same_patient(patient_of(dataset), patient_of(stack.headers[0])):
        raise SegmentationMismatch("The segmentation and the series belong to different patients.")
    theirs, ours = (text(header, "StudyInstanceUID") for header in (dataset, stack.headers[0]))
    if theirs != ours:
        raise SegmentationMismatch(f"StudyInstanceUID is {theirs or 'missing'}, that of the series {ours}.")
    images = {slice_.sop_instance_uid for slice_ in stack.slices}
    foreign = next((uids for uids in sources if images.isdisjoint(uids)), None)
    if foreign:
        raise SegmentationMismatch(
            f"The segmentation was drawn on image {min(foreign)}, which is not in the series."
        )


def frame_sources(dataset: Dataset) -> list[set[str]]:
    """Return the SOP Instance UIDs of the source images of each frame that names any.

    If only the shared functional groups name source images, that is one entry.
    """
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    own = [uids for group in groups if (uids := referenced_uids(_source_images([group])))]
    shared = referenced_uids(_source_images(items(dataset, "SharedFunctionalGroupsSequence")))
    return own or ([shared] if shared else [])


def referenced_uids(references: Iterable[Dataset]) -> set[str]:
    """Return the SOP Instance UIDs that the items of a sequence of references name."""
    return {text(item, "ReferencedSOPInstanceUID") for item in references} - {""}


def _referenced_images(dataset: Dataset) -> set[str]:
    """Return the SOP Instance UIDs of all images that a SEG names anywhere."""
    series = items(dataset, "ReferencedSeriesSequence")
    sequences = [
        items(dataset, "SourceImageSequence"),
        *(items(item, "ReferencedInstanceSequence") for item in series),
    ]
    return set().union(*frame_sources(dataset), *map(referenced_uids, sequences))


def check_frame_of_reference(theirs: str, referenced: Iterable[str], stack: Stack) -> None:
    """Raise SegmentationMismatch if the positions of a segmentation mean nothing in the stack.

    theirs: its FrameOfReferenceUID, or empty. referenced: the SOP Instance UIDs of the images that it names.
    """
    ours = stack.volume.frame_of_reference_uid
    if theirs and ours:
        if theirs != ours:
            raise SegmentationMismatch(f"FrameOfReferenceUID is {theirs}, that of the series {ours}.")
        return
    # Without a common frame of reference, positions mean the same only where the images are the same.
    if {slice_.sop_instance_uid for slice_ in stack.slices}.isdisjoint(referenced):
        raise SegmentationMismatch(
            f"FrameOfReferenceUID is missing in the {'series' if theirs else 'segmentation'}, "
            "and the segmentation references no image of the series."
        )


def _find_pixels(
    dataset: Dataset, groups: list[list[Dataset]]
) -> Iterator[tuple[_Frame, int, NDArray[np.int64]]]:
    """Yield frame, segment number and (2, n) rows and columns, for each frame and segment with voxels."""
    label_map = dataset.SOPClassUID == LABEL_MAP_SEGMENTATION_STORAGE
    threshold = 1.0
    if not label_map and dataset.get("SegmentationType") == "FRACTIONAL":
        if not (maximum := whole_number(dataset, "MaximumFractionalValue")):
            raise UnreadableFile("SegmentationType is FRACTIONAL, but MaximumFractionalValue is missing.")
        threshold = FRACTION_DRAWN * maximum
    for index, pixels in enumerate(_decode(dataset) if groups else ()):
        frame = _Frame(index + 1, (1, *pixels.shape), groups[index])
        if label_map:
            for number in np.unique(pixels[pixels != 0]).tolist():
                yield frame, number, _rows_and_columns(pixels == number)
        elif (mask := pixels >= threshold).any():
            yield frame, _segment_number(frame), _rows_and_columns(mask)


def _rows_and_columns(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    # Several times faster than np.nonzero on two axes.
    return np.array(np.divmod(np.flatnonzero(mask), mask.shape[1]))


def _decode(dataset: Dataset) -> Iterator[NDArray[np.integer]]:
    """Yield the frames in stored order, (rows, columns). Raises: UnreadablePixels."""
    syntax = transfer_syntax(dataset)
    try:
        if not syntax.is_encapsulated:
            _check_length(dataset)
        # One-bit pixels may be packed before compression, so that the codestream has another size.
        elif dataset.BitsAllocated > 1:
            check_codestreams(dataset, syntax)
        if dataset.BitsAllocated == 1 and not syntax.is_encapsulated:
            yield from _unpack(dataset)
        else:
            yield from iter_pixels(dataset, raw=True)
    except UNDECODABLE as error:
        raise UnreadablePixels(
            f"The pixel data of the segmentation, {dataset.get('BitsAllocated')} bits in transfer syntax "
            f"{syntax.name or 'unknown'}, cannot be decoded ({type(error).__name__})."
        ) from error


def _check_length(dataset: Dataset) -> None:
    """Raise UnreadablePixels unless native pixel data have the header's length, or one byte more."""
    keywords = ("NumberOfFrames", "Rows", "Columns", "BitsAllocated")
    bits = math.prod(int(dataset[keyword].value) for keyword in keywords)
    if len(dataset.PixelData) - math.ceil(bits / 8) not in (0, 1):
        raise UnreadablePixels(
            "The pixel data of the segmentation cannot be decoded: "
            f"{tag_name('PixelData')} holds {len(dataset.PixelData)} bytes, "
            f"{' x '.join(f'{tag_name(keyword)} {dataset[keyword].value}' for keyword in keywords)} make "
            f"{math.ceil(bits / 8)}."
        )


def _unpack(dataset: Dataset) -> Iterator[NDArray[np.integer]]:
    """Yield bit-packed frames, which follow each other without a gap, even within a byte (PS3.5 8.1.1).

    pydicom 3.0.2 can only decode them all at once; a SEG that keeps its empty frames would fill the memory.
    """
    shape = (int(dataset.Rows), int(dataset.Columns))
    size = shape[0] * shape[1]
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    for start in range(0, int(dataset.NumberOfFrames) * size, size):
        bits = np.unpackbits(packed[start // 8 : (start + size + 7) // 8], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(shape)


def _segment_number(frame: _Frame) -> int:
    for group in frame.groups:
        for identification in items(group, "SegmentIdentificationSequence")[:1]:
            if (number := whole_number(identification, "ReferencedSegmentNumber")) is not None:
                return number
    raise UnreadableFile(f"Frame {frame.number} has no ReferencedSegmentNumber.")


def _place(frame: _Frame, pixel_indices: NDArray[np.int64], stack: Stack) -> tuple[NDArray[np.int64], ...]:
    """Return the indices (slices, rows, columns) in the stack of a frame's drawn rows and columns."""
    affine = _plane(frame)
    size = stack.volume.spatial_shape
    if affine is not None:
        steps = steps_on_grid(affine, frame.shape, stack.volume, f"Frame {frame.number} of the segmentation")
    elif frame.shape[1:] == size[1:]:
        steps = np.eye(3, 4, dtype=np.int64)
        steps[0, 3] = _referenced_slice(frame, stack.slices)
    else:
        raise SegmentationMismatch(
            f"Frame {frame.number} has no plane position and {frame.shape[1]} x {frame.shape[2]} pixels, "
            f"the slices of the series {size[1]} x {size[2]}."
        )
    indices = steps[:, 1:3] @ pixel_indices + steps[:, 3:]
    outside = ((indices < 0) | (indices >= np.array(size)[:, None])).any(axis=0)
    if outside.any():
        x, y, z = stack.volume.map_indices_to_reference(indices.T[outside][:1])[0]
        raise SegmentationMismatch(
            f"Frame {frame.number} reaches beyond the series, at LPS {x:.1f}, {y:.1f}, {z:.1f} mm."
        )
    return tuple(indices)


def _plane(frame: _Frame) -> NDArray[np.float64] | None:
    """Return the affine (0, row, column) -> LPS mm, PS3.3 C.7.6.2.1.1; None if incomplete or not a plane."""
    geometry = {}
    for group in reversed(frame.groups):
        for sequence, keyword, length in PLANE:
            for item in items(group, sequence)[:1]:
                values = numbers(item, keyword)
                if values is not None and len(values) == length:
                    geometry[keyword] = values
    if len(geometry) < len(PLANE):
        return None
    along_row, along_column = geometry["ImageOrientationPatient"].reshape(2, 3)
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 0.01 or (geometry["PixelSpacing"] <= 0).any():
        return None
    affine = np.eye(4)
    affine[:3, 0] = normal
    affine[:3, 1] = along_column * geometry["PixelSpacing"][0]
    affine[:3, 2] = along_row * geometry["PixelSpacing"][1]
    affine[:3, 3] = geometry["ImagePositionPatient"]
    return affine


def _referenced_slice(frame: _Frame, slices: Sequence[SliceReference]) -> int:
    places = set()
    for image in _source_images(frame.groups):
        uid, frames = text(image, "ReferencedSOPInstanceUID"), numbers(image, "ReferencedFrameNumber")
        referenced_frames = None if frames is None else set(frames.tolist())
        places |= {
            index
            for index, slice_ in enumerate(slices)
            if slice_.sop_instance_uid == uid
            and (slice_.frame is None or referenced_frames is None or slice_.frame in referenced_frames)
        }
    if len(places) != 1:
        raise SegmentationMismatch(
            f"Frame {frame.number} has no complete plane position and references {len(places)} slices of the "
            "series, so its position is unknown."
        )
    return places.pop()


def _source_images(groups: Sequence[Dataset]) -> list[Dataset]:
    return [
        image
        for group in groups
        for derivation in items(group, "DerivationImageSequence")
        for image in items(derivation, "SourceImageSequence")
    ]
