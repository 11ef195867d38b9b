"""How sure a model is: predictions of the mirrored volume, their mean and its entropy.

The volume is predicted as it is and mirrored along the axes of the model's grid, which is how the networks
were trained, and each prediction is mirrored back. Test-time augmentation after Wang et al., Neurocomputing
2019 (doi:10.1016/j.neucom.2019.01.103), who draw augmentations at random and count votes; here every mirror
image is taken once, so that the result is the same each time, and probabilities are averaged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from unetr.backends import Array
from unetr.predict import Predictor, interpolate, native_box
from unetr.preprocess import Mask, prepare
from unetr.sliding import Box, Progress

# Axes of the model's grid that are mirrored at once.
Flip = tuple[int, ...]
EVERY_FLIP: tuple[Flip, ...] = tuple(chain.from_iterable(combinations(range(3), n) for n in range(4)))
# Native slices that are interpolated at once.
SLAB = 16


@dataclass(frozen=True)
class Explanation:
    """probability, entropy: float32 on the grid of the volume that was given, (slice, row, column), 0 where
    no lesion was sought: the mean of the predictions, and the entropy of that mean in bits, 0..1.

    region: bool, where lesions were sought, on the model's grid (x, y, z).
    """

    probability: hd.Volume
    entropy: hd.Volume
    region: hd.Volume


def explain(
    predictor: Predictor,
    volume: hd.Volume,
    on_progress: Progress = lambda fraction: None,
    flips: Sequence[Flip] = EVERY_FLIP,
) -> Explanation:
    """Predict a volume (slice, row, column) in several mirror images. Deterministic.

    flips: axes of the model's grid; () is the volume as it is. The brain is sought in that one alone, as no
    scanner turns heads upside down. on_progress is called with the fraction done before each window and at
    the end; what it raises passes through. Raises: BrainNotFound, OutOfMemory.
    """
    on_progress(0.0)
    prepared = prepare(volume, predictor.spec).volume
    region = predictor.region(prepared)
    to_model = prepared.inverse_affine @ volume.affine
    target = native_box(ndimage.find_objects(region.astype(np.uint8))[0], prepared, volume)
    mean = np.zeros(volume.spatial_shape, dtype=np.float32)
    for number, axes in enumerate(flips):
        progress = _share(on_progress, number, len(flips))
        mirrored = predictor.logits_around(np.flip(prepared.array, axes), np.flip(region, axes), progress)
        logits = np.ascontiguousarray(np.flip(mirrored, axes))
        for slab in _slabs(target):
            probability = special.expit(interpolate(logits, to_model, slab))
            # Of equal predictions the mean is they, to the bit.
            mean[slab] += (probability - mean[slab]) / (number + 1)
    for slab in _slabs(target):
        mean[slab][~_sought(region, to_model, slab)] = 0.0
    entropy = np.zeros_like(mean)
    for slab in _slabs(target):
        entropy[slab] = entropy_bits(mean[slab])
    on_progress(1.0)
    return Explanation(volume.with_array(mean), volume.with_array(entropy), prepared.with_array(region))


def entropy_bits(probability: Array) -> Array:
    """Binary Shannon entropy, bits, 0..1: H(p) = -p log2 p - (1 - p) log2 (1 - p), with 0 log2 0 = 0.

    Shannon 1948, section 6. Of a mean of predictions it is called the predictive entropy.
    """
    nats = special.entr(probability) + special.entr(1.0 - probability)
    return np.asarray(np.clip(nats / float(np.log(2.0)), 0.0, 1.0))


def lesion_entropies(entropy: hd.Volume, labels: hd.Volume) -> dict[int, float]:
    """Mean over the voxels of each lesion, by its number. entropy, labels: on one grid, 0 background."""
    numbers = labels.array.ravel()
    counts = np.bincount(numbers)
    sums = np.bincount(numbers, weights=entropy.array.ravel())
    return {n: float(sums[n] / counts[n]) for n in range(1, len(counts)) if counts[n]}


def _share(on_progress: Progress, number: int, count: int) -> Progress:
    return lambda fraction: on_progress((number + fraction) / count)


def _slabs(target: Box) -> Iterator[Box]:
    """The box in parts of SLAB slices, so that only the results take memory on the native grid."""
    slices, rows, columns = target
    for first in range(slices.start, slices.stop, SLAB):
        yield slice(first, min(first + SLAB, slices.stop)), rows, columns


def _sought(region: Mask, to_model: NDArray[np.float64], target: Box) -> Mask:
    """The native voxels of a box whose centres lie in voxels of the region."""
    first = np.array([s.start for s in target])
    shape = tuple(s.stop - s.start for s in target)
    offset = to_model[:3, :3] @ first + to_model[:3, 3]
    nearest = ndimage.affine_transform(
        region.astype(np.uint8), to_model[:3, :3], offset, output_shape=shape, order=0, mode="grid-constant"
    )
    return np.asarray(nearest > 0)
