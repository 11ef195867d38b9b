"""Surfaces in the patient's mm, and the page that shows them."""

import json
import re

import highdicom as hd
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imaging.seg import colour
from imaging.stack import SliceReference
from lesions.measure import components, measure
from reports.mesh import save_mesh, surface

CENTRE_MM = np.array([31.0, -17.5, 44.0])


def oblique(shape: tuple[int, int, int], spacing: tuple[float, float, float], mirrored: bool) -> hd.Volume:
    """An empty grid about CENTRE_MM. mirrored: its axes are left-handed."""
    turn = Rotation.from_euler("xyz", [25, -14, 33], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn[:, [2, 1, 0] if mirrored else [0, 1, 2]] * spacing
    affine[:3, 3] = CENTRE_MM - affine[:3, :3] @ ((np.array(shape) - 1) / 2 + [0.3, -0.2, 0.4])
    return hd.Volume(np.zeros(shape, np.int32), affine, "PATIENT")


def ball(grid: hd.Volume, centre_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    places = np.argwhere(np.ones(grid.spatial_shape, bool))
    distance = np.linalg.norm(grid.map_indices_to_reference(places) - centre_mm, axis=1)
    return (distance <= radius_mm).reshape(grid.spatial_shape)


def enclosed_mm3(corners: np.ndarray, triangles: np.ndarray) -> float:
    """By the divergence theorem; above 0 where the triangles run counter-clockwise seen from outside."""
    a, b, c = (corners[triangles[:, n]] - CENTRE_MM for n in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.9, 1.2)])
def test_a_ball_s_surface_lies_within_half_a_voxel_of_its_radius(spacing, mirrored):
    grid = oblique((24, 36, 32), spacing, mirrored)
    mask = grid.with_array(ball(grid, CENTRE_MM, 9.0))
    corners, triangles = surface(mask)
    radii = np.linalg.norm(corners - CENTRE_MM, axis=1)
    assert np.abs(radii - 9.0).max() <= max(spacing) / 2
    assert radii.mean() == pytest.approx(9.0, abs=0.15)
    voxels_mm3 = mask.array.sum() * mask.voxel_volume
    assert enclosed_mm3(corners, triangles) == pytest.approx(voxels_mm3, rel=0.04)


def test_a_mask_that_touches_the_edge_of_its_grid_has_a_closed_surface():
    grid = oblique((6, 7, 8), (1.0, 1.0, 1.0), False)
    corners, triangles = surface(grid.with_array(np.ones(grid.spatial_shape, bool)))
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert set(np.unique(edges, axis=0, return_counts=True)[1]) == {2}
    # Only corners and edges are bevelled.
    assert enclosed_mm3(corners, triangles) == pytest.approx(6 * 7 * 8, rel=0.06)


def test_a_smoothed_and_thinned_surface_keeps_its_place_and_size():
    grid = oblique((60, 60, 60), (1.0, 1.0, 1.0), False)
    mask = grid.with_array(ball(grid, CENTRE_MM, 25.0))
    fine, few = surface(mask), surface(mask, smoothing_mm=2.0, step_mm=3.0)
    assert len(few[1]) < len(fine[1]) / 6
    radii = np.linalg.norm(few[0] - CENTRE_MM, axis=1)
    assert np.abs(radii - 25.0).max() < 1.0


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[str, list, hd.Volume, np.ndarray]:
    grid = oblique((30, 40, 36), (2.0, 1.0, 1.2), False)
    aside_mm = CENTRE_MM + np.array([9.0, -6.0, 4.0])
    mask = ball(grid, CENTRE_MM, 6.0) | ball(grid, aside_mm, 3.5)
    labels = components(grid.with_array(mask.astype(np.uint8)))
    lesions = measure(labels, [SliceReference(None)] * 30)
    path = tmp_path_factory.mktemp("page") / "mesh.html"
    save_mesh(grid.with_array(ball(grid, CENTRE_MM, 16.0)), labels, lesions, path)
    return path.read_text(encoding="utf-8"), lesions, labels, aside_mm


def test_the_page_needs_nothing_from_elsewhere(page):
    text, *_ = page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text)
    assert len(text) < 8_000_000
    assert "Not for diagnosis" in text


def test_each_lesion_has_its_colour_its_volume_and_its_place(page):
    text, lesions, _, aside_mm = page
    traces = json.loads(re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*(\[.*?\]),\s*\{", text, re.DOTALL)[1])
    brain, *meshes = traces
    assert brain["opacity"] < 0.3
    assert [mesh["color"] for mesh in meshes] == [colour(1).hex, colour(2).hex]
    for mesh, lesion in zip(meshes, lesions, strict=True):
        assert f"{lesion.volume_ml:.2f} ml" in mesh["name"]
    labels = json.loads(re.search(r"\"annotations\":(\[.*?\}\])", text)[1])
    assert [label["text"] for label in labels] == [
        f"{n + 1}: {lesion.volume_ml:.2f} ml" for n, lesion in enumerate(lesions)
    ]
    assert lesions[0].volume_ml == pytest.approx(4 / 3 * np.pi * 6.0**3 / 1000, rel=0.03)
    where = np.array([[label["x"], label["y"], label["z"]] for label in labels])
    assert where == pytest.approx(np.array([CENTRE_MM, aside_mm]), abs=0.3)
