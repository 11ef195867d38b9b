"""A model's uncertainty: the mean prediction over mirror images (``unetr.mirroring``) and its entropy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from unetr.backends import Array
from unetr.mirroring import ALL_AXES, with_background
from unetr.predict import Predictor, interpolate, native_box
from unetr.preprocess import Mask, prepare
from unetr.sliding import Box, Progress
from unetr.spec import Axis

# Native slices that are interpolated at a time.
SLAB = 16


@dataclass(frozen=True)
class Explanation:
    """The mean prediction over mirror images and its uncertainty.

    probability: mean probability of any label. entropy: of the mean, bits, 0 to log2(number of classes).
    Both are float32 on the input volume's grid (slice, row, column), and 0 outside the searched region.
    region: bool, the searched region on the model's grid (x, y, z).
    """

    probability: hd.Volume
    entropy: hd.Volume
    region: hd.Volume


def explain(
    predictor: Predictor,
    volume: hd.Volume,
    on_progress: Progress = lambda fraction: None,
    axes: Sequence[Axis] = ALL_AXES,
    others: Sequence[hd.Volume] = (),
) -> Explanation:
    """Predict a volume (slice, row, column) and its mirror images along axes of the model's grid; the spec's
    own mirroring axes are ignored. Deterministic.

    The brain is searched only in the unmirrored volume, because no scanner turns heads upside down. others:
    the spec's further inputs. on_progress is called with the fraction done before each window and at the
    end; its exceptions propagate. Raises: BrainNotFound, OutOfMemory.
    """
    on_progress(0.0)
    prepared = prepare(volume, predictor.spec, others)
    grid = prepared.volume
    region = predictor.region(grid).mask
    to_model = grid.inverse_affine @ volume.affine
    target = native_box(ndimage.find_objects(region.astype(np.uint8))[0], grid, volume)
    logits = predictor.logits_around(prepared.array, region, axes, on_progress)
    probability = np.zeros(volume.spatial_shape, dtype=np.float32)
    entropy = np.zeros_like(probability)
    for slab in _slabs(target):
        of_labels = _probabilities(interpolate(logits, to_model, slab))
        of_labels[:, ~_sample_region(region, to_model, slab)] = 0.0
        probability[slab] = of_labels.sum(axis=0)
        entropy[slab] = entropy_bits(of_labels)
    on_progress(1.0)
    return Explanation(volume.with_array(probability), volume.with_array(entropy), grid.with_array(region))


def _probabilities(logits: Array) -> Array:
    """Return each label's probability, the softmax of the logits against the background (label, ...)."""
    return np.asarray(special.softmax(with_background(logits), axis=0)[1:])


def max_entropy_bits(labels: int) -> float:
    """Return the entropy, bits, if the background and this number of labels are equally probable."""
    return float(np.log2(labels + 1))


def entropy_bits(probabilities: Array) -> Array:
    """Return the Shannon entropy, bits, of the labels' probabilities (label, ...) and the background's, the
    rest of 1: the sum of -p log2 p, with 0 log2 0 = 0. It ranges from 0 to ``max_entropy_bits``.

    Shannon 1948, section 6. For a mean of predictions this is the predictive entropy.
    """
    background = np.clip(1.0 - probabilities.sum(axis=0), 0.0, 1.0)
    nats = special.entr(probabilities).sum(axis=0) + special.entr(background)
    return np.asarray(np.clip(nats / float(np.log(2.0)), 0.0, max_entropy_bits(len(probabilities))))


def lesion_entropies(entropy: hd.Volume, labels: hd.Volume) -> dict[int, float]:
    """Average the entropy over each lesion, by its number. entropy, labels: on one grid, 0 is background."""
    numbers = labels.array.ravel()
    counts = np.bincount(numbers)
    sums = np.bincount(numbers, weights=entropy.array.ravel())
    return {n: float(sums[n] / counts[n]) for n in range(1, len(counts)) if counts[n]}


def _slabs(target: Box) -> Iterator[Box]:
    """Yield the box in slabs of SLAB slices, so that only the results take memory on the native grid."""
    slices, rows, columns = target
    for first in range(slices.start, slices.stop, SLAB):
        yield slice(first, min(first + SLAB, slices.stop)), rows, columns


def _sample_region(region: Mask, to_model: NDArray[np.float64], target: Box) -> Mask:
    """Return the native voxels of a box whose centres lie in voxels of the region."""
    first = np.array([s.start for s in target])
    shape = tuple(s.stop - s.start for s in target)
    offset = to_model[:3, :3] @ first + to_model[:3, 3]
    nearest = ndimage.affine_transform(
        region.astype(np.uint8), to_model[:3, :3], offset, output_shape=shape, order=0, mode="grid-constant"
    )
    return np.asarray(nearest > 0)
