"""The mean over mirror images as the probability that becomes the mask. The seam is the backend."""

import json

import highdicom as hd
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from errors import JobCancelled
from unetr.predict import Predictor
from unetr.spec import ModelSpec, PostProcessing, Window
from unetr.uncertainty import explain

SHAPE, SPACING_MM = (48, 90, 76), (1.9, 1.0, 1.2)
TURN = Rotation.from_euler("xyz", [-20, 8, 17], degrees=True).as_matrix()
RADIUS_MM = 7.0
# How sure the one-sided model is of a voxel of a lesion.
SURE = 1.0 / (1.0 + np.exp(-6.0))


def with_mirroring(spec: ModelSpec, *axes: int, threshold: float = 0.4) -> ModelSpec:
    """Without a brain: lesions are sought everywhere."""
    choice = PostProcessing(threshold=threshold, minimum_volume_mm3=14.0)
    return spec.model_copy(update={"brain": None, "postprocessing": choice, "mirroring_axes": axes})


def affine() -> np.ndarray:
    whole = np.eye(4)
    whole[:3, :3] = TURN[:, [2, 1, 0]] * SPACING_MM
    whole[:3, 3] = [-20.0, 11.0, 7.0]
    return whole


def centre_mm() -> np.ndarray:
    return (affine() @ [*((np.array(SHAPE) - 1) / 2.0), 1.0])[:3]


# Of the patient; LPS grows to the left, and the index of a model in RAS to the right.
LEFT_MM, RIGHT_MM = (centre_mm() + np.array([side, 9.0, -12.0]) for side in (22.0, -22.0))


@pytest.fixture(scope="module")
def head() -> hd.Volume:
    """An oblique cube of 91 mm, about a window of the model, with a ball on either side."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    positions = index @ affine()[:3, :3].T + affine()[:3, 3]
    array = np.full(SHAPE, 20.0)
    array[:, 0] = 0.0
    for ball_mm in (LEFT_MM, RIGHT_MM):
        distance = np.linalg.norm(positions - ball_mm, axis=-1)
        array += 80.0 * np.clip(RADIUS_MM - distance + 0.5, 0.0, 1.0)
    return hd.Volume(array.astype(np.float32), affine(), "PATIENT")


def in_the_first_half(window: np.ndarray) -> np.ndarray:
    """Finds what is bright where x is low in its window, and nothing elsewhere."""
    logits = np.where(window > 0.6, np.float32(6.0), np.float32(-6.0))
    logits[:, window.shape[1] // 2 :] = -50.0
    return logits


def lesions_mm(volume: hd.Volume, mask: np.ndarray) -> list[np.ndarray]:
    """The centres of what was found on the left and on the right, in LPS mm."""
    places = volume.map_indices_to_reference(np.argwhere(mask))
    left = places[:, 0] > centre_mm()[0]
    return [places[side].mean(0) for side in (left, ~left) if side.any()]


@pytest.mark.parametrize("orientation", ["IPL", "RAS", "PIR", "LSA"])
@pytest.mark.parametrize(
    ("axes", "where", "probability"),
    [
        ((), [LEFT_MM], SURE),
        ((2,), [LEFT_MM], SURE),
        ((0,), [LEFT_MM, RIGHT_MM], SURE / 2.0),
        ((0, 1, 2), [LEFT_MM, RIGHT_MM], SURE / 2.0),
    ],
)
def test_the_mask_is_that_of_the_mean_over_the_mirror_images(
    axes, where, probability, orientation, head, reckonable_spec
):
    """A model that sees one side finds the other side's lesion in half of the images."""
    volume = head.to_patient_orientation(orientation)
    prediction = Predictor(with_mirroring(reckonable_spec, *axes), in_the_first_half)(volume)
    assert prediction.mask.geometry_equal(volume)
    for lesion_mm, expected_mm in zip(lesions_mm(volume, prediction.mask.array), where, strict=True):
        assert lesion_mm == pytest.approx(expected_mm, abs=0.3)
    sure = prediction.probability.array > probability - 0.001
    for lesion_mm, expected_mm in zip(lesions_mm(volume, sure), where, strict=True):
        assert lesion_mm == pytest.approx(expected_mm, abs=0.5)
    assert prediction.probability.array.max() == pytest.approx(probability, abs=1e-5)


def test_what_half_of_the_images_show_is_no_lesion_above_one_half(head, reckonable_spec):
    spec = with_mirroring(reckonable_spec, 0, threshold=0.5)
    assert not Predictor(spec, in_the_first_half)(head).mask.array.any()


def test_the_map_of_the_uncertainty_is_of_the_same_mean(head, reckonable_spec):
    predictor = Predictor(with_mirroring(reckonable_spec, 0, 1, 2), in_the_first_half)
    prediction, explanation = predictor(head), explain(predictor, head)
    inside = prediction.mask.array > 0
    assert inside.sum() > 500
    np.testing.assert_allclose(
        explanation.probability.array[inside], prediction.probability.array[inside], rtol=0.0, atol=1e-6
    )


@pytest.mark.parametrize("axes", [(), (0,), (0, 1, 2)])
def test_every_axis_doubles_the_windows(axes, head, reckonable_spec):
    shapes = []

    def count_calls(window: np.ndarray) -> np.ndarray:
        shapes.append(window.shape)
        return in_the_first_half(window)

    Predictor(with_mirroring(reckonable_spec, *axes), count_calls)(head)
    # The head is no larger than a window.
    assert shapes == [(1, 64, 64, 64)] * 2 ** len(axes)


def test_the_mean_of_several_labels_is_that_of_their_probabilities(head, reckonable_spec):
    """One label is likely on one side, the other nearly certain on the other: in the mean the other is."""
    labels = tuple(reckonable_spec.labels[0].model_copy(update={"value": value}) for value in (1, 2))

    def sides(window: np.ndarray) -> np.ndarray:
        logits = np.full((2, *window.shape[1:]), -40.0, np.float32)
        first = np.arange(window.shape[1]) < window.shape[1] // 2
        logits[0, first], logits[1, ~first] = 1.0, 4.0
        return logits

    def on_the_right(axes: tuple[int, ...]) -> tuple[set[int], float]:
        spec = with_mirroring(reckonable_spec, *axes).model_copy(update={"labels": labels})
        prediction = Predictor(spec, sides)(head)
        index = np.argwhere(head.array > 99.0)
        near = np.linalg.norm(head.map_indices_to_reference(index) - RIGHT_MM, axis=1) < RADIUS_MM
        inner = tuple(index[near].T)
        probability = prediction.probability.array[inner]
        assert np.ptp(probability) < 1e-5
        return set(np.unique(prediction.mask.array[inner])), float(probability[0])

    likely, certain = np.exp(1.0) / (1.0 + np.exp(1.0)), np.exp(4.0) / (1.0 + np.exp(4.0))
    assert likely < certain
    assert on_the_right(()) == ({2}, pytest.approx(certain, abs=1e-5))
    assert on_the_right((0,)) == ({2}, pytest.approx(certain / 2.0, abs=1e-5))


def test_what_every_image_is_sure_of_stays_as_sure(head, reckonable_spec):
    """Logits beyond what a probability of single precision can tell from 1 are not lost in the mean."""

    def certain_logits(window: np.ndarray) -> np.ndarray:
        return np.where(window > 0.6, np.float32(200.0), np.float32(-200.0))

    spec = with_mirroring(reckonable_spec, 0, 1)
    seeded = spec.postprocessing.model_copy(update={"seed_threshold": 1.0 - 1e-12})
    spec = spec.model_copy(update={"postprocessing": seeded})
    prediction = Predictor(spec, certain_logits)(head)
    once = Predictor(spec.model_copy(update={"mirroring_axes": ()}), certain_logits)(head)
    assert np.array_equal(prediction.mask.array, once.mask.array)
    np.testing.assert_allclose(prediction.probability.array, once.probability.array, rtol=0.0, atol=1e-5)
    assert len(lesions_mm(head, prediction.mask.array)) == 2


def test_progress_rises_over_all_images_and_a_cancelled_job_stops_between_them(head, reckonable_spec):
    # Eight windows an image.
    window = Window(shape=(48, 48, 48), overlap=0.25)
    spec = with_mirroring(reckonable_spec, 0).model_copy(update={"window": window})
    fractions: list[float] = []
    Predictor(spec, in_the_first_half)(head, fractions.append)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert fractions == sorted(fractions)
    assert len(set(fractions)) == 2 * 8 + 1
    assert 0.5 in fractions
    calls = []

    def count_calls(window: np.ndarray) -> np.ndarray:
        calls.append(1)
        return in_the_first_half(window)

    def cancel(fraction: float) -> None:
        if fraction >= 0.5:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        Predictor(spec, count_calls)(head, cancel)
    assert len(calls) == 8


def test_thresholds_are_compared_on_the_mean_as_well(head, reckonable_spec):
    """What an operating point is chosen by: the logit at each voxel of the model's grid."""
    predictor = Predictor(with_mirroring(reckonable_spec, 0), in_the_first_half)
    strict, loose = (PostProcessing(threshold=t, minimum_volume_mm3=14.0) for t in (0.6, 0.4))
    none, both = predictor.variants(head, [strict, loose])
    assert not none.mask.array.any()
    assert len(lesions_mm(head, both.mask.array)) == 2


def test_a_model_that_mirrors_nothing_keeps_the_key_of_its_results(reckonable_spec):
    """Results of before the field would be made anew if the digest of the same model were another."""
    assert reckonable_spec.mirroring_axes == ()
    assert "mirroring_axes" not in json.loads(reckonable_spec.model_dump_json())
    digests = {with_mirroring(reckonable_spec, *axes).digest for axes in ((), (0,), (0, 1, 2))}
    assert len(digests) == 3
    reloaded = ModelSpec.model_validate_json(with_mirroring(reckonable_spec, 0).model_dump_json())
    assert reloaded.mirroring_axes == (0,)
