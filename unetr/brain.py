"""Brain detection by a small network on a coarse grid: enhancement in the face is not a metastasis.

Arrays here are (x, y, z) on the model's grid, as ``unetr.preprocess`` prepares them.
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

from errors import BrainNotFound
from imaging.grid import MM3_PER_ML
from unetr.backends import Array, Backend
from unetr.preprocess import Mask
from unetr.sliding import Box, slide
from unetr.spec import Brain

# Closing iterations on the coarse grid. They fill notches of up to twice this many voxels, which surface
# lesions leave when the network does not label them brain.
CLOSING = 2
# Overlap of a mask with its point reflection. Measured with metscope-unet 0.4.0: 19 real heads 0.28-0.70,
# slabs of 40 and 80 mm cut from them up to 0.84; spheres, ellipsoids and cylinders 0.93-0.97.
MAX_SYMMETRY = 0.9
# Largest plausible extent of a brain's mask, mm: above the largest of those real heads with a correct mask.
MAX_BRAIN_MM = {"left-right": 170.0, "front-back": 205.0, "head-foot": 170.0}
# Least area of a section of the brain, mm2, and least volume of a brain that the images cut off, ml.
SECTION_MM2, LEAST_CUT_ML = 3000.0, 60.0
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "H": "F", "F": "H"}
AXIS_NAMES = {
    "L": "left-right", "R": "left-right",
    "P": "front-back", "A": "front-back",
    "H": "head-foot", "F": "head-foot",
}  # fmt: skip


def pooled(array: Array, factor: int) -> Array:
    """Average blocks of ``factor`` voxels a side; the last blocks are padded with the edge's values."""
    padded = np.pad(array, [(0, -size % factor) for size in array.shape], mode="edge")
    blocks = [part for size in padded.shape for part in (size // factor, factor)]
    return np.asarray(padded.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32))


def spread(blocks: NDArray[Any], factor: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of that shape whose blocks of ``factor`` voxels a side have these values."""
    for axis in range(3):
        blocks = np.repeat(blocks, factor, axis=axis)
    return blocks[tuple(slice(size) for size in shape)]


@dataclass(frozen=True)
class Region:
    """The region (x, y, z) in which lesions are searched, and warnings about it for the reader.

    brain: the brain that was found, without the region's margin; None if none was searched for.
    """

    mask: Mask
    warnings: tuple[str, ...] = ()
    brain: Mask | None = None


def find_brain(prepared: hd.Volume, backend: Backend, brain: Brain) -> Region:
    """Return the brain with its margin.

    The network's mask on the coarse grid is eroded; its largest component is dilated by two voxels within
    the mask, closed, filled and interpolated to the model's grid. Raises: BrainNotFound if the volume or
    the shape is not plausible; OutOfMemory.
    """
    logits = slide(pooled(prepared.array, brain.factor)[None], backend, brain.window, labels=1)[0]
    # Pad with edge values so that the morphology does not erode a brain cut by the field of view.
    around = np.pad(logits > 0.0, CLOSING, mode="edge")
    # Drop structures that touch the brain only through a thin bridge, e.g. neck muscle.
    core = cc3d.largest_k(ndimage.binary_erosion(around), k=1, connectivity=6) > 0
    largest = ndimage.binary_dilation(core, iterations=CLOSING, mask=around)
    closed = ndimage.binary_closing(largest, iterations=CLOSING) | largest
    solid = ndimage.binary_fill_holes(closed[(slice(CLOSING, -CLOSING),) * 3])
    logits = np.where(solid, np.abs(logits), np.minimum(logits, 0.0))
    mask = _on_the_models_grid(logits, brain.factor, prepared.array.shape) > 0.0
    volume_ml = mask.sum() * prepared.voxel_volume / MM3_PER_ML
    least_ml, most_ml = brain.plausible_ml
    cut = _cut_at(mask, prepared)
    if not (min(least_ml, LEAST_CUT_ML) if cut else least_ml) <= volume_ml <= most_ml:
        raise BrainNotFound(
            f"{volume_ml:.0f} ml of brain were found; the model expects {least_ml:.0f} to {most_ml:.0f} ml."
        )
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    if _point_symmetry(mask[box]) > MAX_SYMMETRY:
        raise BrainNotFound(
            f"The {volume_ml:.0f} ml that look like a brain are as symmetric as a phantom: front and back, "
            "top and bottom are the same."
        )
    warnings = _warnings(box, prepared, cut)
    return Region(_dilated(mask, brain.margin_mm, prepared.spacing), warnings, mask)


def _point_symmetry(box: Mask) -> float:
    """Return the overlap (intersection over union) of a mask in its box with its point reflection."""
    reflected = box[::-1, ::-1, ::-1]
    return float((box & reflected).sum() / (box | reflected).sum())


def _cut_at(mask: Mask, prepared: hd.Volume) -> set[str]:
    """Return the ends of the images on which a section of the brain lies: letters of L/R, P/A, H/F.

    The outermost plane of a brain that is only cropped to its extent has a smaller area.
    """
    ends = set()
    for axis, letter in enumerate(prepared.get_closest_patient_orientation()):
        area_mm2 = float(np.prod(np.delete(prepared.spacing, axis)))
        for end, name in ((-1, letter.value), (0, OPPOSITE[letter.value])):
            if np.take(mask, end, axis=axis).sum() * area_mm2 >= SECTION_MM2:
                ends.add(name)
    return ends


def _warnings(box: Box, prepared: hd.Volume, cut: set[str]) -> tuple[str, ...]:
    """Return a sentence for a brain that is cut off, and one for a brain that is too large.

    box: the brain's bounding box. cut: the ends of the images at which it is cut off.
    """
    extent_mm, ends = {}, {}
    for side, size, spacing_mm, letter in zip(
        box, prepared.spatial_shape, prepared.spacing, prepared.get_closest_patient_orientation(), strict=True
    ):
        axis = AXIS_NAMES[letter.value]
        extent_mm[axis] = (side.stop - side.start) * spacing_mm
        ends[axis] = side.start == 0 and side.stop == size
    warnings = []
    if ends["head-foot"]:
        warnings.append(
            f"The images show {extent_mm['head-foot']:.0f} mm of the brain from head to foot and end within "
            "the brain: lesions outside the images are not found. Check that the images show a head."
        )
    elif cut:
        warnings.append("The images end within the brain: lesions outside the images are not found.")
    if any(extent_mm[axis] > MAX_BRAIN_MM[axis] for axis in MAX_BRAIN_MM):
        measured = " x ".join(f"{extent_mm[axis]:.0f}" for axis in MAX_BRAIN_MM)
        warnings.append(
            f"The region found as brain measures {measured} mm ({', '.join(MAX_BRAIN_MM)}), more than a "
            "brain: it may include the face or the neck. Check the findings there."
        )
    return tuple(warnings)


def _on_the_models_grid(coarse: Array, factor: int, shape: tuple[int, ...]) -> Array:
    # SciPy's interpolation takes ten times as long.
    fine = F.interpolate(
        torch.from_numpy(coarse)[None, None], scale_factor=factor, mode="trilinear", align_corners=False
    )
    return fine[0, 0].numpy()[tuple(slice(size) for size in shape)]


def _dilated(mask: Mask, margin_mm: float, spacing_mm: tuple[float, ...]) -> Mask:
    """Return the voxels whose centres lie within margin_mm of the centre of a voxel of the mask."""
    reach = [int(margin_mm / step) for step in spacing_mm]
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    ball = np.linalg.norm(offsets * np.array(spacing_mm), axis=-1) <= margin_mm
    padded = np.pad(mask, [(n, n) for n in reach])
    dilated = np.zeros_like(mask)
    for shift in np.argwhere(ball):
        dilated |= padded[tuple(slice(n, n + size) for n, size in zip(shift, mask.shape, strict=True))]
    return dilated
