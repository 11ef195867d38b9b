"""Scores of a prediction against the truth: overlap, surface distances in mm, lesions found.

Volumes are (slice, row, column) on one grid, of any spacing. Surfaces are MONAI's sub-voxel surfaces, whose
elements are weighted by area, as in Nikolov et al., J Med Internet Res 2021;23:e26151.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cc3d
import highdicom as hd
import numpy as np
import torch
from monai.metrics.utils import get_mask_edges, get_surface_distance
from numpy.typing import NDArray
from scipy import ndimage

HIT_FRACTION = 0.1
PERCENTILE = 95.0
TOLERANCE_MM = 1.0
# BraTS-METS: HD95 of a missed lesion or false positive; lesions up to this volume are ignored.
PENALTY_MM = 374.0
IGNORED_MM3 = 2.0
# BraTS-METS's dilation by 18 neighbours on a 1 mm grid, i.e. the voxels within this distance.
REACH_MM = 2.0**0.5
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Match:
    """The match of true and predicted lesions; the first three fields are by true lesion number.

    covered: the fraction of its voxels that were predicted. shares: the fraction that each predicted lesion
    touching it covers. partners: the predicted lesion that overlaps it most. false_numbers: the predicted
    lesions that touch no true lesion.
    """

    covered: Mapping[int, float]
    shares: Mapping[int, Mapping[int, float]]
    partners: Mapping[int, int]
    false_numbers: tuple[int, ...]

    def found(self, number: int) -> bool:
        """Tell whether predicted components cover at least a tenth of the true lesion's volume."""
        return self.covered[number] >= HIT_FRACTION

    def score(self, number: int, scores: Mapping[int, float]) -> float | None:
        """Return the highest threshold at which the predicted lesions that reach it still find a true lesion.

        scores: by predicted lesion. None if even all of them together do not find it.
        """
        covered = 0.0
        for predicted in sorted(self.shares[number], key=lambda predicted: -scores[predicted]):
            covered += self.shares[number][predicted]
            if covered >= HIT_FRACTION:
                return scores[predicted]
        return None


def match(truth: hd.Volume, predicted: hd.Volume) -> Match:
    """Match two label volumes (lesion numbers, 0 elsewhere) on one grid. Raises: ValueError."""
    _same_grid(truth, predicted)
    counts = _overlaps(truth.array, predicted.array)
    sizes = counts.sum(axis=1)
    present = [number for number in range(1, len(counts)) if sizes[number]]
    hits = {number: counts[number, 1:] for number in present}
    return Match(
        covered={number: float(hits[number].sum() / sizes[number]) for number in present},
        shares={
            number: {
                int(index) + 1: float(hits[number][index] / sizes[number])
                for index in np.flatnonzero(hits[number])
            }
            for number in present
        },
        partners={number: int(hits[number].argmax()) + 1 for number in present if hits[number].sum()},
        false_numbers=tuple(
            number
            for number in range(1, counts.shape[1])
            if counts[:, number].any() and not counts[1:, number].any()
        ),
    )


@dataclass(frozen=True)
class Overlap:
    """The overlap of two regions.

    dice: twice the common volume over the sum of the volumes. hd95_mm: 95th percentile by area of the
    distances from each surface to the other, the larger of both. surface_dice: the share of both surfaces'
    area within 1 mm of the other (NSD). hd95_mm, surface_dice: None if a region is empty.
    """

    dice: float
    hd95_mm: float | None
    surface_dice: float | None


def overlap(truth: hd.Volume, predicted: hd.Volume) -> Overlap:
    """Compare two regions (non-zero voxels) on one grid. Raises: ValueError if both are empty."""
    _same_grid(truth, predicted)
    box = _occupied((truth.array != 0) | (predicted.array != 0))
    if box is None:
        raise ValueError("there is nothing to compare: both regions are empty")
    return _overlap(truth.array[box] != 0, predicted.array[box] != 0, truth.spacing)


@dataclass(frozen=True)
class LesionWise:
    """The scores of one case by the rules of BraTS-METS: means over lesions, and the counts of lesions."""

    dice: float
    hd95_mm: float
    found: int
    missed: int
    false: int


def brats_mets(truth: hd.Volume, predicted: hd.Volume) -> LesionWise:
    """Compute lesion-wise Dice and HD95 by the rules of BraTS-METS 2023 (Moawad et al., arXiv 2306.00838).

    True voxels in one component (26 neighbours) after a dilation by a voxel of 1 mm (18 neighbours) are one
    lesion; on other grids the dilation is by the same distance. All predicted components that touch the
    dilated lesion are compared together with the undilated lesion; a component may count for two lesions. A
    lesion without a component and a component without a lesion count as Dice 0 and HD95 374 mm. True lesions
    of 2 mm3 or less, and components that touch only them, are ignored. If nothing is counted, Dice is 1 and
    HD95 0 mm. truth, predicted: lesion numbers, 0 elsewhere; predicted: 26-connected. Raises: ValueError.
    """
    _same_grid(truth, predicted)
    lesions, reached = _joined(truth)
    counts = _overlaps(reached, predicted.array)
    true_boxes, predicted_boxes = ndimage.find_objects(lesions), ndimage.find_objects(predicted.array)
    false = sum(int(counts[0, k] > 0 and not counts[1:, k].any()) for k in range(1, counts.shape[1]))
    dice, hd95_mm, hits, misses = [0.0] * false, [PENALTY_MM] * false, 0, 0
    for number, true_box in enumerate(true_boxes, start=1):
        touching = np.flatnonzero(counts[number, 1:]) + 1
        region = lesions[true_box] == number
        if region.sum() * truth.voxel_volume <= IGNORED_MM3:
            continue
        hits, misses = hits + int(len(touching) > 0), misses + int(len(touching) == 0)
        if not len(touching):
            dice.append(0.0)
            hd95_mm.append(PENALTY_MM)
            continue
        box = _union([true_box, *(predicted_boxes[k - 1] for k in touching)])
        compared = _overlap(lesions[box] == number, np.isin(predicted.array[box], touching), truth.spacing)
        dice.append(compared.dice)
        hd95_mm.append(PENALTY_MM if compared.hd95_mm is None else compared.hd95_mm)
    if not dice:
        return LesionWise(1.0, 0.0, 0, 0, 0)
    return LesionWise(float(np.mean(dice)), float(np.mean(hd95_mm)), hits, misses, false)


def lesion_overlaps(
    truth: hd.Volume, predicted: hd.Volume, partners: Mapping[int, int]
) -> dict[int, Overlap]:
    """Compare each true lesion with its partner, by the true lesion's number. Volumes hold lesion numbers."""
    _same_grid(truth, predicted)
    true_boxes, predicted_boxes = ndimage.find_objects(truth.array), ndimage.find_objects(predicted.array)
    overlaps = {}
    for number, partner in partners.items():
        box = _union([true_boxes[number - 1], predicted_boxes[partner - 1]])
        overlaps[number] = _overlap(
            truth.array[box] == number, predicted.array[box] == partner, truth.spacing
        )
    return overlaps


def _joined(truth: hd.Volume) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lesions numbered as joined by dilation, and the dilated lesions with the same numbers."""
    spacing_mm = np.array(truth.spacing)
    radius = np.floor(REACH_MM / spacing_mm + 1e-6).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in radius], indexing="ij"), -1)
    ball = np.linalg.norm(offsets * spacing_mm, axis=-1) <= REACH_MM + 1e-6
    reached = np.zeros(truth.spatial_shape, dtype=np.int32)
    box = _occupied(truth.array != 0)
    if box is not None:
        wide = _wider(box, radius, truth.spatial_shape)
        dilated = ndimage.binary_dilation(truth.array[wide] != 0, structure=ball)
        reached[wide] = cc3d.connected_components(dilated, connectivity=26, out_dtype=np.uint32)
    return np.where(truth.array != 0, reached, 0), reached


def _overlap(truth: NDArray[Any], predicted: NDArray[Any], spacing_mm: tuple[float, ...]) -> Overlap:
    both = int(truth.sum()) + int(predicted.sum())
    dice = 2.0 * int((truth & predicted).sum()) / both
    if not truth.any() or not predicted.any():
        return Overlap(dice, None, None)
    edges_a, edges_b, areas_a, areas_b = get_mask_edges(
        torch.from_numpy(predicted), torch.from_numpy(truth), spacing=spacing_mm
    )
    sides = [
        (
            np.asarray(get_surface_distance(edges, other_edges, spacing=spacing_mm), dtype=float),
            np.asarray(areas[edges], dtype=float),
        )
        for edges, other_edges, areas in ((edges_a, edges_b, areas_a), (edges_b, edges_a, areas_b))
    ]
    near = sum(float(area[away <= TOLERANCE_MM].sum()) for away, area in sides)
    whole = sum(float(area.sum()) for _, area in sides)
    return Overlap(dice, max(_percentile(away, area) for away, area in sides), near / whole)


def _percentile(distances: NDArray[Any], areas: NDArray[Any]) -> float:
    """Return the distance within which 95 % of the area lies."""
    order = np.argsort(distances)
    share = np.cumsum(areas[order]) / areas.sum()
    reached = int(np.searchsorted(share, PERCENTILE / 100.0))
    return float(distances[order][min(reached, len(order) - 1)])


def _overlaps(truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.int64]:
    """Count the voxels with each pair of numbers: (true numbers, predicted numbers), from 0."""
    rows, columns = int(truth.max()) + 1, int(predicted.max()) + 1
    pairs = truth.astype(np.int64).ravel() * columns + predicted.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def _occupied(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box that contains the mask; None if it is empty."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else None


def _wider(box: Box, margin: NDArray[Any], shape: tuple[int, ...]) -> Box:
    first, second, third = (
        slice(max(side.start - int(more), 0), min(side.stop + int(more), size))
        for side, more, size in zip(box, margin, shape, strict=True)
    )
    return first, second, third


def _union(boxes: list[Box]) -> Box:
    first, second, third = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*boxes, strict=True)
    )
    return first, second, third


def _same_grid(truth: hd.Volume, predicted: hd.Volume) -> None:
    if not truth.geometry_equal(predicted):
        raise ValueError("truth and prediction are on different grids")
