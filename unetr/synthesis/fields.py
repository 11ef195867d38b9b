"""Scalar fields of synthetic images: interpolation, smooth noise, boxes of a grid."""

import highdicom as hd
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vector = NDArray[np.float64]
Box = tuple[slice, slice, slice]


def column(vector: Vector) -> Vector:
    """Return the vector (3,) in a shape that broadcasts against coordinates (3, x, y, z)."""
    return vector[:, None, None, None]


def sample(channels: Array, index: Vector, padding: str = "zeros") -> Array:
    """Interpolate channels (C, x, y, z) trilinearly at voxel coordinates (3, …), in torch for speed."""
    size = column(np.array(channels.shape[1:], dtype=np.float64))
    scaled = (2.0 * index / (size - 1.0) - 1.0).astype(np.float32)
    points = torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled[::-1], 0, -1)))
    sampled = F.grid_sample(
        torch.from_numpy(channels)[None], points[None], align_corners=True, padding_mode=padding
    )
    return np.asarray(sampled[0].numpy(), dtype=np.float32)


def smooth_noise(
    shape: tuple[int, ...], geometry: hd.VolumeGeometry, length_mm: float, rng: np.random.Generator
) -> Array:
    """Draw noise of about unit variance and the given correlation length from a coarse lattice."""
    extent = np.array(shape) * np.array(geometry.spacing)
    coarse = np.maximum(np.ceil(extent / length_mm).astype(int) + 3, 4)
    lattice = torch.from_numpy(rng.normal(size=tuple(coarse)).astype(np.float32))
    fine = F.interpolate(lattice[None, None], size=tuple(shape), mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy() * 1.7, dtype=np.float32)


def box_around(geometry: hd.VolumeGeometry, centre_index: Vector, reach_mm: float) -> Box:
    """Return the box of voxels within reach of a voxel index along each axis, within the grid."""
    reach = reach_mm / np.array(geometry.spacing)
    first = np.maximum(np.floor(centre_index - reach), 0).astype(int)
    last = np.minimum(np.ceil(centre_index + reach) + 1, geometry.spatial_shape).astype(int)
    return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])
