"""What the network sees lies where the patient has it."""

import itertools

import highdicom as hd
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bench.models import SHIPPED
from errors import VolumeTooLarge
from unetr.preprocess import normalise, prepare
from unetr.spec import ClipPercentiles, DivideByMaximum, ModelSpec, ScaleRange, ZScore, load_spec
from unetr.synthesis import metastases

BLOB_RADIUS_MM = 9.0
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_spec(SHIPPED)


def volume_with_blob(affine: np.ndarray, shape: tuple[int, int, int], centre_lps_mm: np.ndarray) -> hd.Volume:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    positions = index @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(positions - centre_lps_mm, axis=-1)
    array = 100.0 + 400.0 * np.clip(BLOB_RADIUS_MM - distance + 0.5, 0.0, 1.0)
    return hd.Volume(array.astype(np.float32), affine, "PATIENT")


def blob_lps_mm(volume: hd.Volume) -> np.ndarray:
    weight = np.clip(volume.array - np.median(volume.array), 0.0, None)
    index = np.argwhere(weight > 0)
    mean = (index * weight[weight > 0][:, None]).sum(0) / weight.sum()
    return volume.map_indices_to_reference(mean[None])[0]


def affine_of(turn: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = [-31.0, 17.0, 5.0]
    return affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_blob_keeps_its_place_in_every_orientation(orientation, spec):
    axial = volume_with_blob(
        affine_of(np.eye(3), (1.0, 1.2, 2.5)), (60, 64, 40), np.array([-3.0, 60.0, 55.0])
    )
    prepared = prepare(axial.to_patient_orientation(orientation), spec).volume
    assert (
        prepared.get_closest_patient_orientation()
        == axial.to_patient_orientation("RAS").get_closest_patient_orientation()
    )
    assert blob_lps_mm(prepared) == pytest.approx([-3.0, 60.0, 55.0], abs=0.15)


@pytest.mark.parametrize("orientation", ["LAS", "SLP", "AIR"])
def test_each_axis_gets_its_own_spacing_whatever_the_acquisition(orientation, spec):
    published = spec.model_copy(
        update={
            "orientation": "LAS",
            "spacing_mm": (1.0, 1.5, 2.0),
            "crop": spec.crop.model_copy(update={"to": "none"}),
        }
    )
    acquired = volume_with_blob(
        affine_of(np.eye(3), (1.0, 1.0, 1.0)), (60, 60, 60), np.array([-3.0, 45.0, 35])
    )
    prepared = prepare(acquired.to_patient_orientation(orientation), published).volume
    assert prepared.spacing == pytest.approx((1.0, 1.5, 2.0))
    assert prepared.direction == pytest.approx(np.diag([1.0, -1.0, 1.0]))


def test_an_oblique_stack_stays_oblique_and_in_place(spec):
    turn = Rotation.from_euler("xyz", [20, -10, 5], degrees=True).as_matrix()
    centre = affine_of(turn, (1.0, 1.0, 3.0)) @ [32, 30, 18, 1]
    oblique = volume_with_blob(affine_of(turn, (1.0, 1.0, 3.0)), (64, 60, 36), centre[:3])
    prepared = prepare(oblique, spec).volume
    assert blob_lps_mm(prepared) == pytest.approx(centre[:3], abs=0.15)
    assert np.abs(prepared.direction.T @ turn).max(axis=1) == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.0, 0.9, 5.0), (1.5, 1.5, 1.5), (0.4, 3.0, 1.1)])
def test_a_ramp_keeps_its_value_at_every_place(spacing, spec):
    affine = affine_of(Rotation.from_euler("xyz", [10, 5, -8], degrees=True).as_matrix(), spacing)
    shape = tuple(int(60 / s) for s in spacing)
    raw = spec.model_copy(update={"intensity": (), "crop": spec.crop.model_copy(update={"to": "none"})})
    slope = np.array([1.0, -2.0, 0.5])

    def ramp(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
        return (index @ affine[:3, :3].T + affine[:3, 3]) @ slope

    prepared = prepare(hd.Volume(ramp(affine, shape).astype(np.float32), affine, "PATIENT"), raw).volume
    # The outermost voxels have no neighbour beyond the acquired grid to interpolate with.
    inside = (slice(3, -3),) * 3
    expected = ramp(prepared.affine, prepared.spatial_shape)
    np.testing.assert_allclose(prepared.array[inside], expected[inside], rtol=0.0, atol=0.02)


def test_stripes_too_fine_for_the_models_grid_turn_grey_rather_than_into_other_stripes(spec):
    array = np.full((60, 60, 160), 100.0, dtype=np.float32)
    array[:, :, ::2] = 300.0
    volume = hd.Volume(array, affine_of(np.eye(3), (1.5, 1.5, 0.4)), "PATIENT")
    raw = spec.model_copy(update={"intensity": (), "crop": spec.crop.model_copy(update={"to": "none"})})
    assert prepare(volume, raw).volume.array.std() < 10.0


def test_the_spacing_is_about_the_specs_and_covers_the_same_box(spec):
    volume = volume_with_blob(
        affine_of(np.eye(3), (0.5, 0.5, 1.0)), (101, 99, 70), np.array([-5.0, 42.0, 40.0])
    )
    prepared = prepare(volume, spec.model_copy(update={"crop": spec.crop.model_copy(update={"to": "none"})}))
    assert prepared.volume.spacing == pytest.approx(spec.spacing_mm, rel=0.02)
    assert prepared.volume.physical_extent == pytest.approx([50.5, 49.5, 70.0])


def test_the_head_crop_drops_air_and_keeps_the_head(spec):
    array = np.zeros((80, 100, 90), dtype=np.float32)
    array[20:60, 15:85, 30:70] = 300.0
    volume = hd.Volume(array, np.diag([1.5, 1.5, 1.5, 1.0]), "PATIENT")
    prepared = prepare(volume, spec).volume
    assert prepared.spatial_shape == (40, 70, 40)
    head_lps = volume.map_indices_to_reference(np.array([[20.0, 15.0, 30.0], [59.0, 84.0, 69.0]]))
    corners = prepared.map_indices_to_reference(np.array([[0.0, 0.0, 0.0], [39.0, 69.0, 39.0]]))
    assert np.sort(corners, axis=0) == pytest.approx(np.sort(head_lps, axis=0))


def test_intensity_steps_do_what_their_names_say():
    array = np.array([0.0, 50.0, 100.0, 200.0], dtype=np.float32).reshape(2, 2, 1)
    head = array > 0
    assert normalise(array, head, [DivideByMaximum(step="divide_by_maximum", to=255)]).max() == 255.0
    scale = ScaleRange(step="scale_range", source=(0, 100), target=(0, 1), clip=True)
    assert normalise(array, head, [scale]).ravel() == pytest.approx([0.0, 0.5, 1.0, 1.0])
    scored = normalise(array, head, [ZScore(step="zscore")])
    assert scored[head].mean() == pytest.approx(0.0, abs=1e-6)
    assert scored[head].std() == pytest.approx(1.0)
    clipped = normalise(array, head, [ClipPercentiles(step="clip_percentiles", lower=0, upper=50)])
    assert clipped.ravel() == pytest.approx([50.0, 50.0, 100.0, 100.0])


@pytest.mark.parametrize(("scale", "offset"), [(1, -1000), (1, 1000), (0.004, -0.7)])
def test_what_value_air_has_does_not_matter(scale, offset, spec):
    """Shifted by a rescale intercept, or made z-scores."""
    image = metastases.head(metastases.grid((48, 56, 48), (4.0, 4.0, 4.0)), 3).image
    expected = prepare(image, spec).volume
    array = (image.array.astype(np.float64) * scale + offset).astype(np.float32)
    changed = prepare(image.with_array(array), spec).volume
    assert changed.spatial_shape == expected.spatial_shape
    assert changed.affine == pytest.approx(expected.affine)
    np.testing.assert_allclose(changed.array, expected.array, rtol=0.0, atol=1e-3)


def test_a_volume_that_would_fill_the_memory_on_the_models_grid_is_refused(spec):
    coarse = hd.Volume(
        np.zeros((30, 30, 30), np.float32), affine_of(np.eye(3), (30.0, 30.0, 30.0)), "PATIENT"
    )
    with pytest.raises(VolumeTooLarge, match=r"grid, .* mm, the volume has \d+ x \d+ x \d+ voxels"):
        prepare(coarse, spec)


def test_the_scanners_scale_does_not_matter(spec):
    volume = volume_with_blob(
        affine_of(np.eye(3), (1.5, 1.5, 1.5)), (40, 40, 40), np.array([-5.0, 42.0, 30.0])
    )
    louder = volume.with_array(volume.array * 37.0)
    np.testing.assert_allclose(
        prepare(louder, spec).volume.array, prepare(volume, spec).volume.array, rtol=0.0, atol=1e-4
    )
