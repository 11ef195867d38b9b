"""Masks and probabilities on the native grid. The seam is the backend: a window in, logits out."""

import itertools

import highdicom as hd
import numpy as np
import pytest
import torch
from scipy import ndimage, special
from scipy.spatial.transform import Rotation

from bench.models import SHIPPED
from errors import JobCancelled, ModelError, OutOfMemory
from tests.unetr.test_network import SMALL
from tests.unetr.test_preprocess import ORIENTATIONS
from unetr.backends import AGREEMENT, backend_of, trusted, with_fallback
from unetr.network import build, save_weights
from unetr.network_spec import UNETRNetwork
from unetr.predict import Predictor
from unetr.sliding import slide, windows
from unetr.spec import ConceptCode, Label, ModelSpec, PostProcessing, Weights, Window, load_spec

CODE = ConceptCode(value="85756007", scheme="SCT", meaning="Tissue")


def above_level(window: np.ndarray) -> np.ndarray:
    """Calls a voxel lesion where its normalised intensity exceeds 0.6: half-way up the edge of a blob."""
    return (window - 0.6) * 20.0


@pytest.fixture(scope="module")
def spec(reckonable_spec) -> ModelSpec:
    """Without a brain: lesions are sought everywhere."""
    return reckonable_spec.model_copy(update={"brain": None})


def blobs(affine: np.ndarray, shape: tuple[int, int, int], centres_mm: list, radii_mm: list) -> hd.Volume:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    positions = index @ affine[:3, :3].T + affine[:3, 3]
    array = np.full(shape, 20.0)
    # Air beside the tissue: the darkest voxels are taken for it.
    array[0] = 0.0
    for centre, radius in zip(centres_mm, radii_mm, strict=True):
        distance = np.linalg.norm(positions - centre, axis=-1)
        array += 80.0 * np.clip(radius - distance + 0.5, 0.0, 1.0)
    return hd.Volume(array.astype(np.float32), affine, "PATIENT")


def affine_of(turn: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = [-20.0, 11.0, 7.0]
    return affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_with_the_models_spacing_the_mask_is_the_threshold_in_every_orientation(orientation, spec):
    volume = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [[8, 40, 25], [25, 50, 40]], [9, 5])
    volume = volume.to_patient_orientation(orientation)
    prediction = Predictor(spec, above_level)(volume)
    assert prediction.mask.geometry_equal(volume)
    assert np.array_equal(prediction.mask.array, volume.array > 60.0)


def test_the_threshold_is_a_probability(spec):
    volume = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [[8, 40, 25]], [9])
    certain = PostProcessing(threshold=0.95, minimum_volume_mm3=0.0)
    prediction = Predictor(spec.model_copy(update={"postprocessing": certain}), above_level)(volume)
    probability = 1.0 / (1.0 + np.exp(-(volume.array / 100.0 - 0.6) * 20.0))
    assert np.array_equal(prediction.mask.array > 0, probability > 0.95)
    assert np.any((probability > 0.5) & (probability < 0.95))


@pytest.mark.parametrize("spacing", [(1.0, 0.9, 0.9), (3.0, 0.9, 0.9), (0.8, 2.0, 0.8)])
def test_with_another_spacing_oblique_lesions_keep_place_and_volume(spacing, spec):
    turn = Rotation.from_euler("xyz", [15, 10, -20], degrees=True).as_matrix()
    affine = affine_of(turn, spacing)
    shape = tuple(int(60 / s) for s in spacing)
    centre = (affine @ [*(np.array(shape) * 0.6), 1])[:3]
    volume = blobs(affine, shape, [centre], [10.0])
    mask = Predictor(spec, above_level)(volume).mask
    position = volume.map_indices_to_reference(np.argwhere(mask.array).mean(0)[None])[0]
    assert position == pytest.approx(centre, abs=0.2)
    assert mask.array.sum() * mask.voxel_volume == pytest.approx(4 / 3 * np.pi * 1000, rel=0.06)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_oblique_stack_in_any_orientation_differs_from_the_native_threshold_by_a_shell(orientation, spec):
    turn = Rotation.from_euler("xyz", [-20, 8, 17], degrees=True).as_matrix()
    affine = affine_of(turn, (1.9, 1.0, 1.2))
    centres = [(affine @ [*index, 1])[:3] for index in ([9, 14, 30], [19, 29, 15])]
    volume = blobs(affine, (28, 44, 46), centres, [7.0, 5.0]).to_patient_orientation(orientation)
    mask = Predictor(spec, above_level)(volume).mask.array > 0
    expected = volume.array > 60.0
    shell = ndimage.binary_dilation(expected) & ~ndimage.binary_erosion(expected)
    assert np.all(shell[mask != expected])
    assert ndimage.label(mask)[1] == 2


def test_a_lesion_at_the_crops_edge_does_not_bleed_into_what_was_cropped_away(spec):
    array = np.zeros((40, 44, 48), dtype=np.float32)
    array[10:30, 10:34, 10:38] = 50.0
    array[24:30, 15:25, 15:25] = 100.0
    volume = hd.Volume(array, affine_of(np.eye(3), (1.5, 1.5, 1.5)), "PATIENT")
    mask = Predictor(spec, above_level)(volume).mask.array
    assert np.array_equal(mask > 0, array > 60.0)


def test_what_lies_between_the_centres_of_thick_slices_marks_no_voxel(spec):
    array = np.full((6, 30, 30), 20.0, dtype=np.float32)
    array[3, 10:20, 10:20] = 100.0
    volume = hd.Volume(array, affine_of(np.eye(3), (1.5, 1.5, 12.0))[:, [2, 1, 0, 3]], "PATIENT")

    def between_slices(window: np.ndarray) -> np.ndarray:
        # A slice is 8 voxels of the model's grid thick; these two lie furthest from the slices' centres.
        logits = np.full_like(window, -5.0)
        logits[:, 10:20, 10:20, 15:17] = 5.0
        return logits

    prediction = Predictor(spec, between_slices)(volume)
    assert not prediction.mask.array.any()
    assert prediction.probability.array.max() <= 0.5


def test_probability_is_the_sigmoid_inside_the_boxes_and_zero_elsewhere(spec):
    volume = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [[8, 40, 25]], [9])
    prediction = Predictor(spec, above_level)(volume)
    expected = 1.0 / (1.0 + np.exp(-(volume.array / 100.0 - 0.6) * 20.0))
    inside = prediction.mask.array > 0
    np.testing.assert_allclose(prediction.probability.array[inside], expected[inside], rtol=0.0, atol=1e-3)
    assert prediction.probability.array[0, 0, 0] == 0.0
    assert np.all(prediction.probability.array[~inside] <= 0.5)


def test_components_below_the_minimum_volume_are_dropped_even_beside_a_large_one(spec):
    volume = blobs(
        affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [[10, 40, 25], [10, 40, 37.5]], [8, 1.0]
    )
    strict = spec.postprocessing.model_copy(update={"minimum_volume_mm3": 60.0})
    mask = Predictor(spec.model_copy(update={"postprocessing": strict}), above_level)(volume).mask
    heights = volume.map_indices_to_reference(np.argwhere(mask.array))[:, 2]
    assert heights.max() < 34.0


def test_a_seed_threshold_drops_what_is_nowhere_sure_and_leaves_the_rest_its_whole_extent(spec):
    volume = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [[8, 40, 25]], [9])
    doubtful = np.zeros_like(volume.array, dtype=bool)
    doubtful[30:35, 25:30, 20:25] = True
    volume = volume.with_array(np.where(doubtful, np.float32(70.0), volume.array))
    plain = PostProcessing(threshold=0.5, minimum_volume_mm3=0.0)
    # At 70 the probability is 0.88, at the blob's 100 it is above 0.999.
    seeded = PostProcessing(threshold=0.5, seed_threshold=0.95, minimum_volume_mm3=0.0)
    both, sure = Predictor(spec, above_level).variants(volume, [plain, seeded])
    assert both.mask.array[doubtful].all()
    assert np.array_equal(sure.mask.array > 0, (volume.array > 60.0) & ~doubtful)
    assert not sure.probability.array[doubtful].any()


def test_a_volume_in_which_nothing_is_found_has_no_lesion_whatever_the_thresholds(spec):
    nothing = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [], [])
    for seed_threshold in (None, 0.95):
        choice = PostProcessing(threshold=0.5, seed_threshold=seed_threshold, minimum_volume_mm3=10.0)
        (prediction,) = Predictor(spec, above_level).variants(nothing, [choice])
        assert not prediction.mask.array.any()


def test_windows_cover_everything_with_the_asked_overlap():
    covered = np.zeros((133, 64, 40), dtype=int)
    boxes = list(windows((133, 64, 64), Window(shape=(64, 64, 64), overlap=0.25)))
    for box in boxes:
        covered[box] += 1
    assert covered.min() >= 1
    starts = sorted({box[0].start for box in boxes})
    assert max(b - a for a, b in itertools.pairwise(starts)) <= 48


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_sliding_keeps_what_each_window_answers(blend, spec):
    window = spec.window.model_copy(update={"blend": blend})
    array = np.random.default_rng(0).normal(size=(2, 90, 70, 30)).astype(np.float32)
    answers = slide(array, lambda box: box[[1, 0, 1]] * 3.0, window, labels=3)
    assert answers == pytest.approx(array[[1, 0, 1]] * 3.0, abs=1e-4)


def test_beyond_a_volume_smaller_than_the_window_each_input_has_its_own_lowest_value(spec):
    array = np.stack([np.full((40, 70, 30), 7.0), np.full((40, 70, 30), -3.0)]).astype(np.float32)
    boxes = []

    def keep(box: np.ndarray) -> np.ndarray:
        boxes.append([set(np.unique(channel)) for channel in box])
        return box[:1]

    slide(array, keep, spec.window, labels=1)
    assert all(box == [{7.0}, {-3.0}] for box in boxes)


def test_where_windows_overlap_they_count_alike_or_by_the_distance_from_their_centre():
    profiles = {}
    for blend in ("gaussian", "constant"):
        window = Window(shape=(64, 64, 64), overlap=0.25, blend=blend)
        answers = iter([0.0, 1.0])
        profiles[blend] = slide(
            np.zeros((1, 96, 64, 64), dtype=np.float32),
            lambda box, answers=answers: np.full(box.shape, next(answers), dtype=np.float32),
            window,
            labels=1,
        )[0, :, 32, 32]
    assert np.all(profiles["constant"][32:64] == 0.5)
    assert np.all(np.diff(profiles["gaussian"][32:64]) > 0)
    for line in profiles.values():
        assert np.all(line[:32] == 0.0)
        assert np.all(line[64:] == 1.0)


def test_progress_rises_to_one_and_a_cancelled_job_stops_between_windows(spec):
    volume = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (100, 90, 80), [[8, 40, 25]], [9])
    fractions: list[float] = []
    Predictor(spec, above_level)(volume, fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)

    calls: list[int] = []

    def count_calls(window: np.ndarray) -> np.ndarray:
        calls.append(1)
        return above_level(window)

    def cancel(fraction: float) -> None:
        if fraction > 0.3:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        Predictor(spec, count_calls)(volume, cancel)
    assert 0 < len(calls) < len(fractions) - 1


def lesion_network(network: UNETRNetwork) -> torch.nn.Module:
    spec = load_spec(SHIPPED).model_copy(update={"network": network, "brain": None})
    return build(spec)["lesion"].eval()


@pytest.fixture(scope="module")
def small_network() -> torch.nn.Module:
    torch.manual_seed(7)
    return lesion_network(SMALL)


THREE = tuple(
    Label(value=value, name=name, category=CODE, type=CODE, whole=value == 3)
    for value, name in enumerate(("near", "nearer", "nearest"), start=1)
)


def rings(window: np.ndarray) -> np.ndarray:
    """Logits of three labels by the level of the first input; the background, and they, are even at 0.3, 0.5
    and 0.7.
    """
    level = window[0]
    return np.stack([level - 0.3, 2.0 * level - 0.8, 3.0 * level - 1.5]) * np.float32(400.0)


def test_of_several_labels_each_voxel_has_the_most_probable(spec):
    several = spec.model_copy(update={"labels": THREE})
    array = np.full((40, 36, 30), 10.0, np.float32)
    for value, inset in ((40.0, 8), (60.0, 10), (90.0, 12)):
        array[(slice(inset, -inset),) * 3] = value
    volume = hd.Volume(array, affine_of(np.eye(3), (1.5, 1.5, 1.5)), "PATIENT")
    prediction = Predictor(several, rings)(volume)
    assert np.array_equal(prediction.mask.array, np.digitize(array, [30.0, 50.0, 70.0]))
    inside = prediction.mask.array > 0
    # Softmax of four logits: the background's is 0.
    logits = np.concatenate([np.zeros((1, *array.shape)), rings(array[None] / 100.0)]).astype(float)
    expected = np.exp(logits - special.logsumexp(logits, axis=0))
    np.testing.assert_allclose(
        prediction.probability.array[inside], expected.max(axis=0)[inside], rtol=0.0, atol=1e-5
    )


def test_the_threshold_is_of_all_labels_together(spec):
    """Three labels of a fifth each, and the background of two fifths."""
    even = np.log(np.float32(0.5))

    def equal_logits(window: np.ndarray) -> np.ndarray:
        return np.where(window > 0.6, even, np.float32(-9.0)) * np.ones((3, 1, 1, 1), np.float32)

    volume = blobs(affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 36, 30), [[8, 40, 25]], [9])
    for threshold, expected in ((0.59, True), (0.61, False)):
        choice = PostProcessing(threshold=threshold, minimum_volume_mm3=0.0)
        several = spec.model_copy(update={"labels": THREE, "postprocessing": choice})
        mask = Predictor(several, equal_logits)(volume).mask.array
        assert np.array_equal(mask > 0, (volume.array > 60.0) & expected)


def test_crumbs_of_a_label_whose_components_are_objects_are_dropped_and_those_of_a_region_kept(spec):
    array = np.full((40, 36, 30), 10.0, np.float32)
    array[5:35, 5:31, 5:25] = 40.0
    # Two voxels each in the box: 7 mm3, where 14 are asked for.
    array[10:12, 10, 10], array[20:22, 20, 20] = 60.0, 90.0
    volume = hd.Volume(array, affine_of(np.eye(3), (1.5, 1.5, 1.5)), "PATIENT")
    mask = Predictor(spec.model_copy(update={"labels": THREE}), rings)(volume).mask.array
    assert set(np.unique(mask)) == {0, 1, 3}
    assert np.argwhere(mask == 3).tolist() == [[20, 20, 20], [21, 20, 20]]


def test_further_inputs_are_brought_onto_the_grid_of_the_first(spec):
    """A ball that the second input shows, on an oblique grid, is found at its place in the first."""
    two = spec.model_copy(update={"inputs": ("T1", "T2")})
    first = hd.Volume(
        np.full((50, 48, 46), 20.0, np.float32), affine_of(np.eye(3), (1.5, 1.5, 1.5)), "PATIENT"
    )
    first.array[0, 0, 0] = 100.0
    centre = np.array([12.0, 50.0, 40.0])
    turn = Rotation.from_euler("xyz", [25, -10, 15], degrees=True).as_matrix()
    affine = affine_of(turn, (1.3, 1.1, 1.9))
    affine[:3, 3] += centre - (affine @ [30, 36, 20, 1])[:3]
    second = blobs(affine, (60, 70, 44), [centre], [10.0])
    mask = Predictor(two, lambda window: above_level(window[1:]))(first, lambda fraction: None, second).mask
    positions = first.map_indices_to_reference(np.argwhere(mask.array))
    assert positions.mean(0) == pytest.approx(centre, abs=0.2)
    assert len(positions) * first.voxel_volume == pytest.approx(4 / 3 * np.pi * 1000, rel=0.08)
    with pytest.raises(ValueError, match="1 volumes for the inputs T1, T2"):
        Predictor(two, above_level)(first)


@pytest.fixture(scope="module")
def loaded(small_network, spec, tmp_path_factory) -> Predictor:
    """A small random network, as it comes from its files."""
    folder = tmp_path_factory.mktemp("models")
    networks = torch.nn.ModuleDict({"lesion": small_network})
    sha256 = save_weights(networks, folder / "small.safetensors")
    update = {
        "folder": folder,
        "weights": Weights(file="small.safetensors", sha256=sha256),
        "network": SMALL,
        "window": Window(shape=(32, 32, 32), overlap=0.25),
    }
    return Predictor.load(spec.model_copy(update=update), "cpu")


def test_openvino_agrees_with_torch(loaded, small_network):
    window = np.random.default_rng(1).normal(size=(32, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        logits = small_network(torch.from_numpy(window)[None, None])[0].numpy()
    probability = 1.0 / (1.0 + np.exp(logits[0] - logits[1]))
    window_logits = loaded.backend(window[None])[0]
    assert 1.0 / (1.0 + np.exp(-window_logits)) == pytest.approx(probability, abs=5e-3)


def test_a_volume_is_predicted_the_same_to_the_bit_each_time(loaded):
    volume = blobs(affine_of(np.eye(3), (1.0, 1.2, 1.5)), (50, 40, 36), [[8, 40, 25]], [9])
    first, second = loaded(volume), loaded(volume)
    assert first.mask.array.any()
    assert np.array_equal(second.mask.array, first.mask.array)
    assert np.array_equal(second.probability.array, first.probability.array)


def test_a_backend_that_disagrees_with_torch_is_not_used_and_the_log_says_so(caplog):
    def reference(window: np.ndarray) -> np.ndarray:
        return window

    def close(window: np.ndarray) -> np.ndarray:
        return window + np.float32(AGREEMENT)

    def wrong(window: np.ndarray) -> np.ndarray:
        return window + np.float32(8 * AGREEMENT)

    def fail(window: np.ndarray) -> np.ndarray:
        return window * np.float32("nan")

    shape = (1, 8, 8, 8)
    assert trusted(close, reference, shape) is close
    assert caplog.text == ""
    assert trusted(wrong, reference, shape) is reference
    assert "torch is used" in caplog.text
    assert trusted(fail, reference, shape) is reference


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_asked_for_and_missing_is_said(small_network):
    with pytest.raises(ModelError, match="finds 0 CUDA devices"):
        backend_of(small_network, (1, 32, 32, 32), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees_with_the_cpu(small_network):
    window = np.random.default_rng(1).normal(size=(1, 32, 32, 32)).astype(np.float32)
    cpu = backend_of(small_network, (1, 32, 32, 32), "cpu")(window)
    assert backend_of(small_network, (1, 32, 32, 32), "cuda")(window) == pytest.approx(cpu, abs=0.05)


def test_a_window_too_large_for_the_gpu_goes_to_the_cpu_and_the_next_one_tries_the_gpu_again(caplog):
    devices = []

    def small_gpu(window):
        if window.max() > 1:
            raise OutOfMemory("The GPU has too little free memory for one window.")
        return window

    def make_cpu():
        devices.append("cpu")
        return lambda window: -window

    backend = with_fallback(small_gpu, make_cpu)
    ones = np.ones((2, 2, 2), np.float32)
    assert backend(ones)[0, 0, 0] == 1
    assert devices == []
    assert [backend(scale * ones)[0, 0, 0] for scale in (2, 1, 3)] == [-2, 1, -3]
    assert devices == ["cpu"]
    assert "runs on the CPU instead" in caplog.text
