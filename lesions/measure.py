"""Lesions of a mask: its connected components, and the measurements that are stored for each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from errors import EmptyLesion, TooManyLesions
from imaging.grid import MM3_PER_ML
from imaging.stack import SliceReference
from lesions.axial import is_near_axial, to_axial
from lesions.diameters import Diameters, find_diameters
from lesions.measurability import PROTOCOL_LD_MM, judge

# Segment Number is a 16-bit number.
MAX_LESIONS = 65535
# Points that differ by less are equal.
POINT_DECIMALS = 4
Point = tuple[float, float, float]
Line = tuple[Point, Point]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Identity:
    """The lasting identity of a lesion: name, tracking identifier and tracking UID of its SEG segment."""

    name: str
    tracking_id: str
    tracking_uid: str


@dataclass(frozen=True)
class MeasuredSlice:
    """The acquired slice on which the diameters lie; all fields None for a resampled one.

    frame: 1-based, of a multi-frame image. index: along the volume's first axis, from 0.
    """

    sop_instance_uid: str | None = None
    frame: int | None = None
    index: int | None = None


@dataclass(frozen=True)
class Plane:
    """The resampled plane on which the diameters lie: its first pixel, its normal and its pixels' size."""

    origin_lps_mm: Point
    normal_lps: Point
    spacing_mm: float


@dataclass(frozen=True)
class Lesion:
    """One lesion's measurements. Lengths in mm, positions in LPS mm, indices (slice, row, column).

    number: its label. long_axis_lps, short_axis_lps: end points. slices_spanned: acquired slices with at
    least one voxel. bounding_box: first and last index, both inclusive. mean_probability: over the
    lesion's voxels, None without a probability volume. confidence: the probability of being a lesion, set by
    the caller; None from ``measure``. plane: None if measured in the acquisition.
    """

    number: int
    name: str
    tracking_id: str
    tracking_uid: str
    volume_ml: float
    voxel_count: int
    long_axis_mm: float
    short_axis_mm: float
    feret_mm: float
    long_axis_lps: Line
    short_axis_lps: Line
    slice: MeasuredSlice
    measurement_plane: str
    plane: Plane | None
    slices_spanned: int
    centroid_lps_mm: Point
    bounding_box: dict[str, tuple[int, int, int]]
    mean_probability: float | None
    confidence: float | None
    measurable: bool
    measurable_reason: str


def components(mask: hd.Volume) -> hd.Volume:
    """Number the 26-connected components of a mask: int32, 1..n, the largest first.

    mask: (slices, rows, columns), bool or integer; neighbouring voxels of different values belong to
    different components. Equally large components are ordered by where their boxes start (slice, row,
    column).
    """
    box = _occupied_box(mask.array)
    array = np.ascontiguousarray(mask.array[box])
    component_numbers = cc3d.connected_components(array, connectivity=26, out_dtype=np.uint32)
    statistics = cc3d.statistics(component_numbers, no_slice_conversion=True)
    sizes = statistics["voxel_counts"][1:].astype(np.int64)
    starts = statistics["bounding_boxes"][1:, 0::2]
    order = np.lexsort([*starts.T[::-1], -sizes])
    numbers = np.zeros(len(sizes) + 1, dtype=np.int32)
    numbers[order + 1] = np.arange(1, len(sizes) + 1)
    labels = np.zeros(mask.spatial_shape, dtype=np.int32)
    labels[box] = numbers[component_numbers]
    return mask.with_array(labels)


def objects(mask: hd.Volume, whole: Collection[int]) -> tuple[hd.Volume, dict[int, int]]:
    """Number the objects of a mask of several labels, and return the label's value of each.

    mask: as for ``components``. whole: values whose voxels are all one object; for other values each
    component is one. Returns int32, 1..n, by value, then the largest first.
    """
    parts = components(mask)
    box = _occupied_box(parts.array)
    value_of = np.zeros(int(parts.array[box].max()) + 1, dtype=np.int64)
    value_of[parts.array[box]] = mask.array[box]
    numbers = np.zeros(len(value_of), dtype=np.int32)
    values: dict[int, int] = {}
    for part in sorted(range(1, len(value_of)), key=lambda part: (value_of[part], part)):
        value = int(value_of[part])
        if value not in whole or value not in values.values():
            values[len(values) + 1] = value
        numbers[part] = len(values)
    return mask.with_array(numbers[parts.array]), values


def measure(
    labels: hd.Volume,
    slices: Sequence[SliceReference],
    probability: hd.Volume | None = None,
    measurable_ld_mm: float = PROTOCOL_LD_MM,
    identities: Mapping[int, Identity] | None = None,
) -> list[Lesion]:
    """Measure each label of a volume, in the order of the labels.

    labels: integer (slices, rows, columns), 0 outside the lesions. slices: one per slice. probability: of
    lesion, 0..1, on the same grid. identities: of lesions known before, by label; the others are named
    "Metastasis n" and tracked as "BM-n" under a new UID.
    Raises: TooManyLesions; EmptyLesion if an identity is given for a label without voxels; ValueError if
    slices or probability do not fit the labels.
    """
    if (count := int(labels.array.max(initial=0))) > MAX_LESIONS:
        raise TooManyLesions(f"The segmentation has {count} lesions; a SEG can hold {MAX_LESIONS}.")
    if len(slices) != labels.spatial_shape[0]:
        raise ValueError(f"{len(slices)} slice references for {labels.spatial_shape[0]} slices")
    if probability is not None and not labels.geometry_equal(probability):
        raise ValueError("labels and probability lie on different grids")
    identities = identities or {}
    present = _boxes(labels.array)
    for number in identities:
        if number not in present:
            raise EmptyLesion(f"Label {number} has no voxels.")
    return [
        _measure_one(
            _Region(labels, number, box),
            slices,
            None if probability is None else probability.array[box],
            measurable_ld_mm,
            identities.get(number) or Identity(f"Metastasis {number}", f"BM-{number}", str(hd.UID())),
        )
        for number, box in present.items()
    ]


def _occupied_box(array: NDArray[Any]) -> Box:
    """Return the smallest box that holds every voxel that is not zero; one voxel if all are zero."""
    occupied = array != 0
    planes = [np.flatnonzero(occupied.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    first, second, third = (slice(at[0], at[-1] + 1) if len(at) else slice(0, 1) for at in planes)
    return first, second, third


def _boxes(labels: NDArray[Any]) -> dict[int, Box]:
    """Return the box of each label present."""
    # A brain fills a quarter of its volume, so searching only its box is faster.
    outer = _occupied_box(labels)
    return {
        number: _shift(box, outer)
        for number, box in enumerate(ndimage.find_objects(labels[outer]), start=1)
        if box is not None
    }


def _shift(box: Box, outer: Box) -> Box:
    first, second, third = (
        slice(inner.start + whole.start, inner.stop + whole.start)
        for inner, whole in zip(box, outer, strict=True)
    )
    return first, second, third


class _Region:
    """The voxels of one label in their box."""

    def __init__(self, labels: hd.Volume, number: int, box: Box) -> None:
        self.number = number
        self.first = np.array([extent.start for extent in box])
        self.last = np.array([extent.stop - 1 for extent in box])
        self.mask = labels.array[box] == number
        affine = labels.affine
        affine[:3, 3] += affine[:3, :3] @ self.first
        self.volume = hd.Volume(self.mask, affine, "PATIENT", labels.frame_of_reference_uid)


def _measure_one(
    region: _Region,
    slices: Sequence[SliceReference],
    probability: NDArray[Any] | None,
    measurable_ld_mm: float,
    identity: Identity,
) -> Lesion:
    mask = region.mask
    voxel_count = int(mask.sum())
    acquired = is_near_axial(region.volume)
    measured = region.volume if acquired else to_axial(region.volume)
    diameters = find_diameters(measured)
    slices_spanned = int(mask.any(axis=(1, 2)).sum())
    measurable, reason = judge(
        diameters.long_axis_mm,
        diameters.short_axis_mm,
        slices_spanned,
        region.volume.spacing_between_slices,
        measurable_ld_mm,
    )
    return Lesion(
        number=region.number,
        name=identity.name,
        tracking_id=identity.tracking_id,
        tracking_uid=identity.tracking_uid,
        volume_ml=voxel_count * region.volume.voxel_volume / MM3_PER_ML,
        voxel_count=voxel_count,
        long_axis_mm=diameters.long_axis_mm,
        short_axis_mm=diameters.short_axis_mm,
        feret_mm=diameters.feret_mm,
        long_axis_lps=_line(measured, diameters.long_axis),
        short_axis_lps=_line(measured, diameters.short_axis),
        slice=_acquired_slice(region, slices, diameters) if acquired else MeasuredSlice(),
        measurement_plane="acquisition" if acquired else "resampled_axial",
        plane=None if acquired else _plane(measured, diameters),
        slices_spanned=slices_spanned,
        centroid_lps_mm=_point(_to_lps(region.volume, np.argwhere(mask).mean(axis=0))),
        bounding_box={"first": _index(region.first), "last": _index(region.last)},
        mean_probability=None if probability is None else float(probability[mask].mean()),
        confidence=None,
        measurable=measurable,
        measurable_reason=reason,
    )


def _acquired_slice(region: _Region, slices: Sequence[SliceReference], diameters: Diameters) -> MeasuredSlice:
    index = int(region.first[0]) + diameters.slice_index
    return MeasuredSlice(slices[index].sop_instance_uid, slices[index].frame, index)


def _plane(measured: hd.Volume, diameters: Diameters) -> Plane:
    origin = _to_lps(measured, np.array([diameters.slice_index, 0, 0]))
    return Plane(_point(origin), _point(measured.unit_vectors()[0]), measured.spacing_between_slices)


def _line(volume: hd.Volume, ends: NDArray[Any]) -> Line:
    """Return the end points in LPS mm, the one further to the patient's right first."""
    first, second = sorted((_point(_to_lps(volume, end)) for end in ends), key=_round)
    return first, second


def _to_lps(volume: hd.Volume, index: NDArray[Any]) -> NDArray[Any]:
    position: NDArray[Any] = volume.map_indices_to_reference(np.atleast_2d(index).astype(float))[0]
    return position


def _point(position: NDArray[Any]) -> Point:
    x, y, z = (float(value) for value in position)
    return x, y, z


def _index(position: NDArray[Any]) -> tuple[int, int, int]:
    first, second, third = (int(value) for value in position)
    return first, second, third


def _round(point: Point) -> list[float]:
    return [round(value, POINT_DECIMALS) for value in point]
