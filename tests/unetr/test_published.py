"""The specification of the published UNETR does to a head what its own project did, by MONAI's transforms."""

import warnings

import highdicom as hd
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.utils import sliding_window_inference
from monai.transforms import CropForeground, Orientation, ScaleIntensityRange, Spacing
from scipy.spatial.transform import Rotation

from errors import ModelError
from tests.published import ARGUMENTS
from unetr.import_checkpoint import published_spec
from unetr.network import build
from unetr.predict import Predictor
from unetr.preprocess import prepare
from unetr.sliding import slide
from unetr.spec import ModelSpec

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return published_spec("theirs", ARGUMENTS)


@pytest.fixture(scope="module")
def network(spec) -> torch.nn.Module:
    torch.manual_seed(5)
    return build(spec)["lesion"].eval()


def volume(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], turn_degrees: float = 0.0
) -> hd.Volume:
    """Smooth structure with a bright voxel, which resampling alone would lower, and air around it."""
    affine = np.eye(4)
    axial = (
        np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
        @ Rotation.from_euler("x", turn_degrees, degrees=True).as_matrix()
    )
    affine[:3, :3] = axial * spacing_mm
    affine[:3, 3] = [-60.0, 20.0, 5.0]
    random = np.random.default_rng(2).normal(size=shape)
    array = 300.0 + 150.0 * random
    array[shape[0] // 2, shape[1] // 2, shape[2] // 2] = 2500.0
    array[:, :10] = 0.0
    return hd.Volume(np.clip(array, 0.0, None).astype(np.float32), affine, "PATIENT")


def published(head: hd.Volume) -> MetaTensor:
    """Return what the published inference feeds its windows from, (channel, x, y, z)."""
    image = MetaTensor(torch.from_numpy(head.array)[None], affine=torch.from_numpy(LPS_TO_RAS @ head.affine))
    image = image / image.max() * 255.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Orientation("LAS")(image)
    image = Spacing((1.5, 1.5, 2.0), mode="bilinear")(image)
    image = ScaleIntensityRange(-200.0, 300.0, 0.0, 1.0, clip=True)(image)
    return CropForeground()(image)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "turn_degrees"),
    [
        ((30, 120, 100), (1.6, 1.0, 1.0), 0.0),
        ((30, 150, 260), (5.0, 0.5, 0.5), 12.0),
        ((40, 31, 77), (2.0, 1.5, 1.5), 0.0),
    ],
)  # fmt: skip
def test_the_same_tensor_and_the_same_logits(spec, network, shape, spacing_mm, turn_degrees):
    head = volume(shape, spacing_mm, turn_degrees)
    theirs = published(head)
    prepared = prepare(head, spec)
    assert prepared.array.shape == tuple(theirs.shape)
    assert prepared.volume.affine == pytest.approx(LPS_TO_RAS @ theirs.affine.numpy(), abs=1e-4)
    np.testing.assert_allclose(prepared.array, theirs.numpy(), rtol=0.0, atol=1e-4)

    with torch.inference_mode():
        answer = sliding_window_inference(theirs[None].as_tensor(), (32, 32, 32), 4, network, overlap=0.0)[0]
        expected = (answer[1] - answer[0]).numpy()

        def backend(window: np.ndarray) -> np.ndarray:
            logits = network(torch.from_numpy(window)[None])[0]
            return (logits[1:] - logits[:1]).numpy()

        logits = slide(prepared.array, backend, spec.window, labels=1)[0]
    assert logits == pytest.approx(expected, abs=1e-3)


def test_small_components_are_counted_in_voxels_of_the_acquired_grid(spec):
    """They dropped components of fewer than 100 voxels after the way back, whatever a voxel's size."""
    affine = np.diag([1.0, 0.5, 0.5, 1.0])[[2, 1, 0, 3]].astype(float)
    array = np.full((60, 120, 120), 20.0, dtype=np.float32)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij"), -1) * (1.0, 0.5, 0.5)
    sizes = {}
    for centre, radius_mm in (((15, 15, 15), 3.0), ((15, 45, 45), 1.6)):
        ball = np.linalg.norm(index - centre, axis=-1) < radius_mm
        sizes[radius_mm] = int(ball.sum())
        array[ball] = 255.0
    head = hd.Volume(array, affine, "PATIENT")
    by_level = Predictor(spec, lambda window: (window - 0.66) * 50.0)
    mask = by_level(head).mask.array > 0
    assert sizes[3.0] > 300
    assert sizes[1.6] < 100
    assert mask[15, 30, 30]
    assert not mask[:, 60:].any()
    # The same voxels at 4 mm: the smaller lesion has 4 ml and is dropped all the same.
    coarse = hd.Volume(array, np.diag([4.0, 4.0, 4.0, 1.0])[[2, 1, 0, 3]].astype(float), "PATIENT")
    mask = by_level(coarse).mask.array > 0
    assert mask[15, 30, 30]
    assert not mask[:, 60:].any()


def test_logits_that_are_not_numbers_fail_the_prediction(spec):
    head = volume((30, 60, 60), (2.0, 1.5, 1.5))
    with pytest.raises(ModelError, match="not finite"):
        Predictor(spec, lambda window: np.full(window.shape, np.nan, dtype=np.float32))(head)
