"""Cautions for the reader: where a prediction is beyond what the model can know.

Arrays are (x, y, z) on the model's grid.
"""

from dataclasses import dataclass
from typing import Any

import cc3d
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.grid import MM3_PER_ML
from imaging.sequences import T1_POST_CONTRAST
from unetr.backends import Array
from unetr.brain import Region, pooled, spread
from unetr.preprocess import Mask
from unetr.spec import ModelSpec, Trained

# Components outside the region count if this volume of them lies within the first distance of it, where the
# network was trained to reject what is not brain, and nothing of them beyond the second: what reaches further
# belongs to the face, the neck or the scalp.
OUTSIDE_MM3, OUTSIDE_WITHIN_MM, OUTSIDE_UP_TO_MM = 150.0, 3.0, 12.0
# Least area of a lesion's section at the edge of the images.
SECTION_MM2 = 40.0
# The brain's normalised intensities may exceed the range of the training by this share of its width.
TOLERANCE = 0.1
PERCENTILES = (5.0, 50.0, 95.0)
# Tissue enhances if it is brighter than this multiple of the white matter around it; images are taken for
# post-contrast if at least this share of the brain enhances. Measured: 0 to 0.13 % in 31 real heads without
# contrast agent; 0.55 % and more in five with it, of which one had neither skull nor tumour.
ENHANCED, LEAST_ENHANCED = 1.6, 0.0025
# The surroundings whose white matter counts, mm (standard deviation), and blocks in which they are averaged.
AROUND_MM, BLOCK = 20.0, 4
AIR_PERCENTILE = 2.0


@dataclass(frozen=True)
class Found:
    """What a network found. numbers: of the components, 0 elsewhere. kept: by number, those of the result.

    positive: the voxels above the threshold, also outside the searched region.
    """

    numbers: NDArray[np.unsignedinteger[Any]]
    kept: NDArray[np.bool_]
    positive: Mask


def cautions(found: Found, region: Region, image: hd.Volume, spec: ModelSpec) -> tuple[str, ...]:
    """Return a sentence for each kind of doubt about a result. image: the prepared first input."""
    doubts = [*_outside(found, region, image), *_cut_off(found, image)]
    if spec.trained is not None:
        doubts += [*_too_large(found, image, spec.trained), *_unlike_training(region, image, spec.trained)]
    if spec.inputs[0] == T1_POST_CONTRAST and region.brain is not None:
        doubts += _unenhanced(image, region.brain)
    return tuple(doubts)


def _outside(found: Found, region: Region, image: hd.Volume) -> list[str]:
    if region.brain is None:
        return []
    outside = found.positive & ~region.mask
    if not outside.any():
        return []
    numbers = cc3d.connected_components(outside, connectivity=26, out_dtype=np.uint32)
    volumes_mm3 = np.bincount(numbers.ravel()) * image.voxel_volume
    reach = [int(np.ceil(OUTSIDE_UP_TO_MM / step)) for step in image.spacing]
    large = []
    for number, box in enumerate(ndimage.find_objects(numbers.astype(np.int32)), start=1):
        if volumes_mm3[number] < OUTSIDE_MM3:
            continue
        wider = tuple(slice(max(s.start - n, 0), s.stop + n) for s, n in zip(box, reach, strict=True))
        away_mm = _distance_mm(region.mask[wider], image.spacing)[numbers[wider] == number]
        near_mm3 = (away_mm <= OUTSIDE_WITHIN_MM).sum() * image.voxel_volume
        if near_mm3 >= OUTSIDE_MM3 and away_mm.max() <= OUTSIDE_UP_TO_MM:
            large.append(number)
    if not large:
        return []
    volume_ml = volumes_mm3[large].sum() / MM3_PER_ML
    return [
        f"The model also marks {volume_ml:.1f} ml just outside the region that it searched, the brain; this "
        "is not in the result. Check the edge of the brain for lesions."
    ]


def _distance_mm(mask: Mask, spacing_mm: tuple[float, ...]) -> Array:
    """Return the distance of each voxel from the mask; infinite if it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(~mask, spacing_mm), dtype=np.float32)


def _cut_off(found: Found, image: hd.Volume) -> list[str]:
    largest_mm2 = 0.0
    for axis in range(3):
        area_mm2 = float(np.prod(np.delete(image.spacing, axis)))
        for end in (0, -1):
            counts = np.bincount(np.take(found.numbers, end, axis=axis).ravel(), minlength=len(found.kept))
            largest_mm2 = max(largest_mm2, area_mm2 * float((counts[1:] * found.kept[1:]).max(initial=0)))
    if largest_mm2 < SECTION_MM2:
        return []
    return ["A lesion reaches the edge of the images: it may be larger than measured."]


def _too_large(found: Found, image: hd.Volume, trained: Trained) -> list[str]:
    volumes_mm3 = np.bincount(found.numbers.ravel()) * image.voxel_volume
    largest_mm3 = max(
        (volume for volume, kept in zip(volumes_mm3[1:], found.kept[1:], strict=True) if kept), default=0.0
    )
    if largest_mm3 <= np.pi / 6.0 * trained.largest_mm**3:
        return []
    return [
        f"A lesion of {largest_mm3 / MM3_PER_ML:.0f} ml is larger than nearly all that the model was trained "
        f"with ({trained.largest_mm:g} mm): check its outline."
    ]


def brain_intensities(image: Array, brain: Mask) -> list[float]:
    """Return the 5th, 50th and 95th percentile of a prepared image in the brain."""
    return [float(value) for value in np.percentile(image[brain], PERCENTILES)]


def _unlike_training(region: Region, image: hd.Volume, trained: Trained) -> list[str]:
    if region.brain is None or trained.brain_intensities is None:
        return []
    measured = brain_intensities(image.array, region.brain)
    for value, (low, high) in zip(measured, trained.brain_intensities, strict=True):
        tolerance = TOLERANCE * (high - low)
        if not low - tolerance <= value <= high + tolerance:
            return [
                "The brain's brightness is unlike that of any image the model was trained with: check that "
                "this is a post-contrast T1 of the head, and do not rely on the findings."
            ]
    return []


def enhanced_share(image: hd.Volume, brain: Mask) -> float:
    """Return the share of the brain's voxels that are much brighter than the white matter around them.

    White matter: the brighter half of the surroundings, weighted by a Gaussian.
    """
    signal = image.array - np.float32(np.percentile(image.array, AIR_PERCENTILE))
    share = pooled(brain.astype(np.float32), BLOCK)
    inside = share > 0.5
    level = np.asarray(pooled(signal * brain, BLOCK) / share.clip(0.5), dtype=np.float32)
    half = _mean_around(level, inside, image)
    white = _mean_around(level, inside & (level >= half), image)
    return float((signal > ENHANCED * spread(white, BLOCK, signal.shape))[brain].mean())


def _mean_around(level: Array, mask: Mask, image: hd.Volume) -> Array:
    """Return the mean of the mask's blocks around each block, weighted by a Gaussian."""
    sigma = [AROUND_MM / (step * BLOCK) for step in image.spacing]
    total, weight = (
        ndimage.gaussian_filter(values, sigma, mode="constant")
        for values in (np.where(mask, level, 0.0), mask.astype(np.float64))
    )
    return np.asarray(total / np.maximum(weight, 1e-6))


def _unenhanced(image: hd.Volume, brain: Mask) -> list[str]:
    if enhanced_share(image, brain) >= LEAST_ENHANCED:
        return []
    return [
        "Hardly anything in the brain is brighter than white matter: check that contrast agent was given. "
        "Without it the model misses lesions."
    ]
