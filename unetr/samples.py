"""What a network is trained on: prepared heads on disk, and windows cut out of them.

Arrays are (x, y, z) in the spec's orientation. A truth holds the label's value of each voxel, 0 elsewhere,
and ``UNSOUGHT`` where nothing is sought; a weight says how much a voxel counts in the loss.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from unetr import kinds
from unetr.brain import pooled
from unetr.preprocess import prepare, resample_labels
from unetr.spec import Brain, ModelSpec

Array = NDArray[np.float32]
Points = NDArray[np.int64]

UNSOUGHT = 255
# Voxels around the brain in which the network still has to tell what is no lesion; beyond, none is sought.
SOUGHT_MARGIN = 3
BRIGHT = 1.5
POINTS = 4000
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
    """One head as the networks see it; the arrays are mapped from disk, none is read whole.

    image: float16. lesions: uint8, each lesion's number from 1 on. sought: bool, the brain and a margin.
    coarse, brain: float16, image and share of brain on the brain's grid. centres: (n, 3) voxels, volumes_mm3:
    (n,), of the lesions. bright: (n, 3) voxels of sought that are brighter than most of the head and no
    lesion: vessels, dura. anywhere: (n, 3) of sought.
    """

    image: NDArray[np.float16]
    lesions: NDArray[np.uint8]
    sought: NDArray[np.bool_]
    coarse: NDArray[np.float16]
    brain: NDArray[np.float16]
    centres: Points
    volumes_mm3: NDArray[np.float64]
    bright: Points
    anywhere: Points


def make(folder: Path, seed: int, spec: ModelSpec) -> Path:
    """The training head of that seed after the very preprocessing of inference, unless it is there."""
    path = folder / f"{spec_key(spec)}-{seed}"
    if path.exists():
        return path
    torch.set_num_threads(1)
    head = kinds.training_head(seed)
    prepared = prepare(head.image, spec)
    lesions = resample_labels(head.labels, prepared).array.astype(np.uint8)
    brain = resample_labels(head.brain, prepared).array > 0
    unfinished = folder / f"{path.name}.part"
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, array in arrays(prepared.volume, lesions, brain, spec).items():
        np.save(unfinished / f"{name}.npy", array)
    unfinished.rename(path)
    return path


def spec_key(spec: ModelSpec) -> str:
    """What of a spec decides how a head is prepared, as eight characters."""
    brain = spec.brain.factor if spec.brain is not None else None
    parts = (spec.orientation, spec.spacing_mm, spec.intensity, spec.crop, brain)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def arrays(
    image: hd.Volume, lesions: NDArray[np.uint8], brain: NDArray[np.bool_], spec: ModelSpec
) -> dict[str, NDArray[Any]]:
    """The arrays of a ``Sample``: of a prepared image (x, y, z), its lesions' numbers and its brain."""
    sought = ndimage.binary_dilation(brain, iterations=SOUGHT_MARGIN)
    factor = spec.brain.factor if spec.brain is not None else 1
    present, numbers, voxels = np.unique(lesions, return_inverse=True, return_counts=True)
    lesions = numbers.reshape(lesions.shape).astype(np.uint8)  # none is missing between 1 and the last
    centres = ndimage.center_of_mass(lesions > 0, lesions, range(1, len(present)))
    return {
        "image": image.array.astype(np.float16),
        "lesions": lesions,
        "sought": sought,
        "coarse": pooled(image.array, factor).astype(np.float16),
        "brain": pooled(brain.astype(np.float32), factor).astype(np.float16),
        "centres": np.rint(centres).astype(np.int64).reshape(-1, 3),
        "volumes_mm3": voxels[1:] * image.voxel_volume,
        "bright": _some(np.argwhere((image.array > BRIGHT) & (lesions == 0) & sought)),
        "anywhere": _some(np.argwhere(sought)),
    }


def _some(points: Points) -> Points:
    return points[:: max(len(points) // POINTS, 1)].copy()


def load(folder: Path) -> Sample:
    """A head that ``make`` made."""
    return Sample(**{path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")})


def make_all(folder: Path, seeds: Sequence[int], spec: ModelSpec, processes: int) -> list[Sample]:
    """The heads of these seeds, those that are missing made by so many processes."""
    with get_context("spawn").Pool(processes) as pool:
        paths = pool.starmap(make, [(folder, seed, spec) for seed in seeds], chunksize=1)
    return [load(path) for path in paths]


@dataclass(frozen=True)
class Window:
    """image: float32. truth: uint8, see the module. weight: float32. All (x, y, z)."""

    image: Array
    truth: NDArray[np.uint8]
    weight: Array


def lesion_window(
    sample: Sample, size: int, size_exponent: float, rng: np.random.Generator, augment: bool
) -> Window:
    """A window about a lesion, about something bright that is none, or anywhere in the brain.

    size_exponent: lesions are chosen, and their voxels weighed, by 1 over their volume to that power, the
    weight of 10 mm being 1.
    """
    kind = rng.random()
    weights = (sample.volumes_mm3 / REFERENCE_MM3) ** -size_exponent
    if kind < LESION_SHARE and len(sample.centres):
        middle = sample.centres[rng.choice(len(weights), p=weights / weights.sum())]
    else:
        bright = kind < LESION_SHARE + BRIGHT_SHARE and len(sample.bright)
        around = sample.bright if bright else sample.anywhere
        middle = around[rng.integers(len(around))]
    shape = np.array(sample.image.shape)
    first = middle - size // 2 + rng.integers(-size // 3, size // 3 + 1, 3)
    first = np.clip(first, np.minimum(0, shape - size), np.maximum(shape - size, 0))
    image, lesions, sought = (
        cut(array, first, size) for array in (sample.image, sample.lesions, sample.sought)
    )
    image = image.astype(np.float32)
    if augment:
        axes = tuple(np.flatnonzero(rng.random(3) < 0.5))
        image, lesions, sought = (np.flip(array, axes) for array in (image, lesions, sought))
        image = varied(image, rng)
    truth = np.where(lesions > 0, 1, np.where(sought, 0, UNSOUGHT)).astype(np.uint8)
    weight = np.concatenate([[1.0], np.clip(weights, *WEIGHTS)]).astype(np.float32)[lesions]
    return Window(np.ascontiguousarray(image), truth, np.ascontiguousarray(weight))


def brain_window(sample: Sample, brain: Brain, rng: np.random.Generator, augment: bool) -> Window:
    """A head on the brain's grid, in one window of it, and the brain (0 or 1)."""
    image, truth = sample.coarse.astype(np.float32), sample.brain.astype(np.float32)
    first = np.zeros(3, np.int64)
    if augment:
        if rng.random() < 0.5:
            missing = int(rng.uniform(0.0, MISSING_SHARE) * image.shape[2])
            image, truth = image[:, :, missing:], truth[:, :, missing:]
        if rng.random() < 0.5:
            image, truth = image[::-1], truth[::-1]
        image = varied(image, rng)
        first = rng.integers(-SHIFT, SHIFT + 1, 3)
    size = brain.window.shape[0]
    inside = np.rint(cut(truth, first, size)).astype(np.uint8)
    return Window(cut(image, first, size), inside, np.ones_like(inside, dtype=np.float32))


def varied(image: Array, rng: np.random.Generator) -> Array:
    """Another contrast, sharpness and noise."""
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
