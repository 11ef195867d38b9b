"""Metastases of many looks: lobulated or confluent, rings of any thickness, cysts, blood, faint ones.

A lesion is drawn on a cubic lattice of its own, whose axes are those of LPS, and sampled onto the grid of an
acquisition as the mean over each voxel: slices of any thickness have their partial volumes. Shapes are level
sets of joined ellipsoids and smooth noise, so the volume is exactly that of the requested diameter.
"""

from dataclasses import dataclass
from typing import Any

import cc3d
import highdicom as hd
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from unetr.synthesis.fields import Array, Box, Vector, box_around, sample

Real = NDArray[np.floating[Any]]

# Kind and its share, of lesions that are large enough for an interior, and of smaller ones.
LARGE = {"solid": 0.3, "ring": 0.24, "necrotic": 0.18, "cystic": 0.1, "haemorrhagic": 0.06, "faint": 0.12}
SMALL = {"solid": 0.86, "ring": 0.06, "faint": 0.08}
LARGE_FROM_MM = 6.0
CONFLUENT_FROM_MM = 8.0
CONFLUENT_SHARE = 0.35
# The lattice's side in diameters, its number of points per diameter, and its finest step.
SIDE, POINTS, FINEST_MM = 2.2, 36, 0.3
# Most samples per voxel along an axis.
MAX_SAMPLES = 6


@dataclass(frozen=True)
class VariedLesion:
    """A lesion on its lattice (x, y, z), cubic, centred on the lesion.

    inside: 1 in the lesion. level: its signal relative to white matter. oedema_mm: how far the oedema spreads
    along white matter; oedema_level: its signal relative to what it covers. push_mm: how far the tissue at
    the surface is displaced. texture_seed: of the oedema's patches.
    """

    kind: str
    diameter_mm: float
    step_mm: float
    inside: Array
    level: Array
    oedema_mm: float
    oedema_level: float
    push_mm: float
    texture_seed: int

    @staticmethod
    def random(rng: np.random.Generator, diameter_mm: tuple[float, float]) -> "VariedLesion":
        """Draw a lesion; the logarithm of its diameter is nearly uniform in the range."""
        low, high = np.log(diameter_mm[0]), np.log(diameter_mm[1])
        diameter = float(np.exp(rng.beta(1.2, 1.3) * (high - low) + low))
        shares = LARGE if diameter > LARGE_FROM_MM else SMALL
        kind = str(rng.choice(list(shares), p=list(shares.values())))
        step = max(diameter / POINTS, FINEST_MM)
        inside = _shape(rng, diameter, step)
        depth_mm = step * ndimage.distance_transform_edt(inside)
        return VariedLesion(
            kind=kind,
            diameter_mm=diameter,
            step_mm=step,
            inside=inside.astype(np.float32),
            level=_level(kind, depth_mm, diameter, step, rng).astype(np.float32),
            oedema_mm=float(min(rng.gamma(1.5, 6.0), 30.0)) if rng.random() < 0.55 else 0.0,
            oedema_level=float(rng.uniform(0.6, 0.95)),
            push_mm=float(rng.uniform(0.0, 0.3) * diameter / 2.0) if rng.random() < 0.5 else 0.0,
            texture_seed=int(rng.integers(2**31)),
        )

    @property
    def volume_mm3(self) -> float:
        """Return the volume of the lattice points in the lesion."""
        return float(self.inside.sum()) * self.step_mm**3

    def on_grid(self, geometry: hd.VolumeGeometry, centre_index: Vector) -> tuple[Box, Array, Array]:
        """Return a box of the grid, and in it the lesion's share of each voxel and its level there.

        geometry: (slice, row, column). centre_index: voxel index of the lesion's centre.
        """
        half_mm = self.step_mm * (len(self.inside) - 1) / 2.0
        box = box_around(geometry, centre_index, half_mm)
        counts = np.clip(np.rint(np.array(geometry.spacing) / self.step_mm), 1, MAX_SAMPLES).astype(int)
        channels = np.stack([self.inside, self.inside * self.level])
        total = np.zeros((2, *(side.stop - side.start for side in box)), dtype=np.float32)
        for offset in np.ndindex(*counts):
            within = (np.array(offset) + 0.5) / counts - 0.5
            offset_mm = offsets_mm(geometry, box, centre_index - within)
            total += sample(channels, (offset_mm + half_mm) / self.step_mm)
        share = total[0] / counts.prod()
        return box, share, total[1] / np.maximum(total[0], 1e-6)


def offsets_mm(geometry: hd.VolumeGeometry, box: Box, centre_index: Vector) -> Vector:
    """Return the LPS offset, mm, of each voxel of a box from a voxel index: (3, slice, row, column)."""
    axes = [np.arange(side.start, side.stop) - centre for side, centre in zip(box, centre_index, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"))
    return np.asarray(np.einsum("ij,jabc->iabc", geometry.affine[:3, :3], index))


def lattice(size: int, step: float) -> Vector:
    """Return the offsets, mm, of a cubic lattice's points from its centre: (3, size, size, size)."""
    axis = (np.arange(size) - (size - 1) / 2.0) * step
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


def _noise(size: int, cells: float, rng: np.random.Generator) -> Array:
    """Draw smooth noise of about unit variance, (size, size, size), about cells waves along a side."""
    lattice = torch.from_numpy(rng.normal(size=(max(round(cells), 1) + 3,) * 3).astype(np.float32))
    fine = F.interpolate(lattice[None, None], size=(size,) * 3, mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy() * 1.7, dtype=np.float32)


def _shape(rng: np.random.Generator, diameter: float, step: float) -> NDArray[np.bool_]:
    """Draw a connected region of the volume of a sphere of that diameter, in mm; one ellipsoid or several."""
    confluent = diameter > CONFLUENT_FROM_MM and rng.random() < CONFLUENT_SHARE
    blobs = int(rng.integers(2, 6)) if confluent else 1
    size = int(np.ceil(SIDE * diameter / step)) + 4
    points = lattice(size, step)
    radius = diameter / 2.0 / blobs ** (1 / 3)
    field = np.full((size,) * 3, np.inf)
    for number in range(blobs):
        ratios = np.exp(rng.normal(0.0, 0.18, 3))
        turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        away = rng.normal(size=3)
        place = 0.0 if number == 0 else away / np.linalg.norm(away) * radius * rng.uniform(0.7, 1.3)
        local = np.einsum("ij,jabc->iabc", turn, points - np.reshape(place * np.ones(3), (3, 1, 1, 1)))
        ellipsoid = np.linalg.norm(local / (ratios / ratios.prod() ** (1 / 3))[:, None, None, None], axis=0)
        field = np.minimum(field, ellipsoid - radius * rng.uniform(0.8, 1.2))
    rough = min(1.0, diameter / 10.0)
    field += rough * rng.uniform(0.0, 0.22) * diameter / 2.0 * _noise(size, rng.uniform(3.0, 6.0), rng)
    field += rough * rng.uniform(0.0, 0.09) * diameter / 2.0 * _noise(size, rng.uniform(8.0, 14.0), rng)
    # The outermost points stay outside, so that no lesion is cut off by its lattice.
    field[np.abs(points).max(axis=0) > step * (size / 2.0 - 2.0)] = np.inf
    voxels = max(round(np.pi / 6.0 * diameter**3 / step**3), 1)
    # Pieces that are apart from the largest are dropped, and the volume is restored.
    largest = cc3d.largest_k(field <= np.partition(field.ravel(), voxels)[voxels], k=1, connectivity=6) > 0
    near = ndimage.binary_dilation(largest, iterations=2)
    field[~near] = np.inf
    return np.asarray(field <= np.partition(field.ravel(), voxels)[voxels])


def _level(kind: str, depth_mm: Vector, diameter: float, step: float, rng: np.random.Generator) -> Real:
    """Return the signal of a lesion's points relative to white matter. depth_mm: below its surface."""
    size = len(depth_mm)
    cells = SIDE * diameter / max(rng.uniform(1.5, 6.0), step)
    texture = 1.0 + rng.uniform(0.02, 0.2) * _noise(size, min(cells, size / 2.0), rng)
    enhancing = np.exp(rng.uniform(np.log(1.15), np.log(2.6)))
    if kind == "faint":
        enhancing = rng.uniform(1.06, 1.35)
    level = enhancing * texture
    core = rng.uniform(0.25, 1.15) * (1.0 + rng.uniform(0.0, 0.15) * _noise(size, 6.0, rng))
    radius = diameter / 2.0
    if kind == "ring":
        rim = rng.uniform(min(0.9, 0.3 * radius), max(0.4 * radius, 1.0)) * np.exp(
            rng.uniform(0.0, 0.4) * _noise(size, rng.uniform(3.0, 7.0), rng)
        )
        level = _mixed(level, core, depth_mm - rim)
    elif kind == "necrotic":
        rim = radius * rng.uniform(0.08, 0.3) * np.exp(0.5 * _noise(size, rng.uniform(4.0, 9.0), rng))
        holes = (_noise(size, rng.uniform(4.0, 8.0), rng) - rng.uniform(-1.0, 0.6)) * 0.3 * radius
        level = _mixed(level, core, np.minimum(depth_mm - rim, holes))
    elif kind == "cystic":
        wall = rng.uniform(0.8, max(0.2 * radius, 1.2))
        septa = (np.abs(_noise(size, rng.uniform(3.0, 6.0), rng)) - rng.uniform(0.1, 0.3)) * 0.4 * radius
        level = _mixed(level, rng.uniform(0.2, 0.6) * np.ones_like(level), np.minimum(depth_mm - wall, septa))
    elif kind == "haemorrhagic":
        below = lattice(size, step)[1] > rng.uniform(-0.4, 0.4) * radius
        layers = np.where(below, rng.uniform(0.4, 1.2), rng.uniform(1.4, 2.8)) * texture
        level = _mixed(level, layers, depth_mm - rng.uniform(0.5, 2.0))
    if kind in ("ring", "necrotic", "cystic") and rng.random() < 0.35:
        # Parts of the wall hardly enhance.
        absent = np.clip(_noise(size, rng.uniform(3.0, 5.0), rng) - rng.uniform(0.6, 1.4), 0.0, 1.0)
        level = level * (1.0 - absent) + absent * np.minimum(level, rng.uniform(0.7, 1.1))
    return np.asarray(level)


def _mixed(wall: Real, core: Real, beyond_mm: Real) -> Real:
    """Return the core where ``beyond_mm`` is positive and the wall elsewhere, blended over a millimetre."""
    share = np.clip(beyond_mm + 0.5, 0.0, 1.0)
    return np.asarray(wall * (1.0 - share) + core * share)
