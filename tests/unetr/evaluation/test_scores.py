"""Overlap and surfaces against geometry that can be reckoned and against DeepMind's library; BraTS' rules."""

import highdicom as hd
import numpy as np
import pytest
import surface_distance

from unetr.evaluation.scores import Overlap, brats_mets, lesion_overlaps, match, overlap

FINE = (0.3, 0.2, 0.25)
RADIUS_MM = 6.0


def grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> hd.Volume:
    affine = np.diag([*spacing_mm, 1.0])
    return hd.Volume(np.zeros(shape, dtype=np.int32), affine, "PATIENT")


def sphere(volume: hd.Volume, offset_mm: np.ndarray, radius_mm: float) -> hd.Volume:
    """A sphere off the middle of the grid."""
    middle = (np.array(volume.spatial_shape) - 1) / 2 * volume.spacing
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.spatial_shape], indexing="ij"), -1)
    distance = np.linalg.norm(index * volume.spacing - middle - offset_mm, axis=-1)
    return volume.with_array((distance <= radius_mm).astype(np.int32))


def boxes(volume: hd.Volume, *corners: tuple[slice, slice, slice]) -> hd.Volume:
    """Boxes numbered from 1."""
    array = volume.array.copy()
    for number, corner in enumerate(corners, start=1):
        array[corner] = number
    return volume.with_array(array)


@pytest.fixture(scope="module")
def fine() -> hd.Volume:
    return grid((60, 90, 70), FINE)


@pytest.mark.parametrize("direction", np.eye(3), ids=["slices", "rows", "columns"])
@pytest.mark.parametrize("shift_mm", [1.5, 4.0])
def test_two_spheres_a_shift_apart_have_the_overlap_and_the_distances_of_geometry(fine, direction, shift_mm):
    result = overlap(sphere(fine, -direction * shift_mm / 2, RADIUS_MM),
                    sphere(fine, direction * shift_mm / 2, RADIUS_MM))  # fmt: skip
    lens = np.pi * (4 * RADIUS_MM + shift_mm) * (2 * RADIUS_MM - shift_mm) ** 2 / 12
    assert result.dice == pytest.approx(lens / (4 / 3 * np.pi * RADIUS_MM**3), abs=0.01)
    # A sphere's area is spread evenly over the cosine of the angle to the shift.
    cosine = np.linspace(-1, 1, 100_001)
    away = np.sqrt(RADIUS_MM**2 + shift_mm**2 - 2 * RADIUS_MM * shift_mm * cosine) - RADIUS_MM
    assert result.hd95_mm == pytest.approx(np.percentile(np.abs(away), 95), abs=max(FINE))
    assert result.surface_dice == pytest.approx(np.mean(np.abs(away) <= 1.0), abs=0.12)


@pytest.mark.parametrize(("gap_mm", "near"), [(0.5, 1.0), (2.0, 0.0)])
def test_concentric_spheres_are_their_gap_apart_everywhere(fine, gap_mm, near):
    result = overlap(sphere(fine, np.zeros(3), RADIUS_MM), sphere(fine, np.zeros(3), RADIUS_MM + gap_mm))
    small, large = RADIUS_MM**3, (RADIUS_MM + gap_mm) ** 3
    assert result.dice == pytest.approx(2 * small / (small + large), abs=0.01)
    assert result.hd95_mm == pytest.approx(gap_mm, abs=max(FINE))
    assert result.surface_dice == pytest.approx(near, abs=0.001)


@pytest.mark.parametrize(("axis", "distance_mm"), [(0, 5.0), (1, 1.0), (2, 2.0)])
def test_a_step_along_an_axis_is_as_long_as_the_voxel(axis, distance_mm):
    volume = grid((20, 30, 30), (5.0, 1.0, 2.0))
    first = boxes(volume, (slice(5, 12), slice(8, 20), slice(8, 20)))
    result = overlap(first, first.with_array(np.roll(first.array, 1, axis=axis)))
    assert result.hd95_mm == pytest.approx(distance_mm)


# The library is not kept: it imports SciPy's functions from where they are no longer.
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.9, 0.9), (0.8, 2.0, 1.1)])
def test_an_independent_library_says_the_same_of_ragged_regions(spacing_mm):
    rng = np.random.default_rng(4)
    volume = grid((24, 26, 28), spacing_mm)
    for _ in range(6):
        offsets, radii = rng.uniform(-3, 3, (2, 3)), rng.uniform(3, 7, 2)
        first, second = (sphere(volume, *pair) for pair in zip(offsets, radii, strict=True))
        second = second.with_array(second.array * (rng.random(volume.spatial_shape) > 0.15))
        result = overlap(first, second)
        theirs = surface_distance.compute_surface_distances(first.array > 0, second.array > 0, spacing_mm)
        assert result.hd95_mm == pytest.approx(
            surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-4
        )
        near = surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0)
        assert result.surface_dice == pytest.approx(near, abs=1e-4)
        dice = surface_distance.compute_dice_coefficient(first.array > 0, second.array > 0)
        assert result.dice == pytest.approx(dice)


def test_an_empty_region_has_no_surface_and_two_empty_ones_nothing_to_compare(fine):
    ball = sphere(fine, np.zeros(3), 5.0)
    assert overlap(ball, fine) == overlap(fine, ball) == Overlap(0.0, None, None)
    with pytest.raises(ValueError, match="both regions are empty"):
        overlap(fine, fine)


def test_each_lesion_is_compared_with_its_own_partner():
    volume = grid((12, 40, 40), (1.0, 1.0, 1.0))
    truth = boxes(volume, np.s_[2:6, 2:6, 2:6], np.s_[2:6, 20:24, 20:24])
    predicted = boxes(volume, np.s_[2:6, 20:24, 20:24], np.s_[2:6, 2:6, 2:4])
    scores = lesion_overlaps(truth, predicted, match(truth, predicted).partners)
    assert {number: score.dice for number, score in scores.items()} == {1: pytest.approx(2 / 3), 2: 1.0}
    assert (scores[2].hd95_mm, scores[2].surface_dice) == (0.0, 1.0)


def test_the_score_of_a_lesion_is_the_highest_at_which_enough_of_it_is_still_covered():
    volume = grid((4, 20, 20), (1.0, 1.0, 1.0))
    truth = boxes(volume, np.s_[1:2, 0:10, 0:10], np.s_[3:4, 0:10, 0:10])
    # Of the first lesion, 100 voxels: 4, 7 and 50 of them; of the second 9, too few.
    predicted = boxes(volume, np.s_[1:2, 0:1, 0:4], np.s_[1:2, 2:3, 0:7], np.s_[1:2, 5:10, 0:10],
                  np.s_[3:4, 0:1, 0:9])  # fmt: skip
    outcome = match(truth, predicted)
    assert outcome.score(1, {1: 0.9, 2: 0.8, 3: 0.3, 4: 0.99}) == 0.8
    assert outcome.score(1, {1: 0.2, 2: 0.8, 3: 0.3, 4: 0.99}) == 0.3
    assert outcome.score(2, {1: 0.9, 2: 0.8, 3: 0.3, 4: 0.99}) is None


def brats_truth() -> hd.Volume:
    return boxes(
        grid((10, 40, 40), (1.0, 1.0, 1.0)),
        np.s_[3:6, 3:6, 3:6],  # 27 mm3, found a voxel off
        np.s_[3:4, 20:21, 3:5],  # 2 mm3: left out
        np.s_[3:5, 30:32, 3:5],  # 8 mm3, missed
        np.s_[3:5, 3:5, 20:22],  # with the next one, a voxel away, one lesion of 16 mm3
        np.s_[3:5, 3:5, 23:25],
    )


def test_the_rules_of_brats_mets_on_an_example_reckoned_by_hand():
    predicted = boxes(
        grid((10, 40, 40), (1.0, 1.0, 1.0)),
        np.s_[3:6, 3:6, 4:7],  # 18 of 27 voxels in common: Dice 2/3, every surface within 1 mm
        np.s_[3:4, 20:21, 5:7],  # beside what is left out: no false positive
        np.s_[3:5, 3:5, 20:22],  # half of the joined lesion: Dice 16/24, its far face 3 mm away
        np.s_[7:9, 35:37, 35:37],  # a false positive
    )
    scores = brats_mets(brats_truth(), predicted)
    assert (scores.found, scores.missed, scores.false) == (2, 1, 1)
    assert scores.dice == pytest.approx((2 / 3 + 0 + 2 / 3 + 0) / 4)
    assert scores.hd95_mm == pytest.approx((1.0 + 374.0 + 3.0 + 374.0) / 4)


def test_for_brats_what_touches_only_the_dilated_lesion_is_its_own_and_no_false_positive():
    truth = boxes(grid((10, 20, 20), (1.0, 1.0, 1.0)), np.s_[3:6, 3:6, 3:6])
    beside = boxes(truth.with_array(truth.array * 0), np.s_[3:6, 3:6, 6:9])
    scores = brats_mets(truth, beside)
    assert (scores.dice, scores.found, scores.missed, scores.false) == (0.0, 1, 0, 0)
    assert scores.hd95_mm == pytest.approx(3.0)
    # On slices of 3 mm the dilation, of a distance, does not reach the next slice.
    thick = grid((10, 20, 20), (3.0, 1.0, 1.0))
    scores = brats_mets(boxes(thick, np.s_[3:6, 3:6, 3:6]), boxes(thick, np.s_[6:8, 3:6, 3:6]))
    assert (scores.found, scores.missed, scores.false) == (0, 1, 1)


def test_for_brats_a_head_without_a_lesion_is_perfect_where_nothing_is_found():
    empty = grid((10, 20, 20), (1.0, 1.0, 1.0))
    scores = brats_mets(empty, empty)
    assert (scores.dice, scores.hd95_mm) == (1.0, 0.0)
    invented = brats_mets(empty, boxes(empty, np.s_[3:6, 3:6, 3:6]))
    assert (invented.dice, invented.hd95_mm, invented.false) == (0.0, 374.0, 1)


def test_volumes_on_different_grids_are_not_compared():
    first, second = grid((10, 20, 20), (1.0, 1.0, 1.0)), grid((10, 20, 20), (1.0, 1.0, 1.1))
    for compare in (overlap, match, brats_mets):
        with pytest.raises(ValueError, match="different grids"):
            compare(first, second)
