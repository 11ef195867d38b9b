"""Lesions are sought in the brain. The seam is the backend: a window in, logits out."""

import re

import highdicom as hd
import numpy as np
import pytest
import torch

from errors import BrainNotFound
from unetr.brain import find_brain, pooled
from unetr.network import build, save_weights
from unetr.predict import Predictor
from unetr.preprocess import prepare
from unetr.spec import Brain, ModelSpec, PostProcessing, Weights

TISSUE, MATTER, SPOT = 20.0, 50.0, 100.0
# Voxels of air at every side.
AIR = 3
CENTRE_MM, RADIUS_MM = np.array([90.0, 100.0, 110.0]), 60.0
# A second ball, behind and below: no brain is the same in front and behind.
HIND_MM, HIND_RADIUS_MM = np.array([90.0, 130.0, 65.0]), 42.0
IN_BRAIN_MM, IN_FACE_MM = np.array([110.0, 100.0, 110.0]), np.array([90.0, 20.0, 40.0])


@pytest.fixture(scope="module")
def spec(reckonable_spec) -> ModelSpec:
    """For a sequence without contrast agent, about which there is no caution."""
    return reckonable_spec.model_copy(update={"inputs": ("T1",)})


@pytest.fixture(scope="module")
def brain(spec) -> Brain:
    assert spec.brain is not None
    return spec.brain


def spot(window: np.ndarray) -> np.ndarray:
    """Calls bright voxels a lesion, wherever they are."""
    return (window - 0.75) * 20.0


def matter(window: np.ndarray) -> np.ndarray:
    """Calls what has the brain's level the brain, and so not the lesions in it."""
    return (0.2 - np.abs(window - 0.5)) * 20.0


def surround(tissue: np.ndarray) -> np.ndarray:
    """The array with air, which is 0, at every side."""
    return np.pad(tissue[(slice(AIR, -AIR),) * 3], AIR)


@pytest.fixture(scope="module")
def volume() -> hd.Volume:
    """A head: two balls for the brain with a lesion in it, and as bright a spot in the face."""
    shape, spacing_mm = (150, 160, 140), (1.5, 1.2, 1.3)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    affine = np.diag([*spacing_mm, 1.0])
    positions = index * spacing_mm

    def ball(centre: np.ndarray, radius_mm: float) -> np.ndarray:
        return np.clip(radius_mm - np.linalg.norm(positions - centre, axis=-1) + 0.5, 0.0, 1.0)

    array = surround(np.full(shape, TISSUE))
    brain = np.maximum(ball(CENTRE_MM, RADIUS_MM), ball(HIND_MM, HIND_RADIUS_MM))
    array += (MATTER - TISSUE) * brain
    array += (SPOT - MATTER) * ball(IN_BRAIN_MM, 6.0) + (SPOT - TISSUE) * ball(IN_FACE_MM, 6.0)
    return hd.Volume(array.astype(np.float32), affine, "PATIENT")


def test_the_brain_is_where_it_is_and_its_margin_around_it_lesions_and_all(volume, spec, brain):
    prepared = prepare(volume, spec).volume
    mask = find_brain(prepared, matter, brain).mask
    positions = prepared.map_indices_to_reference(np.argwhere(mask))
    every_mm = prepared.map_indices_to_reference(np.argwhere(np.ones(mask.shape, dtype=bool)))
    outside_mm = np.minimum(
        np.linalg.norm(every_mm - CENTRE_MM, axis=1) - RADIUS_MM,
        np.linalg.norm(every_mm - HIND_MM, axis=1) - HIND_RADIUS_MM,
    )
    expected = every_mm[outside_mm < 3.0]
    assert positions.mean(0) == pytest.approx(expected.mean(0), abs=0.7)
    assert len(positions) == pytest.approx(len(expected), rel=0.06)
    assert np.linalg.norm(positions - IN_BRAIN_MM, axis=1).min() < 1.5
    assert np.linalg.norm(positions - IN_FACE_MM, axis=1).min() > 20.0


def test_a_lesion_at_the_surface_that_is_not_taken_for_brain_is_sought_all_the_same(volume, spec, brain):
    at_surface_mm = CENTRE_MM + np.array([0.0, 0.0, RADIUS_MM - 5.0])
    positions = volume.map_indices_to_reference(np.argwhere(np.ones(volume.spatial_shape, dtype=bool)))
    near = np.linalg.norm(positions - at_surface_mm, axis=1).reshape(volume.spatial_shape) < 8.0
    prepared = prepare(volume.with_array(np.where(near, np.float32(SPOT), volume.array)), spec).volume
    mask = prepared.with_array(find_brain(prepared, matter, brain).mask)
    inside = mask.map_indices_to_reference(np.argwhere(mask.array))
    assert np.linalg.norm(inside - at_surface_mm, axis=1).min() < 1.5


def test_what_hangs_on_the_brain_by_a_thread_is_no_brain(volume, spec, brain):
    positions = volume.map_indices_to_reference(np.argwhere(np.ones(volume.spatial_shape, dtype=bool)))
    along = (CENTRE_MM - IN_FACE_MM) / np.linalg.norm(CENTRE_MM - IN_FACE_MM)
    way = (positions - IN_FACE_MM) @ along
    from_axis = np.linalg.norm(positions - IN_FACE_MM - way[:, None] * along, axis=1)
    thread = (from_axis < 4.0) & (way > 0.0) & (way < np.linalg.norm(CENTRE_MM - IN_FACE_MM))
    muscle = np.linalg.norm(positions - IN_FACE_MM, axis=1) < 18.0
    there = (thread | muscle).reshape(volume.spatial_shape) & (volume.array < MATTER)
    prepared = prepare(volume.with_array(np.where(there, np.float32(MATTER), volume.array)), spec).volume
    mask = prepared.with_array(find_brain(prepared, matter, brain).mask)
    inside = mask.map_indices_to_reference(np.argwhere(mask.array))
    assert np.linalg.norm(inside - IN_FACE_MM, axis=1).min() > 20.0
    assert np.linalg.norm(inside - IN_BRAIN_MM, axis=1).min() < 1.5


def test_what_is_bright_outside_the_brain_is_no_lesion(volume, spec):
    prediction = Predictor(spec, spot, matter)(volume)
    positions = volume.map_indices_to_reference(np.argwhere(prediction.mask.array))
    assert positions.mean(0) == pytest.approx(IN_BRAIN_MM, abs=0.2)
    assert len(positions) * volume.voxel_volume == pytest.approx(4 / 3 * np.pi * 6.0**3, rel=0.06)


def test_other_thresholds_by_one_run_are_what_models_of_those_thresholds_find(volume, spec):
    choices = [PostProcessing(threshold=threshold, minimum_volume_mm3=20.0) for threshold in (0.1, 0.5, 0.9)]
    predictions = Predictor(spec, spot, matter).variants(volume, choices)
    for choice, prediction in zip(choices, predictions, strict=True):
        alone = Predictor(spec.model_copy(update={"postprocessing": choice}), spot, matter)(volume)
        assert np.array_equal(prediction.mask.array, alone.mask.array)
        assert np.array_equal(prediction.probability.array, alone.probability.array)
    voxels = [int(prediction.mask.array.sum()) for prediction in predictions]
    assert voxels[0] > voxels[1] > voxels[2] > 0


def test_where_the_images_end_in_the_brain_a_lesion_there_is_found(volume, spec):
    cut = volume[:, :, 60:]
    prediction = Predictor(spec, spot, matter)(cut)
    positions = cut.map_indices_to_reference(np.argwhere(prediction.mask.array))
    assert positions.mean(0) == pytest.approx(IN_BRAIN_MM, abs=0.2)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda window: np.full_like(window, -9.0), "0 ml of brain were found"),
        (
            lambda window: np.full_like(window, 9.0),
            "ml of brain were found; the model expects 700 to 2400",
        ),
        (lambda window: (window - 0.75) * 20.0, "ml of brain were found"),
    ],
    ids=["none", "everything", "a lesion"],
)
def test_a_volume_without_a_plausible_brain_is_refused_before_lesions_are_sought(
    volume, spec, network, sentence
):
    def never(window: np.ndarray) -> np.ndarray:
        raise AssertionError("lesions were sought")

    with pytest.raises(BrainNotFound, match=sentence):
        Predictor(spec, never, network)(volume)


def fill(inside: np.ndarray, spacing_mm: tuple[float, float, float]) -> hd.Volume:
    """Matter where inside, tissue elsewhere; the axes grow to the left, back and head."""
    array = surround(np.where(inside, np.float32(MATTER), np.float32(TISSUE)))
    return hd.Volume(array, np.diag([*spacing_mm, 1.0]), "PATIENT")


def grid_mm(side_mm: float) -> np.ndarray:
    """Positions (x, y, z, axis) from the middle of a cube, every 2 mm."""
    along = np.arange(0.0, side_mm, 2.0) - side_mm / 2
    return np.stack(np.meshgrid(along, along, along, indexing="ij"), -1)


@pytest.mark.parametrize(
    "inside",
    [
        lambda at: np.linalg.norm(at, axis=-1) < 66.0,
        lambda at: np.linalg.norm(at / (0.9, 1.2, 0.9), axis=-1) < 66.0,
        lambda at: (np.linalg.norm(at[..., :2], axis=-1) < 60.0) & (np.abs(at[..., 2]) < 70.0),
        lambda at: (np.linalg.norm(at[..., 1:], axis=-1) < 60.0) & (np.abs(at[..., 0]) < 70.0),
        lambda at: (np.abs(at) < 55.0).all(-1),
    ],
    ids=["sphere", "ellipsoid", "bottle", "lying bottle", "box"],
)
def test_a_phantom_is_not_a_brain(inside, spec, brain):
    phantom = fill(inside(grid_mm(200.0)), (2.0, 2.0, 2.0))
    with pytest.raises(BrainNotFound, match="as symmetric as a phantom"):
        find_brain(prepare(phantom, spec).volume, matter, brain)


def test_a_brain_that_the_images_cut_off_above_and_below_is_said(volume, spec):
    slab = volume[:, :, 30:100]
    (warning,) = Predictor(spec, spot, matter)(slab).warnings
    assert re.search(r"show 9[01] mm of the brain from head to foot and end within the brain", warning)
    assert Predictor(spec, spot, matter)(volume).warnings == ()


def test_half_a_brain_is_searched_and_the_reader_is_told(volume, spec):
    half = volume[60:]
    prediction = Predictor(spec, spot, matter)(half)
    assert prediction.mask.array.any()
    assert prediction.warnings[0] == (
        "The images end within the brain: lesions outside the images are not found."
    )


def test_a_neck_that_is_taken_for_brain_is_said(spec, brain):
    at = grid_mm(240.0)
    head = np.linalg.norm(at - (0.0, 0.0, 45.0), axis=-1) < 62.0
    neck = (np.linalg.norm(at[..., :2] - (0.0, 20.0), axis=-1) < 40.0) & (np.abs(at[..., 2] + 40.0) < 60.0)
    (warning,) = find_brain(prepare(fill(head | neck, (2.0, 2.0, 2.0)), spec).volume, matter, brain).warnings
    assert "measures 124 x 1" in warning
    assert "it may include the face or the neck" in warning


def test_both_networks_of_one_file_are_loaded_each_in_its_place(spec, tmp_path):
    torch.manual_seed(3)
    networks = build(spec)
    sha256 = save_weights(networks, tmp_path / "both.safetensors")
    weights = Weights(file="both.safetensors", sha256=sha256)
    loaded = Predictor.load(spec.model_copy(update={"folder": tmp_path, "weights": weights}), "cpu")
    window = np.random.default_rng(1).normal(size=(64, 64, 64)).astype(np.float32)
    for name, backend in (("lesion", loaded.backend), ("brain", loaded.brain_backend)):
        with torch.inference_mode():
            logits = networks[name].half().float().eval()(torch.from_numpy(window)[None, None])[0].numpy()
        assert backend(window[None])[0] == pytest.approx(logits[1] - logits[0], abs=0.05)


def test_a_predictor_does_without_the_brain_only_where_its_specification_does(spec):
    with pytest.raises(ValueError, match="differ about the brain"):
        Predictor(spec, spot)
    with pytest.raises(ValueError, match="differ about the brain"):
        Predictor(spec.model_copy(update={"brain": None}), spot, matter)


def test_blocks_are_averaged_and_the_last_are_filled_with_the_edge():
    array = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 3, 4), np.float32)
    assert pooled(array, 3).shape == (2, 1, 2)
    assert pooled(array, 3)[:, 0, 0] == pytest.approx([1.0, 11 / 3])
