"""A complete volume of a series, with the DICOM slice that each of its slices came from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
from pydicom import Dataset

from errors import (
    ConstantPixels,
    DuplicateSlices,
    GantryTilt,
    InconsistentImages,
    InputRefused,
    MissingSlices,
    MixedOrientations,
    SeveralStacks,
    TooFewSlices,
    UnevenSlices,
    UnreadablePixels,
)
from imaging.files import warnings_of, with_warnings
from imaging.frames import (
    DISCRIMINATORS,
    Frame,
    Vector,
    frames_of,
    is_multi_frame,
    name_of,
    numbers_text,
    tag_name,
    text,
)
from imaging.grid import check_size
from imaging.identity import check_image_uids, check_one_patient, frame_of_reference
from imaging.pixels import is_lossy, stored_values

MIN_SLICES = 5
# Allowed difference of a direction cosine between two slices: 0.03 degrees, 0.1 mm at the edge of the head.
# Rounding in the headers of parallel slices stays below 2e-4; half a degree makes at least 4e-3.
ORIENTATION_TOLERANCE = 5e-4
# Shares of the median distance between slices: up to the first, two slices are at one place; from the second,
# one is missing.
SAME_PLACE = 0.05
MISSING_FROM = 1.5
# Allowed distance of a slice from its place in the volume: along the normal as a share of the distance
# between slices, sideways as a share of the smaller pixel spacing. Neither is below ROUNDING_MM, because some
# scanners and anonymisers write positions to 0.1 mm, which moves an oblique slice by up to 0.09 mm.
EVEN_WITHIN = 0.1
SHEAR_WITHIN = 0.25
ROUNDING_MM = 0.1
# A 3D acquisition has no gaps: from this share of the slice thickness, slices are likely left out.
LEFT_OUT_FROM = 1.5
PIXEL_DATA = 0x7FE00010
# Attributes in which two images under one SOP Instance UID differ; without pixels, their places decide.
IMAGE_KEYWORDS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PerFrameFunctionalGroupsSequence", "PixelData",
)  # fmt: skip


@dataclass(frozen=True)
class SliceReference:
    """The source of a slice: a SOP Instance UID, and the 1-based frame of a multi-frame image."""

    sop_instance_uid: str | None
    frame: int | None = None


@dataclass(frozen=True)
class Stack:
    """One complete volume of a series.

    volume: float32 (slices, rows, columns), affine index -> LPS mm, rescaled to real values.
    slices: one reference per slice, in the order of the volume's first axis.
    headers: the instances without pixel data, one per slice (one in all for multi-frame images),
        in the order of the slices; a SEG inherits patient, study and frame of reference from them.
    warnings: sentences to be stored with the result.
    """

    volume: hd.Volume
    slices: Sequence[SliceReference]
    headers: Sequence[Dataset]
    warnings: Sequence[str] = field(default_factory=tuple)


def to_stack(instances: Sequence[Dataset]) -> Stack:
    """Return the instances of one complete series as one volume.

    Slices are ordered by position along the normal (row direction x column direction), whatever their
    numbers; the volume's first index grows along it. Pixels are rescaled slice by slice.
    Raises: InputRefused (any of its kinds) naming the tag, the slice or the value at fault.
    """
    frames = _sort(check_headers(instances))
    volume = hd.Volume(
        _pixels(frames),
        _affine(frames),
        "PATIENT",
        frame_of_reference_uid=frame_of_reference(frames[0].instance) or None,
    )
    if volume.array.min() == volume.array.max():
        raise ConstantPixels(f"Every pixel of the series has the value {volume.array.flat[0]:g}.")
    return Stack(
        volume=volume,
        slices=[SliceReference(str(frame.instance.SOPInstanceUID), frame.number) for frame in frames],
        headers=_headers(frames),
        warnings=[*_warnings(frames), *warnings_of(instances)],
    )


def check_headers(instances: Sequence[Dataset]) -> list[Frame]:
    """Return the frames of one complete stack, unordered; pixel data may be absent. Raises: InputRefused."""
    try:
        return _complete_frames(instances)
    except InputRefused as refusal:
        raise with_warnings(refusal, warnings_of(instances)) from None


def _complete_frames(instances: Sequence[Dataset]) -> list[Frame]:
    check_one_patient(instances)
    frames = [frame for instance in _drop_duplicates(instances) for frame in frames_of(instance)]
    check_image_uids(instances)
    if len(frames) < MIN_SLICES:
        raise TooFewSlices(f"The series has {len(frames)} slices; a volume takes at least {MIN_SLICES}.")
    _check_alike(frames)
    _check_one_stack(frames)
    ordered = _sort(frames)
    _check_gaps(ordered)
    _check_places(ordered)
    first = ordered[0].instance
    shape = (len(ordered), int(first.Rows), int(first.Columns))
    check_size(shape, np.linalg.norm(_affine(ordered)[:3, :3], axis=0))
    return frames


def _drop_duplicates(instances: Sequence[Dataset]) -> list[Dataset]:
    """Return each instance once. Raises: InconsistentImages if different images have one SOP Instance UID."""
    unique: dict[str, Dataset] = {}
    for instance in instances:
        first = unique.setdefault(str(instance.SOPInstanceUID), instance)
        if any(first.get(keyword) != instance.get(keyword) for keyword in IMAGE_KEYWORDS):
            raise InconsistentImages(
                f"Different images of the series have the same {tag_name('SOPInstanceUID')}, "
                f"{instance.SOPInstanceUID}; one of them would be lost."
            )
    return list(unique.values())


def _axes(frame: Frame) -> Vector:
    """Return unit vectors (3, 3) along the normal, a column and a row of a slice, made perpendicular.

    The header's cosines may be rounded (``frames_of`` allows 1e-3); a highdicom.Volume allows only 1e-4.
    """
    row = frame.orientation[:3] / np.linalg.norm(frame.orientation[:3])
    normal = np.cross(row, frame.orientation[3:])
    normal /= np.linalg.norm(normal)
    return np.array([normal, np.cross(normal, row), row])


def _normal(frame: Frame) -> Vector:
    normal: Vector = _axes(frame)[0]
    return normal


def _positions(frames: Sequence[Frame]) -> Vector:
    """Return the centres of the first pixels, LPS mm, (slices, 3)."""
    return np.array([frame.position for frame in frames])


def _along(frames: Sequence[Frame]) -> Vector:
    """Return the positions along the first frame's normal, mm."""
    along: Vector = _positions(frames) @ _normal(frames[0])
    return along


def _sort(frames: Sequence[Frame]) -> list[Frame]:
    return [frames[index] for index in np.argsort(_along(frames), kind="stable")]


def _check_alike(frames: Sequence[Frame]) -> None:
    """Check that all slices are parallel and of one kind, size, spacing and frame of reference.

    Raises: InconsistentImages, MixedOrientations.
    """
    first = frames[0]
    for frame in frames[1:]:
        if is_multi_frame(frame.instance) != is_multi_frame(first.instance):
            raise InconsistentImages(
                f"The series mixes single-frame and multi-frame images: {tag_name('SOPClassUID')} of "
                f"{name_of(frame.instance)} is {frame.instance.SOPClassUID.name}, "
                f"that of {name_of(first.instance)} {first.instance.SOPClassUID.name}."
            )
        if np.abs(frame.orientation - first.orientation).max() > ORIENTATION_TOLERANCE:
            raise MixedOrientations(
                f"{frame.name}: {tag_name('ImageOrientationPatient')} is {numbers_text(frame.orientation)}, "
                f"that of {first.name} {numbers_text(first.orientation)}."
            )
        if not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-3):
            raise InconsistentImages(
                f"{frame.name}: {tag_name('PixelSpacing')} is {numbers_text(frame.spacing_mm)}, "
                f"that of {first.name} {numbers_text(first.spacing_mm)}."
            )
        for keyword in ("Rows", "Columns", "FrameOfReferenceUID"):
            if text(frame.instance, keyword) != text(first.instance, keyword):
                raise InconsistentImages(
                    f"{frame.name}: {tag_name(keyword)} is {text(frame.instance, keyword) or 'missing'}, "
                    f"that of {first.name} {text(first.instance, keyword) or 'missing'}."
                )


def _check_one_stack(frames: Sequence[Frame]) -> None:
    """Raise SeveralStacks or DuplicateSlices if two slices are at one place.

    It is SeveralStacks if an attribute tells the two slices apart.
    """
    ordered = _sort(frames)
    steps = np.diff(_along(ordered))
    typical = float(np.median(steps[steps > 0])) if np.any(steps > 0) else 0.0
    same = np.flatnonzero(steps <= SAME_PLACE * typical)
    if len(same) == 0:
        return
    first, second = ordered[same[0]], ordered[same[0] + 1]
    for keyword in DISCRIMINATORS:
        values = sorted({frame.labels.get(keyword, "missing") for frame in frames})
        if len(values) > 1 and first.labels.get(keyword) != second.labels.get(keyword):
            raise SeveralStacks(
                f"The series holds {len(values)} volumes: {tag_name(keyword)} is {' or '.join(values)}."
            )
    raise DuplicateSlices(
        f"{len(same) + 1} slices of {len(frames)} share their position with another: {first.name} and "
        f"{second.name} are both at {numbers_text(first.position)} mm ({tag_name('ImagePositionPatient')})."
    )


def _check_gaps(ordered: Sequence[Frame]) -> None:
    steps = np.diff(_along(ordered))
    typical = float(np.median(steps))
    widest = int(np.argmax(steps))
    if steps[widest] >= MISSING_FROM * typical:
        raise MissingSlices(
            f"{steps[widest]:.1f} mm between slices {widest + 1} and {widest + 2}, "
            f"{typical:.1f} mm elsewhere."
        )


def _check_places(ordered: Sequence[Frame]) -> None:
    """Check that every slice lies where the affine puts it. Raises: UnevenSlices, GantryTilt."""
    affine, normal = _affine(ordered), _normal(ordered[0])
    between_mm = float(np.linalg.norm(affine[:3, 0]))
    off_mm = _positions(ordered) - affine[:3, 3] - np.outer(np.arange(len(ordered)), affine[:3, 0])
    along_mm = off_mm @ normal
    sideways_mm = np.linalg.norm(off_mm - np.outer(along_mm, normal), axis=1)
    worst = int(np.argmax(np.abs(along_mm)))
    if abs(along_mm[worst]) > max(EVEN_WITHIN * between_mm, ROUNDING_MM):
        raise UnevenSlices(
            f"Slice {worst + 1} ({ordered[worst].name}) lies {abs(along_mm[worst]):.2f} mm from its position "
            f"among slices {between_mm:.2f} mm apart ({tag_name('ImagePositionPatient')})."
        )
    worst = int(np.argmax(sideways_mm))
    if sideways_mm[worst] > max(SHEAR_WITHIN * min(ordered[0].spacing_mm), ROUNDING_MM):
        raise GantryTilt(
            f"Slice {worst + 1} ({ordered[worst].name}) lies {sideways_mm[worst]:.2f} mm sideways of its "
            f"place in a straight stack ({tag_name('ImagePositionPatient')})."
        )


def _affine(ordered: Sequence[Frame]) -> Vector:
    """Return index (slice, row, column) -> LPS mm, with slices along the normal.

    A least-squares fit to all positions spreads their rounding over the slices, instead of tying the volume
    to the first and the last.
    """
    first = ordered[0]
    index = np.arange(len(ordered)) - (len(ordered) - 1) / 2
    affine = np.eye(4)
    between_mm = (index @ _along(ordered)) / (index @ index)
    affine[:3, :3] = _axes(first).T * (between_mm, *first.spacing_mm)
    affine[:3, 3] = _positions(ordered).mean(axis=0) + affine[:3, 0] * index[0]
    return affine


def _pixels(ordered: Sequence[Frame]) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """Decode the pixels instance by instance: float32 (slices, rows, columns).

    Raises: InconsistentImages, and UnreadablePixels if an instance has fewer or more frames than stated.
    """
    shape = (len(ordered), int(ordered[0].instance.Rows), int(ordered[0].instance.Columns))
    instances = _instances(ordered)
    # This checks each instance, so that no memory is allocated for a header's false claim.
    decoders = [stored_values(instance) for instance in instances]
    array = np.empty(shape, dtype=np.float32)
    # The places of the frames of each instance, in stored order.
    places: dict[int, list[int]] = {id(instance): [] for instance in instances}
    for index in sorted(range(len(ordered)), key=lambda index: ordered[index].index):
        places[id(ordered[index].instance)].append(index)
    for position, (instance, decoder) in enumerate(zip(instances, decoders, strict=True), start=1):
        place = places[id(instance)]
        decoded = 0
        for decoded, stored in enumerate(decoder, start=1):
            if decoded > len(place):
                continue  # only counted
            frame = ordered[place[decoded - 1]]
            if stored.shape != shape[1:]:
                raise InconsistentImages(f"{frame.name} decodes to {stored.shape}, not {shape[1:]}.")
            if (frame.slope, frame.intercept) == (1.0, 0.0):
                array[place[decoded - 1]] = stored
            else:
                array[place[decoded - 1]] = stored * frame.slope + frame.intercept
        if decoded != len(place):
            raise UnreadablePixels(
                f"{name_of(instance)} ({position} of {len(instances)}) decodes to {decoded} frames; "
                f"{tag_name('NumberOfFrames')} says {len(place)}."
            )
    return array


def _instances(ordered: Sequence[Frame]) -> list[Dataset]:
    """Return each instance once, in the order of its first slice."""
    return list({id(frame.instance): frame.instance for frame in ordered}.values())


def _headers(ordered: Sequence[Frame]) -> list[Dataset]:
    """Return each instance once without its pixels, in the order of its first slice."""
    headers = []
    for instance in _instances(ordered):
        header = Dataset()
        header.update({element.tag: element for element in instance if element.tag != PIXEL_DATA})
        headers.append(header)
    return headers


def _warnings(ordered: Sequence[Frame]) -> list[str]:
    warnings = []
    if any(is_lossy(frame.instance) for frame in ordered):
        warnings.append(f"The images were compressed with loss ({tag_name('LossyImageCompression')} is 01).")
    if not frame_of_reference(ordered[0].instance):
        valid = "valid " if text(ordered[0].instance, "FrameOfReferenceUID") else ""
        warnings.append(
            f"The series has no {valid}{tag_name('FrameOfReferenceUID')}; MetScope creates one for the SEG."
        )
    thickness_mm = ordered[0].thickness_mm or math.inf
    between_mm = float(np.linalg.norm(_affine(ordered)[:3, 0]))
    acquired_3d = text(ordered[0].instance, "MRAcquisitionType") == "3D"
    if acquired_3d and between_mm > LEFT_OUT_FROM * thickness_mm:
        warnings.append(
            f"The slices are {between_mm:.2f} mm apart and {thickness_mm:.2f} mm thick "
            f"({tag_name('SliceThickness')}), but a 3D acquisition ({tag_name('MRAcquisitionType')}) has no "
            "gaps: slices may have been left out."
        )
    return warnings
