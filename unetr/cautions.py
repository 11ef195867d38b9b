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
from unetr.backends import Array
from unetr.brain import Region
from unetr.preprocess import Mask
from unetr.spec import Trained

# Findings outside the region count from this volume, if they reach within this distance of the region: the
# network was trained to reject what lies there, but not further out.
OUTSIDE_MM3, OUTSIDE_WITHIN_MM = 100.0, 4.0
# Least area of a lesion's section at the edge of the images.
SECTION_MM2 = 40.0
# The brain's normalised intensities may exceed the range of the training by this share of its width.
TOLERANCE = 0.1
PERCENTILES = (5.0, 50.0, 95.0)


@dataclass(frozen=True)
class Found:
    """What a network found. numbers: of the components, 0 elsewhere. kept: by number, those of the result.

    positive: the voxels above the threshold, also outside the searched region.
    """

    numbers: NDArray[np.unsignedinteger[Any]]
    kept: NDArray[np.bool_]
    positive: Mask


def cautions(found: Found, region: Region, image: hd.Volume, trained: Trained | None) -> tuple[str, ...]:
    """Return a sentence for each kind of doubt about a result. image: the prepared first input."""
    doubts = [*_outside(found, region, image), *_cut_off(found, image)]
    if trained is not None:
        doubts += [*_too_large(found, image, trained), *_unlike_training(region, image, trained)]
    return tuple(doubts)


def _outside(found: Found, region: Region, image: hd.Volume) -> list[str]:
    if region.brain is None:
        return []
    outside = found.positive & ~region.mask
    if not outside.any():
        return []
    numbers = cc3d.connected_components(outside, connectivity=26, out_dtype=np.uint32)
    volumes_mm3 = np.bincount(numbers.ravel()) * image.voxel_volume
    reach = max(round(OUTSIDE_WITHIN_MM / min(image.spacing)), 1)
    large = []
    for number, box in enumerate(ndimage.find_objects(numbers.astype(np.int32)), start=1):
        if volumes_mm3[number] >= OUTSIDE_MM3:
            wider = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
            near = ndimage.binary_dilation(numbers[wider] == number, iterations=reach)
            large += [number] if region.mask[wider][near].any() else []
    if not large:
        return []
    volume_ml = volumes_mm3[large].sum() / MM3_PER_ML
    return [
        f"The model also marks {volume_ml:.1f} ml just outside the region that it searched, the brain; this "
        "is not in the result. Check the edge of the brain for lesions."
    ]


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
        f"A lesion of {largest_mm3 / MM3_PER_ML:.0f} ml is larger than any that the model was trained with "
        f"({trained.largest_mm:g} mm): check its outline."
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
