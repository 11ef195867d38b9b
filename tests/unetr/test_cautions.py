"""Where a result is beyond what the model can know, the reader is told. The seam is the backend."""

import re

import highdicom as hd
import numpy as np
import pytest

from unetr.predict import Predictor
from unetr.spec import ModelSpec, Trained

TISSUE, MATTER, SPOT = 20.0, 50.0, 100.0
CENTRE_MM, RADIUS_MM = np.array([100.0, 100.0, 100.0]), 60.0
HIND_MM, HIND_RADIUS_MM = np.array([100.0, 135.0, 60.0]), 40.0
# Within the brain; and 6 mm in front of its surface.
INSIDE_MM, IN_FRONT_MM = np.array([120.0, 100.0, 100.0]), np.array([100.0, 34.0, 100.0])


def spot(window: np.ndarray) -> np.ndarray:
    """Calls bright voxels a lesion, wherever they are."""
    return (window - 0.75) * 20.0


def matter(window: np.ndarray) -> np.ndarray:
    """Calls what has the brain's level the brain."""
    return (0.2 - np.abs(window - 0.5)) * 20.0


def head(*spots_mm: np.ndarray, radius_mm: float = 6.0) -> hd.Volume:
    """Two balls of brain in air and tissue, with bright spots."""
    spacing_mm = 1.6
    positions = np.stack(np.meshgrid(*[np.arange(125)] * 3, indexing="ij"), -1) * spacing_mm

    def ball(centre: np.ndarray, radius: float) -> np.ndarray:
        return np.clip(radius - np.linalg.norm(positions - centre, axis=-1) + 0.5, 0.0, 1.0)

    array = np.pad(np.full((119,) * 3, TISSUE), 3)
    array += (MATTER - TISSUE) * np.maximum(ball(CENTRE_MM, RADIUS_MM), ball(HIND_MM, HIND_RADIUS_MM))
    for centre in spots_mm:
        share = ball(centre, radius_mm)
        array = array * (1.0 - share) + SPOT * share
    return hd.Volume(array.astype(np.float32), np.diag([spacing_mm] * 3 + [1.0]), "PATIENT")


@pytest.fixture
def spec(reckonable_spec) -> ModelSpec:
    """For a sequence without contrast agent, about which there is no caution."""
    return reckonable_spec.model_copy(update={"inputs": ("T1",)})


def warnings_of(volume: hd.Volume, spec: ModelSpec) -> tuple[str, ...]:
    return Predictor(spec, spot, matter)(volume).warnings


def test_a_lesion_well_inside_the_brain_needs_no_caution(spec):
    assert warnings_of(head(INSIDE_MM), spec) == ()


def test_what_the_model_marks_just_outside_the_searched_region_is_told_with_its_volume(spec):
    (warning,) = warnings_of(head(INSIDE_MM, IN_FRONT_MM), spec)
    # A ball of 12 mm has 0.9 ml; the margin takes up to 3 mm of it, a quarter to a half.
    measured = re.match(r"The model also marks ([\d.]+) ml just outside", warning)
    assert measured is not None
    assert 0.3 < float(measured[1]) < 0.8
    far = IN_FRONT_MM - (0.0, 12.0, 0.0)
    assert warnings_of(head(INSIDE_MM, far), spec) == ()


def test_what_reaches_far_from_the_brain_belongs_to_the_face(spec):
    """Two balls in front of the brain that touch each other: together they reach 20 mm from the region."""
    face = (IN_FRONT_MM, IN_FRONT_MM - (0.0, 10.0, 0.0))
    assert warnings_of(head(INSIDE_MM, *face), spec) == ()


def test_a_lesion_at_the_edge_of_the_images_is_told(spec):
    volume = head(INSIDE_MM)
    cut = round(INSIDE_MM[0] / 1.6)
    warnings = warnings_of(volume[:cut], spec)
    assert any("reaches the edge of the images" in warning for warning in warnings)
    whole = warnings_of(volume[: cut + 8], spec)
    assert not any("reaches the edge of the images" in warning for warning in whole)


def test_a_lesion_larger_than_any_of_the_training_is_told(spec):
    volume = head(INSIDE_MM, radius_mm=20.0)
    (warning,) = warnings_of(volume, spec.model_copy(update={"trained": Trained(largest_mm=30.0)}))
    # A ball of 40 mm has 33.5 ml.
    assert warning.startswith(("A lesion of 33 ml", "A lesion of 34 ml"))
    assert warnings_of(volume, spec.model_copy(update={"trained": Trained(largest_mm=45.0)})) == ()


@pytest.mark.parametrize(("levels", "told"), [((0.3, 0.5), False), ((0.6, 0.9), True), ((0.1, 0.3), True)])
def test_a_brain_unlike_those_of_the_training_is_told(levels, told, spec):
    trained = Trained(largest_mm=70.0, brain_intensities=((0.1, 0.5), levels, (0.4, 1.0)))
    warnings = warnings_of(head(INSIDE_MM), spec.model_copy(update={"trained": trained}))
    assert any("unlike that of any image the model was trained with" in w for w in warnings) is told


@pytest.mark.parametrize(("sinus_mm", "told"), [(4.0, True), (14.0, False)])
def test_images_without_contrast_agent_are_told(sinus_mm, told, reckonable_spec):
    """A brain of 1.2 l; the enhancing ball has 0.03 or 1 % of it. The coil is twice as strong on one side."""
    volume = head(INSIDE_MM, radius_mm=sinus_mm)
    shading = np.linspace(0.7, 1.4, len(volume.array))[:, None, None]
    shaded = hd.Volume.with_array(volume, (volume.array * shading).astype(np.float32))
    warnings = Predictor(reckonable_spec, spot, lambda window: (window - 0.31) * 20.0)(shaded).warnings
    assert any("check that contrast agent was given" in warning for warning in warnings) is told


def test_a_lesion_of_10_mm_is_kept_however_unsure_the_model_is_of_it(spec):
    faint = hd.Volume.with_array
    volume = head(INSIDE_MM, radius_mm=6.5)
    volume = faint(volume, np.minimum(volume.array, np.float32(82.0)))
    strict = spec.postprocessing.model_copy(update={"seed_threshold": 0.999})
    with_seed = spec.model_copy(update={"postprocessing": strict})
    found = Predictor(with_seed, spot, matter)(volume).mask
    assert found.array.sum() * found.voxel_volume > 500
    small = head(INSIDE_MM, radius_mm=3.0)
    small = faint(small, np.minimum(small.array, np.float32(82.0)))
    assert not Predictor(with_seed, spot, matter)(small).mask.array.any()
    assert Predictor(spec, spot, matter)(small).mask.array.any()
