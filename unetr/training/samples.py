"""What a network is trained on: prepared cases on disk, and windows cut out of them.

Arrays are (x, y, z) in the spec's orientation, images (channel, x, y, z) with a channel for each of the
spec's inputs. A truth holds the label's value of each voxel, 0 elsewhere, and ``UNSOUGHT`` where nothing is
sought; a weight says how much a voxel counts in the loss.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetr.brain import pooled
from unetr.preprocess import Prepared
from unetr.spec import Brain, Label, ModelSpec

Array = NDArray[np.float32]
Points = NDArray[np.int64]

UNSOUGHT = 255
# Voxels around the brain in which the network still has to tell what is no lesion; beyond, none is sought.
SOUGHT_MARGIN = 3
BRIGHT = 1.5
POINTS = 4000
# Of a region that is one object, the voxels about which windows are cut.
REGION_POINTS = 200
REFERENCE_MM3 = np.pi / 6 * 10.0**3
WEIGHTS = (0.3, 10.0)
LESION_SHARE = 0.5
BRIGHT_SHARE = 0.25
# On the brain's grid: how far a head is moved, cut where it leaves the window; how much of its lower end may
# be missing.
SHIFT = 6
MISSING_SHARE = 0.35


@dataclass(frozen=True)
class Sample:
    """One case as the networks see it; the arrays are mapped from disk, none is read whole.

    image: float16. objects: uint16, each object's number from 1 on: a component of a label, or all of a label
    that is one region. sought: bool, the brain and a margin, or everything. values: (n,) labels of the
    objects. volumes_mm3: (n,), of a region the reference, so that it is not weighed. places: (m, 3) voxels
    about which a window shows an object, the middle of a component and many of a region; place_of: (m,) its
    number. bright: (k, 3) voxels of sought that are brighter than most of the first input and no object:
    vessels, dura. anywhere: (k, 3) of sought.
    coarse, brain: float16, the first input and the share of brain on the brain's grid, where it is known.
    """

    image: NDArray[np.float16]
    objects: NDArray[np.uint16]
    sought: NDArray[np.bool_]
    values: NDArray[np.uint8]
    volumes_mm3: NDArray[np.float64]
    places: Points
    place_of: Points
    bright: Points
    anywhere: Points
    coarse: NDArray[np.float16] | None = None
    brain: NDArray[np.float16] | None = None


def arrays(
    prepared: Prepared, truth: NDArray[np.uint8], brain: NDArray[np.bool_] | None, spec: ModelSpec
) -> dict[str, NDArray[Any]]:
    """The arrays of a ``Sample``: of prepared inputs, label values (x, y, z), and the brain where known."""
    first = prepared.volume
    limited = spec.brain is not None and brain is not None
    sought = (
        ndimage.binary_dilation(brain, iterations=SOUGHT_MARGIN) if limited else np.ones(truth.shape, bool)
    )
    found = [_objects(truth == label.value, label, first.voxel_volume) for label in spec.labels]
    counts = [len(each.volumes_mm3) for each in found]
    before = np.cumsum([0, *counts])[:-1]
    objects = np.zeros(truth.shape, np.uint16)
    for each, others in zip(found, before, strict=True):
        objects[each.numbers > 0] = each.numbers[each.numbers > 0] + others
    made = {
        "image": prepared.array.astype(np.float16),
        "objects": objects,
        "sought": sought,
        "values": np.repeat([label.value for label in spec.labels], counts).astype(np.uint8),
        "volumes_mm3": np.concatenate([each.volumes_mm3 for each in found]),
        "places": np.concatenate([each.places for each in found]),
        "place_of": np.concatenate([each.place_of + n for each, n in zip(found, before, strict=True)]),
        "bright": _some(np.argwhere((first.array > BRIGHT) & (objects == 0) & sought), POINTS),
        "anywhere": _some(np.argwhere(sought), POINTS),
    }
    if spec.brain is not None and brain is not None:
        made["coarse"] = pooled(first.array, spec.brain.factor).astype(np.float16)
        made["brain"] = pooled(brain.astype(np.float32), spec.brain.factor).astype(np.float16)
    return made


@dataclass(frozen=True)
class _Objects:
    """Of one label, as in a ``Sample``; numbers: uint16 (x, y, z)."""

    numbers: NDArray[np.uint16]
    volumes_mm3: NDArray[np.float64]
    places: Points
    place_of: Points


def _objects(mask: NDArray[np.bool_], label: Label, voxel_mm3: float) -> _Objects:
    if label.whole:
        places = _some(np.argwhere(mask), REGION_POINTS)
        volumes_mm3 = np.full(min(len(places), 1), REFERENCE_MM3)
        return _Objects(mask.astype(np.uint16), volumes_mm3, places, np.ones(len(places), np.int64))
    # cc3d wants room for as many as a volume of this size could have at most.
    numbers = cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32).astype(np.uint16)
    voxels = np.bincount(numbers.ravel())[1:].astype(np.float64)
    present = np.arange(1, len(voxels) + 1)
    middles = np.reshape(ndimage.center_of_mass(mask, numbers, present), (-1, 3))
    return _Objects(numbers, voxels * voxel_mm3, np.rint(middles).astype(np.int64), present)


def _some(points: Points, most: int) -> Points:
    return points[:: max(len(points) // most, 1)].copy()


def load(folder: Path) -> Sample:
    """A sample whose arrays were saved in that folder."""
    return Sample(**{path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")})


@dataclass(frozen=True)
class Window:
    """image: float32 (channel, x, y, z). truth: uint8, see the module. weight: float32. Both (x, y, z)."""

    image: Array
    truth: NDArray[np.uint8]
    weight: Array


def lesion_window(
    sample: Sample, size: int, size_exponent: float, rng: np.random.Generator, augment: bool
) -> Window:
    """A window about an object, about something bright that is none, or anywhere that is sought.

    size_exponent: lesions are chosen, and their voxels weighed, by 1 over their volume to that power, the
    weight of 10 mm being 1.
    """
    kind = rng.random()
    weights = (sample.volumes_mm3 / REFERENCE_MM3) ** -size_exponent
    if kind < LESION_SHARE and len(weights):
        number = 1 + rng.choice(len(weights), p=weights / weights.sum())
        around = sample.places[sample.place_of == number]
    else:
        bright = kind < LESION_SHARE + BRIGHT_SHARE and len(sample.bright)
        around = sample.bright if bright else sample.anywhere
    middle = around[rng.integers(len(around))]
    shape = np.array(sample.sought.shape)
    first = middle - size // 2 + rng.integers(-size // 3, size // 3 + 1, 3)
    first = np.clip(first, np.minimum(0, shape - size), np.maximum(shape - size, 0))
    image = np.stack([cut(channel, first, size) for channel in sample.image]).astype(np.float32)
    objects, sought = cut(sample.objects, first, size), cut(sample.sought, first, size)
    if augment:
        axes = tuple(axis for axis in (-3, -2, -1) if rng.random() < 0.5)
        image, objects, sought = (np.flip(array, axes) for array in (image, objects, sought))
        image = varied(image, rng)
    values = np.concatenate([[0], sample.values])[objects]
    truth = np.where((objects > 0) | sought, values, UNSOUGHT).astype(np.uint8)
    weight = np.concatenate([[1.0], np.clip(weights, *WEIGHTS)]).astype(np.float32)[objects]
    return Window(np.ascontiguousarray(image), truth, np.ascontiguousarray(weight))


def brain_window(sample: Sample, brain: Brain, rng: np.random.Generator, augment: bool) -> Window:
    """A head whose brain is known on the brain's grid, in one window of it, and the brain (0 or 1)."""
    if sample.coarse is None or sample.brain is None:
        raise ValueError("the brain of this sample is not known")
    image, truth = sample.coarse.astype(np.float32)[None], sample.brain.astype(np.float32)
    first = np.zeros(3, np.int64)
    if augment:
        if rng.random() < 0.5:
            missing = int(rng.uniform(0.0, MISSING_SHARE) * truth.shape[2])
            image, truth = image[..., missing:], truth[..., missing:]
        if rng.random() < 0.5:
            image, truth = image[:, ::-1], truth[::-1]
        image = varied(image, rng)
        first = rng.integers(-SHIFT, SHIFT + 1, 3)
    size = brain.window.shape[0]
    inside = np.rint(cut(truth, first, size)).astype(np.uint8)
    return Window(cut(image[0], first, size)[None], inside, np.ones_like(inside, dtype=np.float32))


def varied(image: Array, rng: np.random.Generator) -> Array:
    """Another contrast, sharpness and noise, of each channel by itself: (channel, x, y, z)."""
    return np.stack([_varied(channel, rng) for channel in image])


def _varied(image: Array, rng: np.random.Generator) -> Array:
    image = image * rng.uniform(0.85, 1.15) + rng.uniform(-0.15, 0.15)
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, rng.uniform(0.0, 0.8, 3))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(image + noise * np.float32(rng.uniform(0.0, 0.15)), dtype=np.float32)


def cut(array: NDArray[Any], first: Points, size: int) -> NDArray[Any]:
    """A cube of the array, size voxels a side from ``first`` on; beyond the array its lowest value."""
    inside = tuple(slice(max(int(start), 0), int(start) + size) for start in first)
    part = np.asarray(array[inside])
    before = np.maximum(-first, 0)
    after = size - before - part.shape
    if not before.any() and not after.any():
        return part
    return np.pad(part, list(zip(before, after, strict=True)), constant_values=array.min())
