"""A volume's grid: its unit of volume, its size limits, the position of another array's voxels on it."""

import itertools
import math
from collections.abc import Iterable

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from errors import SegmentationMismatch, VolumeTooLarge

MM3_PER_ML = 1000.0
# Voxels. Rounded positions and spacings in headers stay far below; a grid shifted by half a voxel, or spaced
# one per cent wider over a hundred voxels, is far above.
TOLERANCE = 0.1
# Along one axis, mm. The field of view of an MR scanner ends at 600, a spine composed of several at 1000.
MAX_EXTENT_MM = 1000.0
# A head interpolated to 1024 x 1024 pixels has some 300 slices.
MAX_VOXELS = 1024 * 1024 * 320


def check_size(shape: tuple[int, int, int], spacing_mm: Iterable[float]) -> None:
    """Raise VolumeTooLarge, before decoding, for a volume (slices, rows, columns) that no scanner makes.

    The header's claim decides how much memory the voxels take, as acquired and on the grid of a model.
    """
    size = " x ".join(map(str, shape))
    if math.prod(shape) > MAX_VOXELS:
        raise VolumeTooLarge(
            f"The volume has {size} voxels (slices, rows, columns); at most {MAX_VOXELS} are accepted."
        )
    extent_mm = [count * step for count, step in zip(shape, spacing_mm, strict=True)]
    if max(extent_mm) > MAX_EXTENT_MM:
        raise VolumeTooLarge(
            f"The volume of {size} voxels measures {' x '.join(f'{mm:.0f}' for mm in extent_mm)} mm (slices, "
            f"rows, columns); at most {MAX_EXTENT_MM:.0f} mm are accepted along each axis."
        )


def steps_on_grid(
    affine: NDArray[np.float64], shape: tuple[int, int, int], volume: hd.Volume, array_name: str
) -> NDArray[np.int64]:
    """Return the integer matrix (3, 4) from an index of another array to the same voxel's in ``volume``.

    affine: (4, 4), index of the other array -> LPS mm; shape: its size. Its axes may be permuted and
    flipped relative to the volume's, but every voxel must lie on a voxel of the volume's (endless) grid.
    array_name: name of the other array for messages. Raises: SegmentationMismatch stating the difference.
    """
    to_index = (volume.inverse_affine @ affine)[:3]
    steps = np.rint(to_index).astype(np.int64)
    used = [axis for axis in range(3) if shape[axis] > 1]
    # An axis of one voxel has a position but no step.
    steps[:, [axis for axis in range(3) if shape[axis] == 1]] = 0
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))]).T
    same_steps = np.array_equal(steps[:, used].T @ steps[:, used], np.eye(len(used)))
    if not same_steps or np.abs((to_index - steps) @ corners).max() > TOLERANCE:
        raise SegmentationMismatch(f"{array_name}: {_difference(affine, shape, volume)}.")
    return steps


def _difference(affine: NDArray[np.float64], shape: tuple[int, int, int], volume: hd.Volume) -> str:
    used = [axis for axis in range(3) if shape[axis] > 1]
    vectors = affine[:3, :3]
    spacing = np.linalg.norm(vectors, axis=0)
    cosines = volume.direction.T @ (vectors / spacing)
    # The closest axis of the volume for each axis.
    closest = np.abs(cosines).argmax(axis=0)
    turned = np.degrees(np.arccos(np.clip(np.abs(cosines).max(axis=0), 0, 1)))
    volume_spacing = np.array(volume.spacing)[closest]
    reach = np.array(shape) - 1
    if any(abs(spacing[axis] / volume_spacing[axis] - 1) * max(reach[axis], 1) > TOLERANCE for axis in used):
        apart = _mm(volume_spacing[used])
        return f"its voxels are {_mm(spacing[used])} apart, those of the series {apart} along the same axes"
    if any(np.radians(turned[axis]) * reach[axis] > TOLERANCE for axis in used):
        return f"its axes are rotated by {turned[used].max():.2f} degrees relative to those of the series"
    first = volume.inverse_affine @ affine[:, 3]
    off_mm = (first - np.rint(first))[:3] * volume.spacing
    return f"its voxel centres are {np.linalg.norm(off_mm):.3f} mm away from those of the series"


def _mm(lengths: NDArray[np.float64]) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
