"""A complete volume that remembers which DICOM slice each of its slices came from."""

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
    MissingSlices,
    MixedOrientations,
    SeveralStacks,
    TooFewSlices,
    UnevenSlices,
)
from imaging.frames import DISCRIMINATORS, Frame, Vector, frames_of, numbers_text, tag_name, text
from imaging.pixels import is_lossy, stored_values

FEWEST_SLICES = 5
# How far the cosine between two slices' axes may be below 1 (2.6 degrees); header rounding stays below 1e-6.
ORIENTATION_TOLERANCE = 1e-3
# Distances, as shares of the median distance between slices: below, two slices are at one place; above the
# second, one is missing; between, jitter up to the third is rounding.
SAME_PLACE = 0.05
MISSING_FROM = 1.5
EVEN_WITHIN = 0.1
# Sideways drift of the slices' corners over the stack, in pixels, from which the stack counts as sheared.
SHEAR_PIXELS = 1.0
PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True)
class SliceReference:
    """Where a slice came from: a SOP Instance UID, and the 1-based frame of a multi-frame image."""

    sop_instance_uid: str | None
    frame: int | None = None


@dataclass(frozen=True)
class Stack:
    """One complete volume of a series.

    volume: float32 (slices, rows, columns), affine index -> LPS mm, rescaled to real values.
    slices: one reference per slice, in the order of the volume's first axis.
    headers: the instances without pixel data, one per slice (one in all for multi-frame images),
        in the order of the slices; what a SEG inherits patient, study and frame of reference from.
    warnings: sentences to be stored with the result.
    """

    volume: hd.Volume
    slices: Sequence[SliceReference]
    headers: Sequence[Dataset]
    warnings: Sequence[str] = field(default_factory=tuple)


def to_stack(instances: Sequence[Dataset]) -> Stack:
    """The instances of one series, complete, as one volume.

    Slices are ordered by position along the normal (row direction x column direction), whatever their
    numbers; the volume's first index grows along it. Pixels are rescaled slice by slice.
    Raises: InputRefused (each of its kinds) naming the tag, the slice or the value at fault.
    """
    frames = _ordered(check_headers(instances))
    volume = hd.Volume(
        _pixels(frames),
        _affine(frames),
        "PATIENT",
        frame_of_reference_uid=text(frames[0].instance, "FrameOfReferenceUID") or None,
    )
    if volume.array.min() == volume.array.max():
        raise ConstantPixels(f"Every pixel of the series has the value {volume.array.flat[0]:g}.")
    return Stack(
        volume=volume,
        slices=[SliceReference(str(frame.instance.SOPInstanceUID), frame.number) for frame in frames],
        headers=_headers(frames),
        warnings=_warnings(frames),
    )


def check_headers(instances: Sequence[Dataset]) -> list[Frame]:
    """The frames of one complete stack, unordered; pixel data may be absent. Raises: InputRefused."""
    unique = {str(instance.SOPInstanceUID): instance for instance in instances}
    frames = [frame for instance in unique.values() for frame in frames_of(instance)]
    if len(frames) < FEWEST_SLICES:
        raise TooFewSlices(f"The series has {len(frames)} slices; a volume takes at least {FEWEST_SLICES}.")
    _check_alike(frames)
    _check_one_stack(frames)
    ordered = _ordered(frames)
    _check_spacing(ordered)
    _check_shear(ordered)
    return frames


def _normal(frame: Frame) -> Vector:
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def _along(frames: Sequence[Frame]) -> Vector:
    """Positions along the first frame's normal, mm."""
    return np.array([frame.position for frame in frames]) @ _normal(frames[0])


def _ordered(frames: Sequence[Frame]) -> list[Frame]:
    return [frames[index] for index in np.argsort(_along(frames), kind="stable")]


def _check_alike(frames: Sequence[Frame]) -> None:
    """All slices parallel, of one size, one spacing and one frame of reference."""
    first = frames[0]
    for frame in frames[1:]:
        cosines = np.sum(frame.orientation.reshape(2, 3) * first.orientation.reshape(2, 3), axis=1)
        if np.any(cosines < 1.0 - ORIENTATION_TOLERANCE):
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
    """No two slices at one place; where there are, say whether the series holds several volumes."""
    ordered = _ordered(frames)
    steps = np.diff(_along(ordered))
    typical = float(np.median(steps[steps > 0])) if np.any(steps > 0) else 0.0
    same = np.flatnonzero(steps <= SAME_PLACE * typical)
    if len(same) == 0:
        return
    one, other = ordered[same[0]], ordered[same[0] + 1]
    for keyword in DISCRIMINATORS:
        values = sorted({frame.labels.get(keyword, "missing") for frame in frames})
        if len(values) > 1 and one.labels.get(keyword) != other.labels.get(keyword):
            raise SeveralStacks(
                f"The series holds {len(values)} volumes: {tag_name(keyword)} is {' or '.join(values)}."
            )
    raise DuplicateSlices(
        f"{len(same) + 1} slices of {len(frames)} share their place with another: {one.name} and "
        f"{other.name} are both at {numbers_text(one.position)} mm ({tag_name('ImagePositionPatient')})."
    )


def _check_spacing(ordered: Sequence[Frame]) -> None:
    steps = np.diff(_along(ordered))
    typical = float(np.median(steps))
    widest = int(np.argmax(steps))
    if steps[widest] >= MISSING_FROM * typical:
        raise MissingSlices(
            f"{steps[widest]:.1f} mm between slices {widest + 1} and {widest + 2}, "
            f"{typical:.1f} mm elsewhere."
        )
    worst = int(np.argmax(np.abs(steps - typical)))
    if abs(steps[worst] - typical) > EVEN_WITHIN * typical:
        raise UnevenSlices(
            f"{steps[worst]:.2f} mm between slices {worst + 1} and {worst + 2}, {typical:.2f} mm elsewhere."
        )


def _check_shear(ordered: Sequence[Frame]) -> None:
    drift = ordered[-1].position - ordered[0].position
    sideways = drift - (drift @ _normal(ordered[0])) * _normal(ordered[0])
    if np.linalg.norm(sideways) > SHEAR_PIXELS * min(ordered[0].spacing_mm):
        raise GantryTilt(
            f"The slices drift {np.linalg.norm(sideways):.1f} mm sideways from the first to the last "
            f"({tag_name('ImagePositionPatient')}): the stack is sheared."
        )


def _affine(ordered: Sequence[Frame]) -> Vector:
    """Index (slice, row, column) -> LPS mm; the spacing of slices is the mean of the positions'."""
    first = ordered[0]
    along = _along(ordered)
    affine = np.eye(4)
    affine[:3, 0] = _normal(first) * (along[-1] - along[0]) / (len(ordered) - 1)
    affine[:3, 1] = first.orientation[3:] * first.spacing_mm[0]
    affine[:3, 2] = first.orientation[:3] * first.spacing_mm[1]
    affine[:3, 3] = first.position
    return affine


def _pixels(ordered: Sequence[Frame]) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """float32 (slices, rows, columns), decoded instance by instance."""
    place = {(id(frame.instance), frame.index): index for index, frame in enumerate(ordered)}
    shape = (len(ordered), int(ordered[0].instance.Rows), int(ordered[0].instance.Columns))
    array = np.empty(shape, dtype=np.float32)
    for instance in {id(frame.instance): frame.instance for frame in ordered}.values():
        for number, stored in enumerate(stored_values(instance)):
            index = place[id(instance), number]
            if stored.shape != shape[1:]:
                raise InconsistentImages(f"{ordered[index].name} decodes to {stored.shape}, not {shape[1:]}.")
            frame = ordered[index]
            if (frame.slope, frame.intercept) == (1.0, 0.0):
                array[index] = stored
            else:
                array[index] = stored * frame.slope + frame.intercept
    return array


def _headers(ordered: Sequence[Frame]) -> list[Dataset]:
    """Each instance once, in the order of its first slice, without its pixels."""
    headers = []
    for instance in {id(frame.instance): frame.instance for frame in ordered}.values():
        header = Dataset()
        header.update({element.tag: element for element in instance if element.tag != PIXEL_DATA})
        headers.append(header)
    return headers


def _warnings(ordered: Sequence[Frame]) -> list[str]:
    warnings = []
    if any(is_lossy(frame.instance) for frame in ordered):
        warnings.append(f"The images were compressed with loss ({tag_name('LossyImageCompression')} is 01).")
    if not text(ordered[0].instance, "FrameOfReferenceUID"):
        warnings.append(f"The series has no {tag_name('FrameOfReferenceUID')}; the SEG gets one of its own.")
    return warnings
