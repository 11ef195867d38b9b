"""The anatomy that synthetic heads are made of, in MNI space.

Brain tissue is nilearn's copy of the ICBM 152 template (see docs/models.md for its notice). Everything
around it and all enhancing structures other than lesions are drawn by rules: dura, skull and scalp by their
distance from the brain's hull, vessels and venous sinuses as random curves.

Arrays here are (x, y, z) on the template's 1 mm grid, RAS+; coordinates are MNI mm.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

COARSE_MM = 2.0
COARSE_ORIGIN_MM = np.array([-112.0, -160.0, -150.0])
COARSE_SHAPE = (113, 141, 131)
FACE_CENTRE_MM = np.array([0.0, 42.0, -52.0])
FACE_RADII_MM = np.array([64.0, 50.0, 62.0])
NECK_CENTRE_MM = np.array([0.0, -38.0])
NECK_RADIUS_MM = 58.0
SCALP_AND_SKULL_MM = 14.0


@dataclass(frozen=True)
class Atlas:
    """The atlas of the head.

    tissues: (3, x, y, z) fractions of grey matter, white matter, fluid on the 1 mm grid. surfaces: mm outside
    the brain's hull and mm inside the scalp's outer surface, (2, x, y, z) on the coarse grid. The origins are
    the MNI coordinates of voxel (0, 0, 0).
    """

    tissues: Array
    tissue_origin_mm: NDArray[np.float64]
    surfaces: Array
    surface_origin_mm: NDArray[np.float64]


@cache
def load() -> Atlas:
    """Return the atlas, computed once per process (about 3 s)."""
    grey, origin = _tissue_map("gm")
    white, _ = _tissue_map("wm")
    brain = ndimage.binary_closing(grey + white > 0.3, iterations=4)
    brain = ndimage.binary_fill_holes(brain)
    fluid = np.clip(brain - grey - white, 0.0, 1.0)
    tissues = np.stack([grey, white, fluid]).astype(np.float32)
    return Atlas(tissues, origin, _surfaces(brain, origin), COARSE_ORIGIN_MM)


def _tissue_map(tissue: str) -> tuple[Array, NDArray[np.float64]]:
    name = f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
    with as_file(files("nilearn.datasets") / "data" / name) as path:
        image = Nifti1Image.from_filename(path)
        fractions = np.asarray(image.dataobj, dtype=np.float32) / 255.0
        return fractions, np.asarray(image.affine[:3, 3], dtype=np.float64)


def _surfaces(brain: NDArray[np.bool_], origin_mm: NDArray[np.float64]) -> Array:
    axes = [COARSE_ORIGIN_MM[i] + COARSE_MM * np.arange(COARSE_SHAPE[i]) for i in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    inside = ndimage.map_coordinates(
        brain.astype(np.float32), points - origin_mm[:, None, None, None], order=1
    )
    hull = ndimage.binary_closing(np.pad(inside > 0.5, 8), iterations=7)[8:-8, 8:-8, 8:-8]
    outside_brain = _signed_distance(hull)
    face = ((points - FACE_CENTRE_MM[:, None, None, None]) / FACE_RADII_MM[:, None, None, None]) ** 2
    neck = np.hypot(points[0] - NECK_CENTRE_MM[0], points[1] - NECK_CENTRE_MM[1]) < NECK_RADIUS_MM
    head = (outside_brain < SCALP_AND_SKULL_MM) | (face.sum(0) < 1.0) | (neck & (points[2] < -55.0))
    head = ndimage.binary_opening(ndimage.gaussian_filter(head.astype(np.float32), 3.0) > 0.5, iterations=2)
    return np.stack([outside_brain, -_signed_distance(head)]).astype(np.float32)


def _signed_distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Measure the distance, mm, to the region's surface on the coarse grid; negative inside."""
    outside = ndimage.distance_transform_edt(~region)
    inside = ndimage.distance_transform_edt(region)
    return np.asarray(COARSE_MM * (outside - inside), dtype=np.float64)


def enhancing_anatomy(rng: np.random.Generator) -> Array:
    """Draw the occupancy (0..1) of vessels, sinuses, choroid plexus and glands on the tissues' 1 mm grid."""
    atlas = load()
    canvas = np.zeros(atlas.tissues.shape[1:], dtype=np.float32)
    curves = _sinuses(rng) + _arteries(rng) + _choroid_plexus(rng) + _cortical_vessels(rng, atlas)
    for points_mm, radius_mm, strength in curves:
        _paint(canvas, points_mm - atlas.tissue_origin_mm, radius_mm, strength)
    return canvas


Curve = tuple[NDArray[np.float64], NDArray[np.float64], float]


def _curve(rng: np.random.Generator, knots_mm: object, radius_mm: float, wobble_mm: float) -> Curve:
    """Draw a smooth curve through jittered knots; its radius and strength vary from head to head."""
    knots = np.asarray(knots_mm, dtype=np.float64)
    knots = knots + rng.normal(0.0, wobble_mm, knots.shape)
    length_mm = np.linalg.norm(np.diff(knots, axis=0), axis=1).sum()
    steps = np.linspace(0, len(knots) - 1, max(int(length_mm / 0.6), 2))
    points = ndimage.map_coordinates(
        knots, np.stack([np.repeat(steps[:, None], 3, 1), np.tile(np.arange(3.0), (len(steps), 1))]), order=2
    )
    swell = ndimage.gaussian_filter1d(rng.normal(0.0, 1.0, len(points)), 12.0, mode="nearest") * 0.8
    radii = radius_mm * np.exp(swell.clip(-0.35, 0.35))
    return points, radii, float(rng.uniform(0.6, 1.0))


def _sinuses(rng: np.random.Generator) -> list[Curve]:
    size = rng.uniform(0.7, 1.2)
    sagittal = [[0, 66, 14], [0, 58, 42], [0, 30, 66], [0, -10, 80], [0, -50, 76], [0, -86, 48], [0, -104, 8]]
    curves = [
        _curve(rng, sagittal, 3.2 * size, 1.2),
        _curve(rng, [[0, -44, 8], [0, -62, 4], [0, -84, 0], [0, -103, -2]], 2.0 * size, 1.2),
        _curve(rng, [[0, -36, 8], [4, -20, 14], [6, -6, 14]], 1.0, 0.8),
    ]
    for side in (-1, 1):
        width = size * rng.uniform(0.4, 1.2)
        lateral = [[side * x, y, z] for x, y, z in ((3, -104, -4), (38, -92, -16), (58, -58, -28))]
        sigmoid = [[side * x, y, z] for x, y, z in ((58, -58, -28), (52, -40, -44), (36, -36, -58))]
        cavernous = [[side * x, y, z] for x, y, z in ((12, 8, -26), (13, -6, -26), (14, -16, -30))]
        curves += [_curve(rng, lateral, 3.2 * width, 1.5), _curve(rng, sigmoid, 3.2 * width, 1.5)]
        curves += [_curve(rng, cavernous, 2.8 * size, 1.0)]
    return curves


def _arteries(rng: np.random.Generator) -> list[Curve]:
    curves = [
        _curve(rng, [[0, -30, -58], [0, -24, -38], [0, -18, -20]], 1.6, 1.0),
        _curve(rng, [[0, 4, -22], [0, 3, -28], [0, 2, -34]], 2.4, 0.6),
        _curve(rng, [[0, -30, 4], [0, -33, 2]], 1.8, 0.6),
    ]
    for side in (-1, 1):
        paths = {
            "middle cerebral": [[6, -2, -18], [24, 4, -20], [40, 2, -8], [44, -20, 8], [50, -40, 18]],
            "anterior cerebral": [[6, 0, -18], [3, 28, -14], [3, 44, 8], [3, 26, 30], [3, -6, 34]],
            "posterior cerebral": [[2, -18, -18], [20, -28, -14], [16, -54, -4], [12, -80, 4]],
            "internal carotid": [[14, -8, -50], [14, -4, -30], [8, -2, -18]],
        }
        for knots in paths.values():
            mirrored = [[side * x, y, z] for x, y, z in knots]
            curves.append(_curve(rng, mirrored, rng.uniform(0.7, 1.5), 2.0))
    return curves


def _choroid_plexus(rng: np.random.Generator) -> list[Curve]:
    curves = [_curve(rng, [[0, -42, -30], [0, -46, -34], [4, -44, -38]], rng.uniform(0.8, 2.0), 1.0)]
    for side in (-1, 1):
        path = [[side * x, y, z] for x, y, z in ((8, -12, 18), (16, -28, 18), (24, -40, 8), (26, -32, -4))]
        curves.append(_curve(rng, path, rng.uniform(1.0, 2.8), 1.2))
        glomus = [[side * 23, -40, 10], [side * 25, -42, 4]]
        curves.append(_curve(rng, glomus, rng.uniform(1.5, 4.5), 1.0))
    return curves


def _cortical_vessels(rng: np.random.Generator, atlas: Atlas) -> list[Curve]:
    """Draw random walks at a fixed depth below the brain's hull: veins and arteries of the sulci."""
    count, steps, step_mm = int(rng.integers(20, 90)), 120, 1.0
    distance = atlas.surfaces[0]
    gradient = np.stack(np.gradient(ndimage.gaussian_filter(distance, 1.0)))
    heading = rng.normal(size=(count, 3))
    start = rng.normal(size=(count, 3))
    start[:, 2] = np.abs(start[:, 2]) * rng.choice([1.0, -0.6], count, p=[0.75, 0.25])
    point = start / np.linalg.norm(start, axis=1, keepdims=True) * [68, 88, 72] + [0, -18, 8]
    depth_mm = -rng.gamma(1.2, 3.0, count)
    walk = np.empty((steps, count, 3))
    for step in range(steps):
        index = ((point - atlas.surface_origin_mm) / COARSE_MM).T
        normal = np.stack([ndimage.map_coordinates(g, index, order=1, mode="nearest") for g in gradient], 1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
        away = ndimage.map_coordinates(distance, index, order=1, mode="nearest") - depth_mm
        heading += rng.normal(0.0, 0.25, heading.shape)
        heading -= (heading * normal).sum(1, keepdims=True) * normal
        heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-6
        point = point + step_mm * heading - np.clip(away, -2.0, 2.0)[:, None] * normal
        walk[step] = point
    curves = []
    for number in range(count):
        length = int(rng.integers(15, steps))
        radius_mm = np.full(length, rng.uniform(0.4, 1.5))
        curves.append((walk[20 : 20 + length, number], radius_mm[: steps - 20], float(rng.uniform(0.4, 1.0))))
    return curves


def _paint(canvas: Array, points: NDArray[np.float64], radii: NDArray[np.float64], strength: float) -> None:
    """Raise the canvas (1 mm voxels) to a tube's occupancy; points and radii in voxels."""
    reach = int(np.ceil(radii.max() + 1.0))
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centre = np.rint(points).astype(int)
    voxels = centre[:, None, :] + offsets
    distance = np.linalg.norm(voxels - points[:, None, :], axis=2)
    occupancy = strength * np.clip(0.5 + radii[:, None] - distance, 0.0, 1.0)
    keep = (occupancy > 0) & np.all((voxels >= 0) & (voxels < canvas.shape), axis=2)
    flat = np.ravel_multi_index(tuple(voxels[keep].T), canvas.shape)
    np.maximum.at(canvas.reshape(-1), flat, occupancy[keep].astype(np.float32))
