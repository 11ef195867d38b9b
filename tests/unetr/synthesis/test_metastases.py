"""Synthetic heads: the truth is where it says, whatever the grid, and a seed is a seed."""

import highdicom as hd
import numpy as np
import pytest

from unetr.evaluation.scores import match
from unetr.synthesis import cohorts, metastases
from unetr.synthesis.anatomy import HeadOptions

SMALL = (40, 50, 44)
SPACING_MM = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def head() -> metastases.Head:
    return metastases.head(metastases.grid(SMALL, SPACING_MM), 11, HeadOptions((4, 6), (12.0, 30.0)))


def test_the_same_seed_gives_the_same_head_and_another_seed_another(head):
    same_head = metastases.head(metastases.grid(SMALL, SPACING_MM), 11, HeadOptions((4, 6), (12.0, 30.0)))
    other_head = metastases.head(metastases.grid(SMALL, SPACING_MM), 12, HeadOptions((4, 6), (12.0, 30.0)))
    assert np.array_equal(head.image.array, same_head.image.array)
    assert head.lesions == same_head.lesions
    assert not np.array_equal(head.image.array, other_head.image.array)


def test_the_labels_lie_where_the_truth_says_and_are_as_large(head):
    assert 4 <= len(head.lesions) <= 6
    for lesion in head.lesions:
        voxels = np.argwhere(head.labels.array == lesion.number)
        centre = head.labels.map_indices_to_reference(voxels).mean(0)
        assert centre == pytest.approx(lesion.centre_lps_mm, abs=3.0)
        drawn_ml = len(voxels) * head.labels.voxel_volume / 1000
        assert drawn_ml == pytest.approx(lesion.volume_ml, rel=0.25)
        assert lesion.volume_ml == pytest.approx(np.pi / 6 * lesion.diameter_mm**3 / 1000)


@pytest.mark.parametrize(("plane", "tilt_deg"), [("sagittal", 0.0), ("coronal", 0.0), ("axial", 15.0)])
def test_the_grid_is_centred_on_the_head_in_every_plane(plane, tilt_deg):
    grid = metastases.grid((30, 40, 20), (5.0, 4.0, 6.0), plane, tilt_deg)
    assert grid.center_position == pytest.approx([0.0, 16.0, 2.0])
    assert grid.spacing == pytest.approx([5.0, 4.0, 6.0])


def test_solid_lesions_are_brighter_than_the_brain_around_them():
    head = metastases.head(
        metastases.grid((60, 74, 62), (3.0, 3.0, 3.0)), 3, HeadOptions((5, 5), (9.0, 12.0))
    )
    brain = np.median(head.image.array[head.image.array > np.percentile(head.image.array, 60)])
    solid = [lesion for lesion in head.lesions if lesion.kind == "solid"]
    assert solid
    for lesion in solid:
        index = np.rint(head.image.map_reference_to_indices(np.array([lesion.centre_lps_mm]))[0]).astype(int)
        assert head.image.array[tuple(index)] > brain


def test_brain_only_heads_are_black_outside_the_brain():
    options = HeadOptions((0, 0), skull=False, pose=False)
    head = metastases.head(metastases.grid(SMALL, SPACING_MM), 5, options)
    assert head.lesions == ()
    assert head.labels.array.max() == 0
    scalp = head.image.map_reference_to_indices(np.array([[80.0, 16.0, 2.0]]))[0]
    assert head.image.array[tuple(np.rint(scalp).astype(int))] == 0.0
    # A brain of 1.2 to 1.9 litres, and at most one voxel of 4 mm around it.
    assert 1.1 < (head.image.array > 0).sum() * head.image.voxel_volume / 1e6 < 3.0


def test_the_brain_holds_the_lesions_and_neither_scalp_nor_face(head):
    brain = head.brain.array > 0
    assert 0.9 < brain.sum() * head.brain.voxel_volume / 1e6 < 2.4
    assert brain[head.labels.array > 0].all()
    options = HeadOptions((0, 0), pose=False)
    still = metastases.head(metastases.grid(SMALL, SPACING_MM), 5, options).brain
    points = np.array([[0.0, 16.0, 20.0], [0.0, -90.0, -50.0], [85.0, 16.0, 2.0]])
    index = np.rint(still.map_reference_to_indices(points)).astype(int)
    assert still.array[tuple(index.T)].tolist() == [1, 0, 0]


def test_a_hit_is_a_tenth_of_a_lesion_and_what_touches_nothing_is_false():
    truth = np.zeros((4, 10, 10), dtype=np.int32)
    truth[0, 0, :10] = 1
    truth[2, 0, :10] = 2
    predicted = np.zeros_like(truth)
    predicted[0, 0, 0] = 1
    predicted[3, 8, 8] = 2
    outcome = match(hd.Volume(truth, np.eye(4), "PATIENT"), hd.Volume(predicted, np.eye(4), "PATIENT"))
    assert outcome.covered == {1: 0.1, 2: 0.0}
    assert outcome.found(1)
    assert not outcome.found(2)
    assert outcome.partners == {1: 1}
    assert outcome.false_numbers == (2,)


def test_a_component_that_is_left_out_leaves_the_rest_of_the_head():
    whole, without = (
        cohorts.training_head(cohorts.VALIDATION_SEED, left_out) for left_out in (None, "vessels")
    )
    assert without.lesions == whole.lesions != ()
    fading = (whole.image.array - without.image.array)[(whole.labels.array == 0) & (whole.brain.array > 0)]
    assert (fading > 0.4).sum() > 1000
    assert (fading < -0.4).sum() < 100
    assert np.median(np.abs(fading)) < 0.1
    (upright,) = {cohorts.training_head(seed, "acquisitions").image.spacing for seed in (1, 2)}
    assert upright == pytest.approx((1.1, 1.1, 1.1))
