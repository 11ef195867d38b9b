"""Training samples: prepared cases on disk, and windows cut out of them.

Arrays are (x, y, z) in the spec's orientation, images (channel, x, y, z) with a channel for each of the
spec's inputs. A truth holds each voxel's label value, 0 for background, and ``IGNORE_LABEL`` outside the
searched region, where the loss ignores it; with one label, a voxel that is partly lesion has the share of it,
if that is known. A weight says how much a voxel counts in the loss.
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

IGNORE_LABEL = 255
SHARE_STEPS = 255
# Margin around the brain, in voxels, in which the network must still reject non-lesions; ignored beyond.
SEARCH_MARGIN = 6
MIN_BRIGHT_INTENSITY = 1.5
WINDOW_CENTRE_COUNT = 4000
# Approximate number of voxels of a whole-region object on which windows are centred.
REGION_POINTS = 200
REFERENCE_MM3 = np.pi / 6 * 10.0**3
WEIGHTS = (0.3, 10.0)
LESION_SHARE = 0.5
BRIGHT_SHARE = 0.25
# Augmentation on the brain's grid: largest shift of a head, in voxels, cropped by the window; largest share
# that may be missing at its lower end.
SHIFT = 6
MISSING_SHARE = 0.35


@dataclass(frozen=True)
class Sample:
    """One case as the networks see it; the arrays are memory-mapped, none is read whole.

    image: float16. objects: uint16, object numbers from 1: a component of a label, or all of a whole label.
    The bool mask is the searched region: the brain and a margin, or everything. values: (n,) labels of the
    objects. volumes_mm3: (n,) their volumes; a whole label has the reference volume, so that its weight is 1.
    places: (m, 3) voxels on which windows of an object are centred, the centre of a component and many of a
    whole label; place_of: (m,) the object's number. bright: (k, 3) bright voxels of the region outside
    objects, e.g. vessels or dura. anywhere: (k, 3) voxels of the region.
    coarse, brain: float16, the first input and the share of brain on the brain's grid; None if unknown.
    share: uint8, the share of each voxel that is labelled, in 255ths; None if unknown.
    """

    image: NDArray[np.float16]
    objects: NDArray[np.uint16]
    search_mask: NDArray[np.bool_]
    values: NDArray[np.uint8]
    volumes_mm3: NDArray[np.float64]
    places: Points
    place_of: Points
    bright: Points
    anywhere: Points
    coarse: NDArray[np.float16] | None = None
    brain: NDArray[np.float16] | None = None
    share: NDArray[np.uint8] | None = None


def arrays(
    prepared: Prepared,
    truth: NDArray[np.uint8],
    brain: NDArray[np.bool_] | None,
    spec: ModelSpec,
    share: Array | None = None,
) -> dict[str, NDArray[Any]]:
    """Compute the arrays of a ``Sample`` from prepared inputs, label values (x, y, z), a known brain, and the
    share of each voxel that is labelled, 0..1, which is used if the spec has one label.
    """
    first = prepared.volume
    limited = spec.brain is not None and brain is not None
    search_mask = (
        ndimage.binary_dilation(brain, iterations=SEARCH_MARGIN) if limited else np.ones(truth.shape, bool)
    )
    objects_by_label = [_objects(truth == label.value, label, first.voxel_volume) for label in spec.labels]
    counts = [len(label_objects.volumes_mm3) for label_objects in objects_by_label]
    before = np.cumsum([0, *counts])[:-1]
    objects = np.zeros(truth.shape, np.uint16)
    for label_objects, offset in zip(objects_by_label, before, strict=True):
        objects[label_objects.numbers > 0] = label_objects.numbers[label_objects.numbers > 0] + offset
    fields = {
        "image": prepared.array.astype(np.float16),
        "objects": objects,
        "search_mask": search_mask,
        "values": np.repeat([label.value for label in spec.labels], counts).astype(np.uint8),
        "volumes_mm3": np.concatenate([label_objects.volumes_mm3 for label_objects in objects_by_label]),
        "places": np.concatenate([label_objects.places for label_objects in objects_by_label]),
        "place_of": np.concatenate(
            [label_objects.place_of + n for label_objects, n in zip(objects_by_label, before, strict=True)]
        ),
        "bright": _thin(
            np.argwhere((first.array > MIN_BRIGHT_INTENSITY) & (objects == 0) & search_mask),
            WINDOW_CENTRE_COUNT,
        ),
        "anywhere": _thin(np.argwhere(search_mask), WINDOW_CENTRE_COUNT),
    }
    if spec.brain is not None and brain is not None:
        fields["coarse"] = pooled(first.array, spec.brain.factor).astype(np.float16)
        fields["brain"] = pooled(brain.astype(np.float32), spec.brain.factor).astype(np.float16)
    if share is not None and len(spec.labels) == 1 and not spec.labels[0].whole:
        fields["share"] = np.rint(share * SHARE_STEPS).astype(np.uint8)
    return fields


@dataclass(frozen=True)
class _Objects:
    """The objects of one label, as in a ``Sample``. numbers: uint16 (x, y, z)."""

    numbers: NDArray[np.uint16]
    volumes_mm3: NDArray[np.float64]
    places: Points
    place_of: Points


def _objects(mask: NDArray[np.bool_], label: Label, voxel_mm3: float) -> _Objects:
    if label.whole:
        places = _thin(np.argwhere(mask), REGION_POINTS)
        volumes_mm3 = np.full(min(len(places), 1), REFERENCE_MM3)
        return _Objects(mask.astype(np.uint16), volumes_mm3, places, np.ones(len(places), np.int64))
    # cc3d requires a type that can hold the largest possible number of components in this volume.
    numbers = cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32).astype(np.uint16)
    voxels = np.bincount(numbers.ravel())[1:].astype(np.float64)
    present = np.arange(1, len(voxels) + 1)
    middles = np.reshape(ndimage.center_of_mass(mask, numbers, present), (-1, 3))
    return _Objects(numbers, voxels * voxel_mm3, np.rint(middles).astype(np.int64), present)


def _thin(points: Points, most: int) -> Points:
    return points[:: max(len(points) // most, 1)].copy()


def load(folder: Path) -> Sample:
    """Load the sample whose arrays were saved in that folder."""
    return Sample(**{path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")})


@dataclass(frozen=True)
class TrainingWindow:
    """A training window. image: float32 (channel, x, y, z). truth: float32 (x, y, z), see the module.

    weight: float32 (x, y, z).
    """

    image: Array
    truth: Array
    weight: Array


def lesion_window(
    sample: Sample, size: int, size_exponent: float, rng: np.random.Generator, augment: bool
) -> TrainingWindow:
    """Cut a window around an object, around a bright voxel outside objects, or anywhere in the region.

    size_exponent: objects are sampled, and their voxels weighted, by 1 over their volume to that power; a
    lesion of 10 mm has weight 1.
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
    shape = np.array(sample.search_mask.shape)
    first = middle - size // 2 + rng.integers(-size // 3, size // 3 + 1, 3)
    first = np.clip(first, np.minimum(0, shape - size), np.maximum(shape - size, 0))
    image = np.stack([cut(channel, first, size) for channel in sample.image]).astype(np.float32)
    objects, search_mask = cut(sample.objects, first, size), cut(sample.search_mask, first, size)
    values = np.concatenate([[0], sample.values])[objects].astype(np.float32)
    if sample.share is not None:
        values = cut(sample.share, first, size) / np.float32(SHARE_STEPS)
    truth = np.where((values > 0) | search_mask, values, np.float32(IGNORE_LABEL))
    if augment:
        axes = tuple(axis for axis in (-3, -2, -1) if rng.random() < 0.5)
        image, objects, truth = (np.flip(array, axes) for array in (image, objects, truth))
        image = varied(image, rng)
    weight = np.concatenate([[1.0], np.clip(weights, *WEIGHTS)]).astype(np.float32)[objects]
    return TrainingWindow(
        np.ascontiguousarray(image), np.ascontiguousarray(truth), np.ascontiguousarray(weight)
    )


def brain_window(sample: Sample, brain: Brain, rng: np.random.Generator, augment: bool) -> TrainingWindow:
    """Cut one window of a head and its brain (0 or 1) on the brain's grid. Raises: ValueError if unknown."""
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
    inside = cut(truth, first, size)
    return TrainingWindow(cut(image[0], first, size)[None], inside, np.ones_like(inside))


def varied(image: Array, rng: np.random.Generator) -> Array:
    """Vary contrast, sharpness and noise of each channel (channel, x, y, z) independently."""
    return np.stack([_varied(channel, rng) for channel in image])


def _varied(image: Array, rng: np.random.Generator) -> Array:
    image = image * rng.uniform(0.85, 1.15) + rng.uniform(-0.15, 0.15)
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, rng.uniform(0.0, 0.8, 3))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(image + noise * np.float32(rng.uniform(0.0, 0.15)), dtype=np.float32)


def cut(array: NDArray[Any], first: Points, size: int) -> NDArray[Any]:
    """Cut a cube out of the array, size voxels a side from ``first``; outside the array its lowest value."""
    inside = tuple(slice(max(int(start), 0), int(start) + size) for start in first)
    part = np.asarray(array[inside])
    before = np.maximum(-first, 0)
    after = size - before - part.shape
    if not before.any() and not after.any():
        return part
    return np.pad(part, list(zip(before, after, strict=True)), constant_values=array.min())
