"""Real heads as the background of drawn metastases.

A real T1 image whose brain is known becomes an ``Anatomy`` like a drawn one: its levels are relative to white
matter, and vessels, venous sinuses, choroid plexus and dura take up contrast agent, unless the image is
post-contrast already.
"""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from unetr.synthesis import atlas
from unetr.synthesis.anatomy import LPS_TO_RAS, Anatomy, HeadOptions, with_falx
from unetr.synthesis.fields import Array, Vector, column, sample, smooth_noise

# Percentiles of a brain's voxels that are taken for fluid, grey and white matter.
FLUID_PERCENTILE, GREY_PERCENTILE, WHITE_PERCENTILE = 4.0, 35.0, 75.0
# In-plane resolution, mm, above which training heads stay, and thickness of thick slices.
FINEST_MM = 1.0
THICK_MM = (2.5, 7.0)
THICK_SHARE = 0.35
# A head is scaled along each axis by these factors.
SCALE = (0.88, 1.14)


@dataclass(frozen=True)
class RealHead:
    """A real head, (slice, row, column). brain: 1 within the brain's outline, ventricles included."""

    image: hd.Volume
    brain: hd.Volume
    enhanced: bool = False


def reacquired(head: RealHead, rng: np.random.Generator) -> RealHead:
    """Return the head at another size and resolution, as another scanner might have acquired it.

    No axis becomes finer than it was, except for one that the scaling shrinks.
    """
    scale = rng.uniform(*SCALE, 3)
    affine = head.image.affine.copy()
    affine[:3, :3] *= scale
    spacing = np.array(head.image.spacing) * scale
    target = np.maximum(spacing, FINEST_MM)
    if rng.random() < THICK_SHARE:
        axis = int(rng.integers(3)) if spacing.max() < 2.5 else int(spacing.argmax())
        target[axis] = max(target[axis], rng.uniform(*THICK_MM))
    shape = np.maximum(np.rint(np.array(head.image.spatial_shape) * spacing / target).astype(int), 4)
    factor = np.array(head.image.spatial_shape) / shape
    affine[:3, 3] += affine[:3, :3] @ ((factor - 1.0) / 2.0)
    affine[:3, :3] *= factor
    image, brain = (
        hd.Volume(_averaged(volume.array, shape), affine, "PATIENT") for volume in (head.image, head.brain)
    )
    return RealHead(image, brain.with_array((brain.array > 0.5).astype(np.uint8)), head.enhanced)


def _averaged(array: Array, shape: Vector) -> Array:
    """Resample to a coarser shape by the mean over each new voxel."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
    return np.asarray(F.interpolate(tensor, size=tuple(shape.tolist()), mode="area")[0, 0].numpy())


def anatomy(head: RealHead, rng: np.random.Generator, options: HeadOptions) -> Anatomy:
    """Return the head's anatomy with contrast agent. options: levels of vessels; the rest is the image's."""
    geometry = head.image.get_geometry()
    brain = head.brain.array > 0
    fluid, grey, white = np.percentile(
        head.image.array[brain], [FLUID_PERCENTILE, GREY_PERCENTILE, WHITE_PERCENTILE]
    )
    image = (head.image.array - min(fluid, 0.0)) / max(white - min(fluid, 0.0), 1e-6)
    fluid, grey = fluid / white, grey / white
    white_share = np.clip((image - grey) / (1.0 - grey), 0.0, 1.0)
    if options.contrast_varies:
        knots = [0.0, fluid, grey, 1.0, 1.6]
        levels = [0.0, rng.uniform(*options.fluid), rng.uniform(*options.grey), 1.0, rng.uniform(1.3, 2.0)]
        image = np.interp(image, knots, levels) + np.maximum(image - 1.6, 0.0) * rng.uniform(0.4, 1.0)
        fluid = levels[1]
    outside = _signed_distance_mm(brain, geometry)
    white_level = 1.0
    if not head.enhanced:
        mni = _mni_coordinates(geometry, brain, rng)
        template = atlas.load()
        vessels = sample(atlas.enhancing_anatomy(rng)[None], mni - column(template.tissue_origin_mm))[0]
        level = rng.uniform(*options.vessels)
        image = image + vessels * (outside < 12.0) * np.maximum(level - image, 0.0)
        image = _with_dura(image, outside, geometry, rng)
        image = with_falx(image, mni, outside, white_level, rng)
    return Anatomy(
        image=np.asarray(image, dtype=np.float32),
        brain=(brain & (image > (fluid + grey) / 2.0)).astype(np.float32),
        outline=brain.astype(np.float32),
        white=white_share.astype(np.float32),
        outside=outside,
        white_level=white_level,
        fluid_level=float(fluid),
    )


def _signed_distance_mm(brain: NDArray[np.bool_], geometry: hd.VolumeGeometry) -> Array:
    """Measure the distance to the brain's surface, mm, negative inside."""
    outside = ndimage.distance_transform_edt(~brain, geometry.spacing)
    inside = ndimage.distance_transform_edt(brain, geometry.spacing)
    return np.asarray(outside - inside, dtype=np.float32)


def _with_dura(image: Array, outside: Array, geometry: hd.VolumeGeometry, rng: np.random.Generator) -> Array:
    """Add dura that enhances in patches, at a random distance from the brain's surface."""
    from_mm, thickness_mm = rng.uniform(0.0, 4.0), rng.uniform(0.4, 1.8)
    sheet = np.clip(thickness_mm / 2 + 0.5 - np.abs(outside - from_mm - thickness_mm / 2), 0.0, 1.0)
    patches = np.clip(smooth_noise(outside.shape, geometry, 20.0, rng) + rng.uniform(-1.0, 1.0), 0.0, 1.0)
    return np.asarray(image + sheet * patches * np.maximum(rng.uniform(0.6, 1.7) - image, 0.0))


def _mni_coordinates(
    geometry: hd.VolumeGeometry, brain: NDArray[np.bool_], rng: np.random.Generator
) -> Vector:
    """Return each voxel's approximate MNI mm (3, slice, row, column): centre and extent of the brains agree.

    The heads' tilts are not corrected: vessels need a likely place, not an exact one.
    """
    template = atlas.load()
    there = np.argwhere(template.tissues.sum(0) > 0.5)[::50] + template.tissue_origin_mm
    here = geometry.map_indices_to_reference(np.argwhere(brain)[::50].astype(float)) * LPS_TO_RAS
    factor = there.std(0) / here.std(0)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.spatial_shape], indexing="ij"))
    ras = np.einsum("ij,jabc->iabc", geometry.affine[:3, :3], index) + column(geometry.affine[:3, 3])
    ras *= column(LPS_TO_RAS)
    mni = (ras - column(here.mean(0))) * column(factor) + column(there.mean(0) + rng.normal(0.0, 2.0, 3))
    for axis in range(3):
        mni[axis] += rng.uniform(0.5, 3.0) * smooth_noise(geometry.spatial_shape, geometry, 28.0, rng)
    return np.asarray(mni)
