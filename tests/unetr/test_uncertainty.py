"""Mirrored predictions, their mean and its entropy. The seam is the backend: a window in, logits out."""

import itertools

import highdicom as hd
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from errors import JobCancelled
from unetr.mirroring import ALL_AXES, mirror_images
from unetr.predict import Predictor
from unetr.preprocess import prepare
from unetr.spec import Crop, ModelSpec, Window
from unetr.uncertainty import entropy_bits, explain, lesion_entropies, max_entropy_bits

LEFT_RIGHT = (0,)


@pytest.fixture(scope="module")
def spec(reckonable_spec) -> ModelSpec:
    """Without a brain or a crop, and with windows that count alike: lesions are sought in every voxel."""
    window = Window(shape=(64, 64, 64), overlap=0.0, blend="constant")
    crop = Crop(to="none")
    return reckonable_spec.model_copy(update={"brain": None, "crop": crop, "window": window})


def above_level(window: np.ndarray) -> np.ndarray:
    """Calls a voxel lesion where its normalised intensity exceeds 0.6, wherever it lies."""
    return np.where(window > 0.6, np.float32(6.0), np.float32(-6.0))


def more_to_the_end(window: np.ndarray) -> np.ndarray:
    """A logit that grows along the window's x, whatever is in it."""
    rising = np.linspace(-3.0, 3.0, window.shape[1], dtype=np.float32)
    return np.broadcast_to(rising[:, None, None], window.shape).copy()


def oblique(shape: tuple[int, int, int] = (30, 44, 50)) -> hd.Volume:
    """A ball of 8 mm about BALL_MM in a grey head, in slices turned in all directions."""
    turn = Rotation.from_euler("xyz", [-20, 8, 17], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn[:, [2, 1, 0]] * (1.9, 1.0, 1.2)
    affine[:3, 3] = [-20.0, 11.0, 7.0]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distance = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - ball_mm(affine), axis=-1)
    array = 20.0 + 80.0 * np.clip(8.5 - distance, 0.0, 1.0)
    return hd.Volume(array.astype(np.float32), affine, "PATIENT")


def ball_mm(affine: np.ndarray) -> np.ndarray:
    return (affine @ [11.0, 29.0, 17.0, 1.0])[:3]


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.asarray(logit, float)))


def test_every_combination_of_the_axes_is_mirrored_once():
    assert sorted(mirror_images(ALL_AXES)) == sorted(
        c for n in range(4) for c in itertools.combinations((0, 1, 2), n)
    )


@pytest.mark.parametrize("axes", [ALL_AXES, LEFT_RIGHT])
def test_a_model_that_does_not_care_for_sides_gives_its_single_prediction(axes, spec):
    volume = oblique()
    once = explain(Predictor(spec, above_level), volume, axes=())
    mirrored = explain(Predictor(spec, above_level), volume, axes=axes)
    np.testing.assert_allclose(mirrored.probability.array, once.probability.array, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(mirrored.entropy.array, once.entropy.array, rtol=0.0, atol=1e-5)
    prediction = Predictor(spec, above_level)(volume)
    inside = prediction.mask.array > 0
    assert inside.sum() > 500
    np.testing.assert_allclose(
        mirrored.probability.array[inside], prediction.probability.array[inside], rtol=0.0, atol=1e-6
    )


def test_the_mean_of_a_one_sided_model_is_that_of_its_mirror_images(spec):
    size = spec.window.shape[0]
    affine = np.diag([*spec.spacing_mm, 1.0])
    array = np.full((size, size, size), 50.0, np.float32)
    volume = hd.Volume(array, affine, "PATIENT").to_patient_orientation(spec.orientation)
    explanation = explain(Predictor(spec, more_to_the_end), volume)
    rising = np.linspace(-3.0, 3.0, size)
    expected = (sigmoid(rising) + sigmoid(rising[::-1])) / 2.0
    along_x = np.broadcast_to(expected[:, None, None], array.shape)
    np.testing.assert_allclose(explanation.probability.array, along_x, rtol=0.0, atol=1e-6)
    only = explain(Predictor(spec, more_to_the_end), volume, axes=()).probability.array
    along_x = np.broadcast_to(sigmoid(rising)[:, None, None], array.shape)
    np.testing.assert_allclose(only, along_x, rtol=0.0, atol=1e-6)
    assert explanation.entropy.array.min() > entropy_bits(only[None]).min()


def test_an_axis_is_mirrored_for_the_model_and_back_for_the_patient(spec):
    """A model that finds only what lies in the first half of x finds it in one of the two images."""

    def in_the_first_half(window: np.ndarray) -> np.ndarray:
        logits = above_level(window)
        logits[:, window.shape[1] // 2 :] = -50.0
        return logits

    volume = hd.Volume(
        np.full((64, 64, 64), 20.0, np.float32), np.diag([*spec.spacing_mm, 1.0]), "PATIENT"
    ).to_patient_orientation(spec.orientation)
    volume.array[10:16, 20:26, 40:44] = 100.0
    mean = explain(Predictor(spec, in_the_first_half), volume, axes=LEFT_RIGHT).probability.array
    assert np.all(mean[10:16, 20:26, 40:44] == pytest.approx(sigmoid(6.0) / 2.0, abs=1e-6))
    mean[10:16, 20:26, 40:44] = 0.0
    assert mean.max() < 0.01


def test_entropy_is_a_bit_where_nothing_is_known_and_none_where_all_is():
    bits = entropy_bits(np.array([[0.0, 0.5, 1.0, 0.11002786, 0.25]], np.float32))
    # H(0.11) is half a bit; H(1/4) is 2 - 3/4 log2 3.
    assert bits == pytest.approx([0.0, 1.0, 0.0, 0.5, 2.0 - 0.75 * np.log2(3.0)], abs=1e-6)
    assert (bits[0], bits[1], bits[2]) == (0.0, 1.0, 0.0)
    every = entropy_bits(np.linspace(0.0, 1.0, 10_001, dtype=np.float32)[None])
    assert every.dtype == np.float32
    assert (every.min(), every.max()) == (0.0, 1.0)


def test_of_several_labels_entropy_is_that_of_all_classes():
    # Four even classes are two bits; (1/2, 1/4, 1/8, 1/8) are 7/4; of two sure ones one bit.
    quarters = [[0.25] * 3, [0.5, 0.25, 0.125], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    bits = entropy_bits(np.array(quarters, np.float32).T)
    assert bits == pytest.approx([2.0, 1.75, 1.0, 0.0, 0.0], abs=1e-6)
    assert max_entropy_bits(3) == 2.0


def test_the_mean_of_several_labels_is_that_of_each_labels_probabilities(spec):
    """A model that calls the two halves of x by two labels is, mirrored and not, even about both."""
    labels = tuple(spec.labels[0].model_copy(update={"value": value}) for value in (1, 2))
    two = spec.model_copy(update={"labels": labels})

    def halves(window: np.ndarray) -> np.ndarray:
        logits = np.full((2, *window.shape[1:]), -30.0, np.float32)
        middle = window.shape[1] // 2
        logits[0, :middle] = logits[1, middle:] = 30.0
        return logits

    array = np.full((64, 64, 64), 50.0, np.float32)
    volume = hd.Volume(array, np.diag([*spec.spacing_mm, 1.0]), "PATIENT")
    once = explain(Predictor(two, halves), volume, axes=())
    assert once.entropy.array.max() == pytest.approx(0.0, abs=1e-5)
    both = explain(Predictor(two, halves), volume, axes=LEFT_RIGHT)
    np.testing.assert_allclose(both.entropy.array, np.ones_like(array), rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(both.probability.array, np.ones_like(array), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("orientation", ["IPL", "RAS", "PIR", "LSA"])
def test_on_an_oblique_grid_of_any_order_the_ball_stays_where_it_is(orientation, spec):
    volume = oblique().to_patient_orientation(orientation)
    explanation = explain(Predictor(spec, above_level), volume)
    assert explanation.probability.geometry_equal(volume)
    likely = np.argwhere(explanation.probability.array > 0.5)
    positions = volume.map_indices_to_reference(likely)
    assert positions.mean(0) == pytest.approx(ball_mm(oblique().affine), abs=0.2)
    assert len(likely) * volume.voxel_volume == pytest.approx(4 / 3 * np.pi * 8.0**3, rel=0.06)
    # The model is least sure on the ball's surface.
    unsure = volume.map_indices_to_reference(np.argwhere(explanation.entropy.array > 0.9))
    radii_mm = np.linalg.norm(unsure - ball_mm(oblique().affine), axis=1)
    assert len(radii_mm) > 20
    assert np.all(np.abs(radii_mm - 8.0) < 1.5)


def test_nothing_is_said_of_what_was_cropped_away(spec, reckonable_spec):
    spec = spec.model_copy(update={"crop": reckonable_spec.crop})
    array = np.zeros((40, 44, 48), dtype=np.float32)
    array[10:30, 10:34, 10:38] = 50.0
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spec.spacing_mm)
    volume = hd.Volume(array, affine, "PATIENT")
    kept = prepare(volume, spec).volume
    assert kept.spatial_shape != volume.spatial_shape
    explanation = explain(Predictor(spec, lambda window: np.full_like(window, 0.0)), volume)
    assert (explanation.entropy.array == 1.0).sum() == kept.array.size
    inside = np.argwhere(explanation.entropy.array == 1.0)
    corners = kept.map_indices_to_reference(np.array([[0, 0, 0], np.array(kept.spatial_shape) - 1]))
    positions = volume.map_indices_to_reference(inside)
    assert positions.min(0) == pytest.approx(corners.min(0))
    assert positions.max(0) == pytest.approx(corners.max(0))


def test_the_brain_is_sought_once_upright_and_nothing_is_said_of_what_is_outside(reckonable_spec):
    """Two balls for a brain, with a lesion in it, and as bright a spot outside."""
    shape, spacing_mm = (96, 104, 92), (2.0, 1.8, 2.0)
    positions = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * spacing_mm
    centre, hind = np.array([[95.0, 90.0, 110.0], [95.0, 120.0, 65.0]])
    lesion, face = np.array([[115.0, 90.0, 110.0], [95.0, 14.0, 30.0]])

    def near(where: np.ndarray, radius_mm: float) -> np.ndarray:
        return np.linalg.norm(positions - where, axis=-1) <= radius_mm

    array = np.pad(np.full([size - 6 for size in shape], 20.0, np.float32), 3)
    array[near(centre, 60.0) | near(hind, 42.0)] = 50.0
    array[near(lesion, 8.0)] = array[near(face, 8.0)] = 100.0
    volume = hd.Volume(array, np.diag([*spacing_mm, 1.0]), "PATIENT")
    calls = []

    def matter(window: np.ndarray) -> np.ndarray:
        calls.append(1)
        return (0.2 - np.abs(window - 0.5)) * 20.0

    predictor = Predictor(reckonable_spec, lambda window: (window - 0.75) * 20.0, matter)
    predictor.region(prepare(volume, reckonable_spec).volume)
    windows_for_one_brain = len(calls)
    calls.clear()
    explanation = explain(predictor, volume, axes=LEFT_RIGHT)
    assert len(calls) == windows_for_one_brain
    assert explanation.probability.array[near(lesion, 5.0)].min() > 0.9
    assert explanation.entropy.array[near(face, 10.0)].max() == 0.0
    assert explanation.probability.array[near(face, 10.0)].max() == 0.0
    # The margin is 3 mm; half a voxel of either grid comes on top.
    away = ~near(centre, 60.0 + 3.0 + 3.0) & ~near(hind, 42.0 + 3.0 + 3.0)
    assert not explanation.entropy.array[away].any()
    brain = explanation.region.map_indices_to_reference(np.argwhere(explanation.region.array))
    expected = positions[near(centre, 63.0) | near(hind, 45.0)]
    assert brain.mean(0) == pytest.approx(expected.mean(0), abs=1.0)


def test_lesions_are_told_apart_by_their_mean_entropy():
    labels = np.zeros((4, 4, 4), np.int32)
    labels[0], labels[2, :2] = 1, 3
    entropy = np.full((4, 4, 4), 0.9, np.float32)
    entropy[0, :2], entropy[0, 2:], entropy[2] = 0.25, 0.75, 0.125
    grid = hd.Volume(entropy, np.eye(4), "PATIENT")
    assert lesion_entropies(grid, grid.with_array(labels)) == pytest.approx({1: 0.5, 3: 0.125})


def test_progress_rises_to_one_and_a_cancelled_job_stops_between_windows(spec):
    fractions: list[float] = []
    explain(Predictor(spec, above_level), oblique(), fractions.append, LEFT_RIGHT)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert fractions == sorted(fractions)
    assert 0.5 in fractions

    def cancel(fraction: float) -> None:
        if fraction >= 0.5:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        explain(Predictor(spec, above_level), oblique(), cancel, LEFT_RIGHT)


def test_the_same_volume_gives_the_same_to_the_bit(spec):
    noisy = oblique()
    noise = np.random.default_rng(2).normal(0, 3, noisy.shape).astype(np.float32)
    noisy = noisy.with_array(noisy.array + noise)
    first, second = (explain(Predictor(spec, lambda window: window * 5.0 - 2.0), noisy) for _ in range(2))
    assert np.array_equal(first.entropy.array, second.entropy.array)
