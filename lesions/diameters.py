"""Longest in-plane diameter of a lesion and the diameter perpendicular to it, at sub-pixel precision.

A binary mask locates an edge only to half a pixel. The longest of many chords would therefore be
systematically too long. So each slice is smoothed by a Gaussian of one pixel and contoured at the level that
encloses the lesion's own area, so that smoothing does not shrink small lesions. The remaining bias is
printed by ``python -m bench.metrology`` and tabulated in docs/measurement.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from errors import EmptyLesion

Array = NDArray[Any]

SMOOTHING_PX = 1.0
MARGIN_PX = 4
SAME_LENGTH_MM = 1e-6
# Value of a smoothed straight edge half a pixel outside, relative to the contour's level.
HALF_PIXEL_OUTSIDE = float(ndtr(-0.5 / SMOOTHING_PX) / ndtr(0.0))
IN_PLANE_NEIGHBOURS = np.array([[[0, 0, 0], [0, 0, 0], [0, 0, 0]],
                                [[0, 1, 0], [1, 1, 1], [0, 1, 0]],
                                [[0, 0, 0], [0, 0, 0], [0, 0, 0]]], dtype=bool)  # fmt: skip
SLICES_AT_ONCE = 8
CALIPER_DIRECTIONS = 8
# A contour of more vertices is a failed segmentation; thinning it keeps the pairwise search bounded.
MAX_VERTICES = 2000
SAMPLES_PER_PX = 2


@dataclass(frozen=True)
class Diameters:
    """Chords of one slice. End points: float (2, 3), (slice, row, column) indices of the measured volume."""

    slice_index: int
    long_axis: Array
    short_axis: Array
    long_axis_mm: float
    short_axis_mm: float
    feret_mm: float


@dataclass(frozen=True)
class _Outline:
    """A lesion's outline on one slice: a field (rows, columns) whose contour at `level` is the border."""

    slice_index: int
    field: Array
    level: float
    pixel_spacing_mm: Array

    def sample(self, points: Array) -> Array:
        """Return the field at `points` (..., 2), which are (row, column) pixels."""
        value: Array = ndimage.map_coordinates(self.field, np.moveaxis(points, -1, 0), order=1)
        return value

    def vertices(self) -> Array:
        """Return the points (n, 2) where the contour crosses a line between neighbouring pixel centres."""
        crossings = []
        for axis in (0, 1):
            field = self.field if axis == 0 else self.field.T
            inside = field >= self.level
            before = np.nonzero(inside[1:] != inside[:-1])
            low, high = field[:-1][before], field[1:][before]
            point = np.stack(before, axis=-1).astype(float)
            point[:, 0] += (self.level - low) / (high - low)
            crossings.append(point if axis == 0 else point[:, ::-1])
        vertices = np.concatenate(crossings)
        return vertices[:: -(-len(vertices) // MAX_VERTICES)]


def find_diameters(lesion: hd.Volume) -> Diameters:
    """Measure long axis, short axis and Feret diameter of one lesion in the planes of the first axis.

    lesion: (slices, rows, columns), the lesion's share of each voxel in 0..1 (a mask is 0 and 1).
    Long axis: over all slices the longest chord that stays inside the lesion to within half a pixel.
    Holes of a slice count as lesion: a ring-enhancing lesion is measured from outer edge to outer edge.
    Short axis: in the same slice the longest inner chord perpendicular to the long axis. Feret: in the
    same slice the longest distance between two points of the border, inside the lesion or not.
    If a slice has no pixel with four neighbours (one voxel, a row), the mask itself is contoured, so
    that n pixels in a row measure n times their spacing.
    Raises: EmptyLesion if no voxel belongs to the lesion by half or more.
    After Lin et al., Lancet Oncol 2015;16:e270 (longest diameter and its perpendicular, axial plane).
    """
    longest = 0.0
    best: tuple[_Outline, Array, float] | None = None
    for outline, upper_bound_mm in _outlines(lesion):
        if upper_bound_mm < longest:
            break
        measurement = _longest_inside(outline, longest + SAME_LENGTH_MM)
        if measurement is not None:
            chords, longest, feret_mm = measurement
            best = (outline, chords, feret_mm)
    if best is None:
        raise EmptyLesion(f"No voxel of {lesion.array.size} belongs to the lesion.")
    outline, chords, feret_mm = best
    # A symmetric lesion has several longest chords; the one with the longest perpendicular is reported.
    perpendiculars = [_longest_perpendicular(outline, chord) for chord in chords]
    chosen = int(np.argmax([round(length, 6) for _, length in perpendiculars]))
    short_axis, short_axis_mm = perpendiculars[chosen]
    if short_axis_mm > longest:
        # On a disc the freely placed perpendicular can slightly exceed the best pair of vertices.
        middle = short_axis.mean(axis=0)
        short_axis, short_axis_mm = middle + (short_axis - middle) * longest / short_axis_mm, longest
    return Diameters(
        slice_index=outline.slice_index,
        long_axis=_with_slice(outline, chords[chosen]),
        short_axis=_with_slice(outline, short_axis),
        long_axis_mm=longest,
        short_axis_mm=short_axis_mm,
        feret_mm=feret_mm,
    )


def _with_slice(outline: _Outline, chord: Array) -> Array:
    return np.column_stack([np.full(2, float(outline.slice_index)), chord - MARGIN_PX])


def _outlines(lesion: hd.Volume) -> Iterator[tuple[_Outline, float]]:
    """Yield the outlines of the slices, the widest first, each with a bound (mm) on its and later chords."""
    spacing_mm = np.array(lesion.pixel_spacing)
    indices, bounds_mm = _slices_by_width(lesion.array, spacing_mm)
    for first in range(0, len(indices), SLICES_AT_ONCE):
        block = indices[first : first + SLICES_AT_ONCE]
        padding = [(0, 0), (MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX)]
        share = np.pad(lesion.array[block].astype(float), padding)
        solid = share >= 0.5
        filled = ndimage.binary_fill_holes(solid, structure=IN_PLANE_NEIGHBOURS)
        share[filled & ~solid] = 1.0
        has_core = ndimage.binary_erosion(filled, structure=IN_PLANE_NEIGHBOURS).any(axis=(1, 2))
        smooth = ndimage.gaussian_filter(share, SMOOTHING_PX, mode="constant", axes=(1, 2))
        for k, index in enumerate(block):
            field = smooth[k] if has_core[k] else share[k]
            level = _level_of_area(field, share[k].sum()) if has_core[k] else 0.5
            yield _Outline(int(index), field, level, spacing_mm), float(bounds_mm[first + k])


def _slices_by_width(share: Array, spacing_mm: Array) -> tuple[Array, Array]:
    """Return the slices that hold the lesion, the widest first, and an upper bound of their chords in mm."""
    slices, rows, columns = np.nonzero(share >= 0.5)
    if not len(slices):
        return slices, np.empty(0)
    starts = np.flatnonzero(np.diff(slices, prepend=-1))
    width_mm = np.zeros(len(starts))
    for angle in np.arange(CALIPER_DIRECTIONS) * np.pi / CALIPER_DIRECTIONS:
        position = rows * spacing_mm[0] * np.sin(angle) + columns * spacing_mm[1] * np.cos(angle)
        caliper = np.maximum.reduceat(position, starts) - np.minimum.reduceat(position, starts)
        width_mm = np.maximum(width_mm, caliper)
    # Between two caliper directions the width is off by this cosine at most; the contour runs
    # less than a pixel outside the outermost pixel centres.
    bounds_mm = width_mm / np.cos(np.pi / (2 * CALIPER_DIRECTIONS)) + 2 * spacing_mm.max()
    from_middle = np.abs(slices[starts] - slices.mean())
    order = np.lexsort([from_middle.round(6), -bounds_mm.round(6)])
    return slices[starts][order], bounds_mm[order]


def _level_of_area(field: Array, area_px: float) -> float:
    """Return the level at which as many pixels are inside as the lesion has."""
    inside = max(1, round(area_px))
    descending = np.sort(field, axis=None)[::-1]
    # Pixels that are equal by symmetry differ by rounding errors; the small step includes them all.
    return float(descending[inside - 1] + descending[inside]) / 2 - 1e-9


def _longest_inside(outline: _Outline, longer_than_mm: float) -> tuple[Array, float, float] | None:
    """Return the longest chords (n, 2, 2) inside the outline, their common length and the Feret, mm.

    None if they are not longer than ``longer_than_mm``.
    """
    vertices = outline.vertices()
    y_mm, x_mm = (vertices * outline.pixel_spacing_mm).T
    lengths_mm = np.sqrt((y_mm[:, None] - y_mm) ** 2 + (x_mm[:, None] - x_mm) ** 2)
    feret_mm = float(lengths_mm.max())
    if feret_mm <= longer_than_mm:
        return None
    # In a convex lesion the Feret chord itself stays inside, and no other needs to be tested.
    for floor_mm in (max(feret_mm - SAME_LENGTH_MM, longer_than_mm), longer_than_mm):
        first, second = np.nonzero(np.triu(lengths_mm > floor_mm))
        plausible = _inner_points_near(outline, vertices, first, second)
        first, second = first[plausible], second[plausible]
        order = np.argsort(-lengths_mm[first, second], kind="stable")
        first, second = first[order], second[order]
        chords = np.stack([vertices[first], vertices[second]], axis=1)
        chords, longest_mm = _first_inside(outline, chords, lengths_mm[first, second])
        if len(chords):
            return chords, longest_mm, feret_mm
    return None


def _first_inside(outline: _Outline, chords: Array, lengths_mm: Array) -> tuple[Array, float]:
    """Return the longest chords inside the outline, equal in length, and that length; empty without any.

    chords: sorted from the longest down.
    """
    start, size = 0, 16
    while start < len(chords):
        inside = np.flatnonzero(_stay_inside(outline, chords[start : start + size]))
        if len(inside):
            longest_mm = float(lengths_mm[start + inside[0]])
            equal = chords[(lengths_mm <= longest_mm) & (lengths_mm >= longest_mm - SAME_LENGTH_MM)]
            return equal[_stay_inside(outline, equal)], longest_mm
        start, size = start + size, min(4 * size, 16384)
    return chords[:0], 0.0


def _inner_points_near(outline: _Outline, vertices: Array, first: Array, second: Array) -> Array:
    """Return the positions of the pairs whose chord has three inner points that may be inside.

    This is cheap, because it only looks at the four pixels around each point. In a C-shape it rejects nearly
    all of the many chords that are longer than the answer.
    """
    tolerated = outline.field >= outline.level * HALF_PIXEL_OUTSIDE
    around = tolerated[:-1, :-1] | tolerated[1:, :-1] | tolerated[:-1, 1:] | tolerated[1:, 1:]
    alive = np.arange(len(first))
    for t in (0.5, 0.25, 0.75):
        points = vertices[first[alive]] * (1 - t) + vertices[second[alive]] * t
        rows, columns = points.astype(np.intp).T
        alive = alive[around[rows, columns]]
    return alive


def _stay_inside(outline: _Outline, chords: Array) -> Array:
    """Return which chords (n, 2, 2) leave the outline nowhere by more than half a pixel: bool (n,)."""
    # The same samples for every chord of a slice, so that a chord tested twice gets the same result.
    steps = SAMPLES_PER_PX * int(np.hypot(*outline.field.shape)) + 1
    alive = np.arange(len(chords))
    # A few samples reject most of the chords that leave the outline.
    for stride in (8, 1):
        t = np.linspace(0, 1, steps)[::stride, None, None]
        points = chords[alive, 0] * (1 - t) + chords[alive, 1] * t
        alive = alive[outline.sample(points).min(axis=0) >= outline.level * HALF_PIXEL_OUTSIDE]
    stays = np.zeros(len(chords), dtype=bool)
    stays[alive] = True
    return stays


def _longest_perpendicular(outline: _Outline, chord: Array) -> tuple[Array, float]:
    """Return the longest chord (2, 2) inside the outline perpendicular to `chord`, and its length in mm."""
    spacing_mm = outline.pixel_spacing_mm
    ends_mm = chord * spacing_mm
    middle_mm = ends_mm.mean(axis=0)
    along = (ends_mm[1] - ends_mm[0]) / np.linalg.norm(ends_mm[1] - ends_mm[0])
    across = np.array([-along[1], along[0]])
    step_mm = spacing_mm.min() / SAMPLES_PER_PX
    border_mm = outline.vertices() * spacing_mm - middle_mm
    lines, places = (
        np.arange(-reach, reach + 1) * step_mm
        for reach in (int(np.abs(border_mm @ axis).max() / step_mm) + 2 for axis in (along, across))
    )
    points_mm = middle_mm + lines[:, None, None] * along + places[None, :, None] * across
    value = outline.sample(points_mm / spacing_mm)
    first, last = _runs(value, outline.level)
    line = first // len(places)
    flat = value.ravel()
    begin, end = (
        places[edge % len(places)]
        + outward * step_mm * (flat[edge] - outline.level) / (flat[edge] - flat[edge + outward])
        for edge, outward in ((first, -1), (last, 1))
    )
    k = int(np.argmax((end - begin).round(6)))
    ends = middle_mm + lines[line[k]] * along + np.array([begin[k], end[k]])[:, None] * across
    return ends / spacing_mm, float(end[k] - begin[k])


def _runs(value: Array, level: float) -> tuple[Array, Array]:
    """Return flat indices of the first and last inner sample of each unbroken run along the lines (rows)."""
    outside = value < level * HALF_PIXEL_OUTSIDE
    outside[:, 0] = True
    run = np.cumsum(outside)
    inside = np.flatnonzero(value >= level)
    starts = np.flatnonzero(np.diff(run[inside], prepend=-1))
    return inside[starts], inside[np.append(starts[1:], len(inside)) - 1]
