"""Lesions of known size and place, measured from their masks."""

import json
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from scipy import ndimage

from bench.metrology import ORIENTATIONS, Ellipsoid, ellipsoids, errors, to_mask
from errors import EmptyLesion, TooManyLesions
from imaging.stack import SliceReference
from lesions.axial import to_axial
from lesions.measure import Identity, Plane, components, measure, objects
from schemas.results import LesionAnswer

AXIAL = ORIENTATIONS["axial"]
POSITION_MM = np.array([12.0, -7.0, 31.0])
OFF_CENTRE_MM = np.array([0.37, 0.21])


def tilted_axes(angle_deg):
    """Axial slices whose normal is tilted to the back; the rows of the matrix are slices, rows, columns."""
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return np.array([[0, -sin, cos], [0, cos, sin], [1, 0, 0]])


def volume(array, spacing_mm=(1, 1, 1), orientation=AXIAL):
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(orientation).T * np.asarray(spacing_mm)
    affine[:3, 3] = POSITION_MM
    return hd.Volume(np.asarray(array), affine, "PATIENT")


def slices_of(labels):
    return [SliceReference(f"1.2.3.{k}") for k in range(labels.spatial_shape[0])]


def measure_one(mask):
    labels = mask.astype(np.int32)
    (lesion,) = measure(labels, slices_of(labels))
    return lesion


def length(line):
    return float(np.linalg.norm(np.subtract(*line)))


def disc_grid(radius_mm, spacing_mm=(1.0, 1.0), count=3):
    """x and y in mm, from a centre off the pixel centres, of `count` equal slices around a disc."""
    n = [int(radius_mm / s) + 3 for s in spacing_mm]
    y = np.arange(-n[0], n[0] + 1)[None, :, None] * spacing_mm[0] - OFF_CENTRE_MM[1]
    x = np.arange(-n[1], n[1] + 1)[None, None, :] * spacing_mm[1] - OFF_CENTRE_MM[0]
    return np.broadcast_arrays(x + 0 * np.arange(count)[:, None, None], y)


def open_ring(outer_mm, inner_mm, spacing_mm=(1.0, 1.0)):
    """A C: an annulus with its right quarter cut out, so that its middle is no hole but outside."""
    x, y = disc_grid(outer_mm, spacing_mm)
    radius = np.hypot(x, y)
    return (radius <= outer_mm) & (radius >= inner_mm) & ~((x > 0) & (abs(y) < x))


def irregular(shape=(14, 30, 34), seed=3):
    """The largest piece of thresholded smooth noise: a lesion without any symmetry."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (1.5, 3, 3))
    return np.asarray(components(volume(np.pad(noise > 0.02, 3))).array == 1)


# Bounds in mm. At 1 mm isotropic the best reading of a binary mask known to us that also serves concave
# lesions (Gaussian of 0.7 px, contour at 0.5) has an RMSE of 0.38; elsewhere half a pixel diagonal, and
# for 3 mm slices what a sphere of 10 mm loses where its widest section falls between two slices.
@pytest.mark.parametrize(
    ("orientation", "spacing_mm", "bias_mm", "rmse_mm"),
    [
        ("axial", (1.0, 1.0, 1.0), 0.3, 0.4),
        ("axial", (1.0, 0.5, 0.5), 0.2, 0.35),
        ("axial", (1.0, 0.5, 1.0), 0.4, 0.55),
        ("axial", (3.0, 1.0, 1.0), 0.4, 0.6),
        ("coronal", (1.0, 1.0, 1.0), 0.3, 0.4),
        ("oblique 35°", (1.0, 1.0, 1.0), 0.3, 0.4),
    ],
)
def test_known_diameters_and_volumes_are_found(orientation, spacing_mm, bias_mm, rmse_mm):
    deviations = errors(orientation, spacing_mm, (10, 30), count=30, seed=11)
    bias, rmse = deviations.mean(axis=0), np.sqrt((deviations**2).mean(axis=0))
    assert abs(bias[:2]).max() <= bias_mm
    assert rmse[:2].max() <= rmse_mm
    assert abs(bias[2]) <= 2.0


@pytest.mark.parametrize(("diameter_mm", "measurable"), [(8.0, 0), (9.0, 0), (12.0, 30), (16.0, 30)])
def test_thick_slices_along_another_axis_make_no_lesion_longer(diameter_mm, measurable):
    random, semi_axes_mm = np.random.default_rng(4), np.full(3, diameter_mm / 2)
    spheres = [Ellipsoid(random.uniform(-5, 5, 3), semi_axes_mm, np.eye(3)) for _ in range(30)]
    measured = [measure_one(to_mask(sphere, ORIENTATIONS["sagittal"], (5.0, 0.9, 0.9))) for sphere in spheres]
    assert abs(np.mean([lesion.long_axis_mm - diameter_mm for lesion in measured])) < 1.0
    assert sum(lesion.measurable for lesion in measured) == measurable


def test_small_lesions_are_neither_shrunk_nor_lost():
    deviations = errors("axial", (1.0, 1.0, 1.0), (4, 8), count=30, seed=5)
    assert len(deviations) == 30
    assert abs(deviations[:, :2].mean(axis=0)).max() <= 0.4
    assert abs(deviations[:, :2]).max() <= 1.5


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique 35°"])
def test_an_ellipsoid_measures_the_same_in_every_acquisition(orientation):
    turn = np.deg2rad(25)
    axes = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    ellipsoid = Ellipsoid(np.array([3.3, -2.1, 1.4]), np.array([12.0, 7.0, 9.0]), axes)
    lesion = measure_one(to_mask(ellipsoid, ORIENTATIONS[orientation], (1.0, 1.0, 1.0)))
    assert lesion.long_axis_mm == pytest.approx(24, abs=0.8)
    assert lesion.short_axis_mm == pytest.approx(14, abs=0.8)
    ends = np.array(lesion.long_axis_lps)
    assert ends[0, 2] == pytest.approx(ends[1, 2], abs=1e-6)
    truth = ellipsoid.centre_mm + 12 * np.array([-axes[0], axes[0]])
    assert abs(ends[:, :2] - truth[:, :2]).max() < 1.5
    assert ends[0, 2] == pytest.approx(ellipsoid.centre_mm[2], abs=1.5)
    assert lesion.centroid_lps_mm == pytest.approx(ellipsoid.centre_mm, abs=0.2)
    assert lesion.volume_ml == pytest.approx(ellipsoid.volume_ml, rel=0.02)


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "acquisition"),
        (AXIAL * [[-1], [1], [1]], "acquisition"),
        (tilted_axes(15.0), "acquisition"),
        (tilted_axes(19.9), "acquisition"),
        (tilted_axes(20.1), "resampled_axial"),
        (ORIENTATIONS["oblique 35°"], "resampled_axial"),
        (ORIENTATIONS["sagittal"], "resampled_axial"),
        (ORIENTATIONS["coronal"], "resampled_axial"),
    ],
)
def test_the_plane_is_the_acquisitions_up_to_20_degrees_from_axial(orientation, plane):
    mask = np.zeros((9, 20, 20), bool)
    mask[2:7, 5:15, 4:10] = True
    lesion = measure_one(volume(mask, (1.2, 0.8, 0.8), orientation))
    assert lesion.measurement_plane == plane
    ends = np.array(lesion.long_axis_lps)
    if plane == "acquisition":
        assert lesion.plane is None
        assert lesion.slice.sop_instance_uid == f"1.2.3.{lesion.slice.index}"
        place = POSITION_MM + orientation[0] * 1.2 * lesion.slice.index
        assert (ends - place) @ orientation[0] == pytest.approx(0, abs=1e-6)
    else:
        assert lesion.slice.sop_instance_uid is None
        assert lesion.slice.index is None
        assert lesion.plane.normal_lps == pytest.approx((0, 0, 1))
        assert lesion.plane.spacing_mm == pytest.approx(0.8)
        assert ends[:, 2] == pytest.approx(lesion.plane.origin_lps_mm[2], abs=1e-6)


def test_the_slice_is_the_one_that_holds_the_line():
    labels = np.zeros((6, 20, 20), np.int32)
    labels[1:5, 8:12, 8:12] = 1
    labels[3, 9:11, 3:17] = 1
    frames = [SliceReference("1.2.3", frame=k + 1) for k in range(6)]
    (lesion,) = measure(volume(labels, (2, 1, 1)), frames)
    assert (lesion.slice.sop_instance_uid, lesion.slice.frame, lesion.slice.index) == ("1.2.3", 4, 3)
    assert lesion.slices_spanned == 4
    assert lesion.bounding_box == {"first": (1, 8, 3), "last": (4, 11, 16)}


def test_the_long_axis_of_a_c_shape_does_not_cross_its_opening():
    lesion = measure_one(volume(open_ring(15, 9)))
    # The longest straight line in the annulus touches the inner circle: 2 sqrt(15² - 9²) = 24 mm; half a
    # pixel of tolerance lets it in to 8.5 mm, and the mask gives its two borders to 0.3 mm: from
    # 2 sqrt(14.7² - 9.3²) to 2 sqrt(15.3² - 8.2²). From edge to edge the C is 30 mm wide.
    assert 22.8 <= lesion.long_axis_mm <= 25.9
    assert lesion.feret_mm == pytest.approx(30, abs=0.8)
    centre = POSITION_MM[:2] + 18 + OFF_CENTRE_MM
    along = np.linspace(*np.array(lesion.long_axis_lps)[:, :2], 200)
    assert np.hypot(*(along - centre).T).min() >= 9 - 1.0


def test_a_c_shape_of_60_mm_at_half_a_millimetre():
    lesion = measure_one(volume(open_ring(30, 18, (0.5, 0.5)), (1, 0.5, 0.5)))
    assert 47.7 <= lesion.long_axis_mm <= 49.2
    assert lesion.feret_mm == pytest.approx(60, abs=0.6)


def test_a_ring_is_measured_from_outer_edge_to_outer_edge_but_its_volume_is_what_was_segmented():
    x, y = disc_grid(12)
    ring = (np.hypot(x, y) <= 12) & (np.hypot(x, y) >= 9)
    lesion = measure_one(volume(ring))
    assert lesion.long_axis_mm == pytest.approx(24, abs=0.8)
    assert lesion.short_axis_mm == pytest.approx(24, abs=0.8)
    assert lesion.voxel_count == ring.sum()
    assert lesion.volume_ml == pytest.approx(ring.sum() / 1000)


def test_the_hole_of_a_ring_whose_pixels_touch_at_their_corners_counts_as_lesion():
    y, x = np.mgrid[-9:10, -9:10]
    diamond = np.zeros((3, 19, 19), bool)
    diamond[1] = abs(x) + abs(y) == 6
    lesion = measure_one(volume(diamond))
    # From tip to tip 12 mm between pixel centres; without the hole no chord is longer than an edge of 8.5 mm.
    assert lesion.long_axis_mm == pytest.approx(12.5, abs=0.5)
    assert lesion.short_axis_mm == pytest.approx(12.5, abs=0.5)
    assert lesion.voxel_count == 24


def test_the_long_axis_of_a_dumbbell_runs_through_its_bridge():
    dumbbell = np.zeros((3, 15, 31), bool)
    dumbbell[1, 3:12, 3:12] = dumbbell[1, 3:12, 19:28] = dumbbell[1, 7:9, 12:19] = True
    lesion = measure_one(volume(dumbbell))
    # 25 mm from end to end; a bridge 7 mm long and 2 mm wide lets the line tilt by 2 in 7, half a pixel of
    # tolerance by 3 in 7.
    assert 25 <= lesion.long_axis_mm <= 25 * np.hypot(1, 3 / 7)
    # The squares alone have a diagonal of 12.7 mm.
    ends = np.array(lesion.long_axis_lps) - POSITION_MM
    assert ends[0, 0] < 7
    assert ends[1, 0] > 23


def test_the_short_axis_lies_on_the_side_of_the_long_axis_where_the_lesion_is():
    y, x = np.mgrid[-20:21, -20:21]
    half_disc = np.zeros((3, 41, 41), bool)
    half_disc[1] = (np.hypot(x, y) <= 15) & (y >= 0)
    lesion = measure_one(volume(half_disc))
    flat_side_mm, top_mm = POSITION_MM[1] + 19.5, POSITION_MM[1] + 35.25
    rows_mm = sorted(end[1] for end in lesion.short_axis_lps)
    assert rows_mm == pytest.approx([flat_side_mm, top_mm], abs=0.75)
    assert [end[0] for end in lesion.short_axis_lps] == pytest.approx([POSITION_MM[0] + 20] * 2, abs=0.75)


@pytest.mark.parametrize("radius_mm", [4.0, 7.0, 8.0])
def test_the_short_axis_of_a_disc_is_not_longer_than_its_long_axis(radius_mm):
    y, x = np.mgrid[-10:15, -15:10]
    disc = np.zeros((3, 25, 25), bool)
    disc[1] = np.hypot(x, y) <= radius_mm
    lesion = measure_one(volume(disc))
    assert lesion.short_axis_mm <= lesion.long_axis_mm
    assert length(lesion.short_axis_lps) == pytest.approx(lesion.short_axis_mm, abs=1e-6)
    middle = np.mean(lesion.short_axis_lps, axis=0)
    assert middle == pytest.approx(POSITION_MM + np.array([15, 10, 1]), abs=0.5)


def test_a_slice_that_is_less_wide_may_hold_the_long_axis():
    # Pixels of 4 mm: an angle whose longest inner line is 22.6 mm, and a row of 24 mm, which is less wide.
    mask = np.zeros((2, 12, 12), bool)
    mask[0, 3:5, 3:8] = mask[0, 3:8, 3:5] = True
    mask[1, 3, 3:9] = True
    lesion = measure_one(volume(mask, (1, 4, 4)))
    assert lesion.long_axis_mm == pytest.approx(24, abs=0.05)
    assert lesion.slice.index == 1


def test_a_line_between_two_of_the_directions_in_which_the_width_is_measured_is_not_passed_over():
    # A row of 199 mm, and a bar of 200 mm tilted by half the angle between two of these directions.
    mask = np.zeros((2, 60, 220), bool)
    mask[0, 30, 5:204] = True
    y, x = np.mgrid[-30:30, -110:110]
    cos, sin = np.cos(np.pi / 16), np.sin(np.pi / 16)
    mask[1] = (abs(x * cos + y * sin) <= 100) & (abs(y * cos - x * sin) <= 1.5)
    lesion = measure_one(volume(mask))
    assert lesion.long_axis_mm == pytest.approx(200.5, abs=0.9)
    assert lesion.slice.index == 1


def test_of_equal_slices_the_middle_one_is_measured():
    x, y = disc_grid(8, count=7)
    mask = np.hypot(x, y) <= 8
    mask[[0, 6]] = False
    assert measure_one(volume(mask)).slice.index == 3


def test_no_axis_of_a_beam_with_flanges_leaves_it_between_flange_and_web():
    beam = np.zeros((3, 27, 37), bool)
    beam[1, 3:24, 3:6] = beam[1, 3:24, 31:34] = beam[1, 8:19, 3:34] = True
    lesion = measure_one(volume(beam))
    # The web, 11 mm high between the flanges 25 mm apart, lets a line over 31 mm tilt by 11 in 25, and by 12
    # in 25 with half a pixel of tolerance at both ends; the corners, rounded a little, are 37.4 mm apart.
    assert 31 * np.hypot(1, 11 / 25) - 0.7 <= lesion.long_axis_mm <= 31 * np.hypot(1, 12 / 25) + 0.7
    assert lesion.feret_mm == pytest.approx(np.hypot(31, 21), abs=1.5)


def test_thick_slices_end_half_way_to_the_next():
    slab = np.zeros((5, 20, 20), np.uint8)
    slab[2, 4:16, 4:16] = 1
    axial = to_axial(volume(slab, (4, 1, 1), ORIENTATIONS["sagittal"]))
    middle = axial.array[axial.shape[0] // 2, axial.shape[1] // 2]
    # 4 mm: three points inside, and one on either border.
    assert middle[middle > 0].tolist() == pytest.approx([0.5, 1, 1, 1, 0.5], abs=1e-4)


@pytest.mark.parametrize("spacing_mm", [0.5, 2.0])
def test_cubic_voxels_resampled_along_their_own_axes_stay_as_they_are(spacing_mm):
    block = np.zeros((9, 9, 9), np.uint8)
    block[2:7, 3:6, 2:5] = 1
    block[3, 3, 2] = 0
    sagittal = volume(block, [spacing_mm] * 3, ORIENTATIONS["sagittal"])
    axial = to_axial(sagittal)
    assert axial.spacing == pytest.approx([spacing_mm] * 3)
    values, counts = np.unique(axial.array.round(4), return_counts=True)
    assert values.tolist() == [0, 1]
    assert counts[1] == 44
    expected_mm = sagittal.map_indices_to_reference(np.argwhere(block).astype(float))
    found_mm = axial.map_indices_to_reference(np.argwhere(axial.array > 0.5).astype(float))
    assert sorted(found_mm.round(3).tolist()) == sorted(expected_mm.round(3).tolist())


def test_a_resampled_grid_has_a_point_on_the_voxel_nearest_to_the_centroid():
    cross = np.zeros((5, 7, 7), np.uint8)
    cross[1:4, 3, 3] = cross[2, 3, 2:5] = 1
    sagittal = volume(cross, (5, 0.9, 0.9), ORIENTATIONS["sagittal"])
    axial = to_axial(sagittal)
    index = axial.map_reference_to_indices(sagittal.map_indices_to_reference(np.array([[2.0, 3.0, 3.0]])))
    assert index == pytest.approx(index.round(), abs=1e-6)


@pytest.mark.parametrize("orientation", ["axial", "coronal", "oblique 35°"])
def test_one_voxel_has_its_own_extent(orientation):
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    lesion = measure_one(volume(mask, (1, 1, 1), ORIENTATIONS[orientation]))
    assert 0.9 <= lesion.long_axis_mm <= np.sqrt(2)
    assert 0.5 <= lesion.short_axis_mm <= lesion.long_axis_mm
    assert lesion.volume_ml == pytest.approx(0.001)
    assert not lesion.measurable


def test_one_voxel_at_the_corner_of_the_volume_with_oblong_pixels():
    mask = np.zeros((2, 3, 3), bool)
    mask[0, 0, 0] = True
    lesion = measure_one(volume(mask, (1, 0.5, 1.0)))
    assert lesion.long_axis_mm == pytest.approx(1.0)
    assert lesion.short_axis_mm == pytest.approx(0.5)
    assert lesion.centroid_lps_mm == pytest.approx(POSITION_MM)


@pytest.mark.parametrize(("row", "along_mm", "across_mm"), [(True, 1.0, 0.5), (False, 0.5, 1.0)])
def test_one_row_is_as_long_as_its_pixels(row, along_mm, across_mm):
    mask = np.zeros((3, 12, 12), bool)
    mask[1, 4, 2:9] = True
    lesion = measure_one(volume(mask if row else mask.swapaxes(1, 2), (1, 0.5, 1.0)))
    assert lesion.long_axis_mm == pytest.approx(7 * along_mm, abs=0.05)
    assert lesion.short_axis_mm == pytest.approx(across_mm, abs=0.05)


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (1, 0.5, 1.0), (2, 0.7, 0.4)])
def test_the_axes_are_perpendicular_in_one_slice_and_as_long_as_their_end_points_say(spacing_mm):
    for seed in range(4):
        lesion = measure_one(volume(irregular(seed=seed), spacing_mm))
        long, short = (np.subtract(*line) for line in (lesion.long_axis_lps, lesion.short_axis_lps))
        assert length(lesion.long_axis_lps) == pytest.approx(lesion.long_axis_mm, abs=1e-6)
        assert length(lesion.short_axis_lps) == pytest.approx(lesion.short_axis_mm, abs=1e-6)
        assert abs(long @ short) <= 0.01 * lesion.long_axis_mm * lesion.short_axis_mm
        heights = np.array([*lesion.long_axis_lps, *lesion.short_axis_lps])[:, 2]
        assert heights == pytest.approx(heights[0], abs=1e-6)
        assert lesion.short_axis_mm <= lesion.long_axis_mm <= lesion.feret_mm


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_flipped_volume_measures_the_same_in_the_same_place(axes):
    mask = volume(irregular(), (2, 0.7, 0.9)).astype(np.int32)
    plain, flipped = measure_one(mask), measure_one(mask.flip_spatial(axes))
    assert flipped.long_axis_mm == pytest.approx(plain.long_axis_mm, abs=1e-6)
    assert flipped.short_axis_mm == pytest.approx(plain.short_axis_mm, abs=1e-2)
    assert np.array(flipped.long_axis_lps) == pytest.approx(np.array(plain.long_axis_lps), abs=1e-6)
    assert flipped.centroid_lps_mm == pytest.approx(plain.centroid_lps_mm)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_the_same_voxels_stored_as_sagittal_or_coronal_measure_the_same(order):
    mask = volume(irregular()).astype(np.int32)
    plain, permuted = measure_one(mask), measure_one(mask.permute_spatial_axes(order))
    assert permuted.long_axis_mm == pytest.approx(plain.long_axis_mm, abs=1e-4)
    assert np.array(permuted.long_axis_lps) == pytest.approx(np.array(plain.long_axis_lps), abs=1e-4)


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert components(volume(mask)).array.max() == 1


def test_components_are_numbered_from_the_largest_down_and_ties_from_the_first_slice_on():
    mask = np.zeros((9, 9, 9), bool)
    mask[6, 1, 1] = True
    mask[1, 6, 6] = True
    mask[3:6, 4:6, 4:6] = True
    mask[8, 2, 7] = mask[8, 2, 2] = mask[8, 7, 1] = True
    labels = components(volume(mask))
    assert [labels.array[8, 2, 2], labels.array[8, 2, 7], labels.array[8, 7, 1]] == [4, 5, 6]
    assert labels.array.dtype == np.int32
    assert [labels.array[4, 4, 4], labels.array[1, 6, 6], labels.array[6, 1, 1]] == [1, 2, 3]
    assert ((labels.array > 0) == mask).all()
    assert np.array_equal(labels.affine, volume(mask).affine)


def test_equally_large_components_are_ordered_by_where_their_boxes_start():
    # Both begin in row 2 of one slice; the diagonal one reaches further to the left.
    mask = np.zeros((3, 12, 12), bool)
    mask[1, [2, 2, 2, 2, 3, 3, 3, 4], [3, 4, 5, 6, 3, 4, 5, 3]] = True
    diagonal = np.arange(8)
    mask[1, 2 + diagonal, 9 - diagonal] = True
    labels = components(volume(mask)).array
    assert np.bincount(labels.ravel())[1:].tolist() == [8, 8]
    assert [labels[1, 9, 2], labels[1, 2, 3]] == [1, 2]


def test_touching_labels_of_different_value_stay_apart():
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[1, :, :3], mask[1, :, 3] = 1, 2
    assert np.array_equal(components(volume(mask)).array, mask)


def test_a_label_that_is_one_object_is_numbered_once_and_each_piece_of_another_label_by_itself():
    mask = np.zeros((6, 12, 12), np.uint8)
    mask[1, 1:3, 1:3] = 5
    mask[4, 8:11, 8:11] = 5
    mask[1, 6:9, 6:9] = mask[4, 1, 1] = 2
    mask[1, 1, 9:11] = 7
    numbers, values = objects(volume(mask), whole=[5, 7])
    assert values == {1: 2, 2: 2, 3: 5, 4: 7}
    assert numbers.array.dtype == np.int32
    assert np.bincount(numbers.array.ravel()).tolist() == [6 * 12 * 12 - 9 - 1 - 13 - 2, 9, 1, 13, 2]
    assert [numbers.array[at] for at in ((1, 6, 6), (4, 1, 1), (1, 1, 1), (4, 9, 9), (1, 1, 9))] == [
        1, 2, 3, 3, 4
    ]  # fmt: skip
    assert np.array_equal(numbers.affine, volume(mask).affine)


def test_an_empty_mask_has_no_objects():
    numbers, values = objects(volume(np.zeros((3, 4, 4), np.uint8)), whole=[1])
    assert values == {}
    assert not numbers.array.any()


def test_a_lesion_may_fill_the_volume():
    labels = components(volume(np.ones((3, 5, 6), np.uint8)))
    (lesion,) = measure(labels, slices_of(labels))
    assert (lesion.voxel_count, lesion.slices_spanned) == (90, 3)
    assert lesion.bounding_box == {"first": (0, 0, 0), "last": (2, 4, 5)}


def test_each_of_two_lesions_has_its_own_box():
    labels = np.zeros((8, 20, 20), np.int32)
    labels[1:3, 2:5, 4:9], labels[4:7, 11:14, 12:16] = 1, 2
    first, second = measure(volume(labels), slices_of(volume(labels)))
    assert first.bounding_box == {"first": (1, 2, 4), "last": (2, 4, 8)}
    assert second.bounding_box == {"first": (4, 11, 12), "last": (6, 13, 15)}
    assert second.centroid_lps_mm == pytest.approx(POSITION_MM + np.array([13.5, 12, 5]))


def test_an_empty_mask_has_no_lesions():
    labels = components(volume(np.zeros((3, 4, 4), bool)))
    assert not labels.array.any()
    assert measure(labels, slices_of(labels)) == []


def test_known_lesions_keep_their_identity_and_new_ones_get_a_fresh_uid():
    labels = np.zeros((4, 10, 10), np.int32)
    labels[1:3, 1:3, 1:3], labels[1:3, 6:9, 6:9] = 2, 5
    identity = Identity("Left frontal", "BM-7", "1.2.840.7")
    measurements = [
        measure(volume(labels), slices_of(volume(labels)), identities={5: identity}) for _ in range(2)
    ]
    for new, old in measurements:
        assert (new.number, new.name, new.tracking_id) == (2, "Metastasis 2", "BM-2")
        assert (old.number, old.name, old.tracking_id, old.tracking_uid) == (
            5,
            "Left frontal",
            "BM-7",
            "1.2.840.7",
        )
    assert hd.UID(measurements[0][0].tracking_uid).is_valid
    assert measurements[0][0].tracking_uid != measurements[1][0].tracking_uid


def test_an_identity_without_voxels_is_an_error():
    labels = volume(np.zeros((2, 4, 4), np.int32))
    with pytest.raises(EmptyLesion, match="Label 3"):
        measure(labels, slices_of(labels), identities={3: Identity("Metastasis 3", "BM-3", "1.2.3")})


def test_the_mean_probability_is_over_the_lesions_own_voxels():
    labels = np.zeros((3, 6, 6), np.int32)
    labels[1, 2, 2:4], labels[1, 3, 3] = 1, 2
    probability = np.full(labels.shape, 0.1, np.float32)
    probability[1, 2, 2:4] = 0.6, 0.9
    first, _ = measure(volume(labels), slices_of(volume(labels)), volume(probability))
    assert first.mean_probability == pytest.approx(0.75)
    assert measure_one(volume(labels == 1)).mean_probability is None


def test_slices_or_probability_of_another_grid_are_refused():
    labels = volume(np.ones((3, 4, 4), np.int32))
    with pytest.raises(ValueError, match="2 slice references for 3 slices"):
        measure(labels, slices_of(labels)[:2])
    with pytest.raises(ValueError, match="different grids"):
        measure(labels, slices_of(labels), volume(np.ones((3, 4, 4), np.float32), (2, 1, 1)))


def test_a_lesion_becomes_json_that_can_be_drawn_again():
    (ellipsoid,) = ellipsoids(1, (12, 12), seed=2)
    for orientation in ("axial", "coronal"):
        lesion = measure_one(to_mask(ellipsoid, ORIENTATIONS[orientation], (1.0, 0.9, 0.9)))
        document = json.loads(json.dumps(LesionAnswer.of(lesion).model_dump(mode="json")))
        assert set(document) == {
            "number", "name", "tracking_id", "tracking_uid", "volume_ml", "voxel_count", "long_axis_mm",
            "short_axis_mm", "feret_mm", "long_axis_lps", "short_axis_lps", "slice", "measurement_plane",
            "plane", "slices_spanned", "centroid_lps_mm", "bounding_box", "mean_probability", "confidence",
            "measurable", "measurable_reason",
        }  # fmt: skip
        assert length(document["long_axis_lps"]) == pytest.approx(document["long_axis_mm"], abs=1e-3)
        assert set(document["slice"]) == {"sop_instance_uid", "frame", "index"}
        assert document["long_axis_mm"] == pytest.approx(12, abs=0.9)


def test_json_has_mm_to_4_decimals_ml_to_6_and_probabilities_to_4():
    (ellipsoid,) = ellipsoids(1, (12, 12), seed=2)
    lesion = replace(
        measure_one(to_mask(ellipsoid, AXIAL, (1.0, 1.0, 1.0))),
        volume_ml=1.23456789,
        long_axis_mm=12.345678,
        short_axis_mm=7.654321,
        feret_mm=12.000044,
        long_axis_lps=((1.000049, 2.0, 3.99996), (4.123456, 5.0, 6.0)),
        short_axis_lps=((0.0, -1.000051, 2.0), (1.0, 2.0, -3.00009)),
        centroid_lps_mm=(0.123449, 0.123451, -31.987654),
        plane=Plane((1.111149, 2.0, 3.0), (0.0, 0.0, 0.999999), 0.897654),
        mean_probability=0.123456,
        confidence=0.98764,
    )
    expected = {
        "volume_ml": 1.234568,
        "long_axis_mm": 12.3457,
        "short_axis_mm": 7.6543,
        "feret_mm": 12.0,
        "long_axis_lps": [[1.0, 2.0, 4.0], [4.1235, 5.0, 6.0]],
        "short_axis_lps": [[0.0, -1.0001, 2.0], [1.0, 2.0, -3.0001]],
        "centroid_lps_mm": [0.1234, 0.1235, -31.9877],
        "plane": {"origin_lps_mm": [1.1111, 2.0, 3.0], "normal_lps": [0.0, 0.0, 1.0], "spacing_mm": 0.8977},
        "mean_probability": 0.1235,
        "confidence": 0.9876,
    }
    document = LesionAnswer.of(lesion).model_dump(mode="json")
    assert {name: document[name] for name in expected} == expected


def test_more_lesions_than_a_seg_can_hold_are_refused():
    noise = np.zeros((80, 100, 100), np.uint8)
    noise[::2, ::2, ::2] = 1
    labels = components(hd.Volume(noise, np.eye(4), "PATIENT"))
    assert labels.array.max() == 100_000
    with pytest.raises(TooManyLesions, match="has 100000 lesions; a SEG can hold 65535"):
        measure(labels, [SliceReference(None)] * 80)
