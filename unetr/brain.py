"""Where the brain is, by a small network on a coarse grid: what enhances in the face is no metastasis.

Arrays here are (x, y, z) on the model's grid, as ``unetr.preprocess`` makes them.
"""

import cc3d
import highdicom as hd
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from errors import BrainNotFound
from unetr.backends import Array, Backend
from unetr.preprocess import Mask
from unetr.sliding import slide
from unetr.spec import Brain

# Of the coarse grid: a lesion at the brain's surface that the network takes for something else is a notch of
# up to twice so many voxels; closing fills it.
CLOSING = 2


def pooled(array: Array, factor: int) -> Array:
    """Means of blocks of ``factor`` voxels a side; the last blocks are filled up with the edge's values."""
    padded = np.pad(array, [(0, -size % factor) for size in array.shape], mode="edge")
    blocks = [part for size in padded.shape for part in (size // factor, factor)]
    return np.asarray(padded.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32))


def find_brain(prepared: hd.Volume, backend: Backend, brain: Brain) -> Mask:
    """The mask of the brain with its margin.

    Of what the network calls brain the largest component of its erosion and what lies within two voxels of
    that, closed, its holes filled, interpolated from the coarse grid. Raises: BrainNotFound when its volume
    is not plausible; OutOfMemory.
    """
    logits = slide(pooled(prepared.array, brain.factor)[None], backend, brain.window, labels=1)[0]
    # Beyond the border lies what the border shows: neither is a notch opened there nor a part taken off.
    around = np.pad(logits > 0.0, CLOSING, mode="edge")
    # What hangs on the brain by a thread, as muscle of the neck may, is none.
    core = cc3d.largest_k(ndimage.binary_erosion(around), k=1, connectivity=6) > 0
    largest = ndimage.binary_dilation(core, iterations=CLOSING, mask=around)
    closed = ndimage.binary_closing(largest, iterations=CLOSING) | largest
    solid = ndimage.binary_fill_holes(closed[(slice(CLOSING, -CLOSING),) * 3])
    logits = np.where(solid, np.abs(logits), np.minimum(logits, 0.0))
    found = _on_the_models_grid(logits, brain.factor, prepared.array.shape) > 0.0
    volume_ml = found.sum() * prepared.voxel_volume / 1000.0
    least_ml, most_ml = brain.plausible_ml
    if not least_ml <= volume_ml <= most_ml:
        raise BrainNotFound(
            f"Of the brain {volume_ml:.0f} ml were found in this volume; "
            f"the model needs {least_ml:.0f} to {most_ml:.0f} ml."
        )
    return _dilated(found, brain.margin_mm, prepared.spacing)


def _on_the_models_grid(coarse: Array, factor: int, shape: tuple[int, ...]) -> Array:
    # SciPy's interpolation takes ten times as long.
    fine = F.interpolate(
        torch.from_numpy(coarse)[None, None], scale_factor=factor, mode="trilinear", align_corners=False
    )
    return fine[0, 0].numpy()[tuple(slice(size) for size in shape)]


def _dilated(mask: Mask, margin_mm: float, spacing_mm: tuple[float, ...]) -> Mask:
    """The voxels whose centres lie within margin_mm of one of the mask's."""
    reach = [int(margin_mm / step) for step in spacing_mm]
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    ball = np.linalg.norm(offsets * np.array(spacing_mm), axis=-1) <= margin_mm
    padded = np.pad(mask, [(n, n) for n in reach])
    dilated = np.zeros_like(mask)
    for shift in np.argwhere(ball):
        dilated |= padded[tuple(slice(n, n + size) for n, size in zip(shift, mask.shape, strict=True))]
    return dilated
