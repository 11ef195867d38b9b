"""Prediction: from the volumes of a model's inputs to a mask and probabilities on the first one's grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cc3d
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from unetr.backends import Array, Backend, load_backends
from unetr.brain import Region, find_brain
from unetr.cautions import Found, cautions
from unetr.mirroring import mean_logits
from unetr.preprocess import Mask, Prepared, prepare
from unetr.sliding import Box, Progress, slide
from unetr.spec import Axis, Label, ModelSpec, PostProcessing, logit

# Voxels around a component, on the model's grid, within which its outline is interpolated.
MARGIN = 2
# Tolerance for rounding errors of the affines' arithmetic, in voxels.
ROUNDING = 1e-6
# Margin around the searched region's box that the network sees as context, in voxels.
CONTEXT = 12
# A component of this volume, a sphere of 10 mm, is kept however unsure the network is of its best voxel.
SEEDLESS_MM3 = np.pi / 6.0 * 10.0**3


@dataclass(frozen=True)
class Prediction:
    """A predicted segmentation on the grid of the first input volume, (slice, row, column).

    mask: uint8, the label's value or 0. probability: float32, of the most probable label, 0 outside the
    components' boxes. warnings: sentences for the reader about the region in which lesions were searched.
    """

    mask: hd.Volume
    probability: hd.Volume
    warnings: tuple[str, ...] = ()


class Predictor:
    """A model, ready to run. Deterministic: the same volumes give the same prediction.

    A voxel gets its most probable label where p(background) < 1 - threshold. If the spec has mirroring axes,
    probabilities are means over the mirror images. Volumes are (slice, row, column); ``others`` are the
    spec's further inputs, in its order, on any grid.
    """

    def __init__(self, spec: ModelSpec, backend: Backend, brain_backend: Backend | None = None) -> None:
        """Combine a spec with its backends. brain_backend: required if, and only if, the spec has a brain."""
        if (spec.brain is None) != (brain_backend is None):
            raise ValueError(f"the specification of {spec.id} and the backends differ about the brain")
        self.spec = spec
        self.backend = backend
        self.brain_backend = brain_backend

    @staticmethod
    def load(spec: ModelSpec, device: str = "auto") -> "Predictor":
        """Load the spec's weights; device as for ``load_backends``. Raises: WeightsInvalid, ModelError."""
        return Predictor(spec, *load_backends(spec, device))

    def __call__(
        self, volume: hd.Volume, on_progress: Progress = lambda fraction: None, *others: hd.Volume
    ) -> Prediction:
        """Predict a volume.

        on_progress is called with the fraction done before each window and at the end; its exceptions
        propagate. Raises: BrainNotFound, OutOfMemory.
        """
        return self.variants(volume, [self.spec.postprocessing], on_progress, others)[0]

    def variants(
        self,
        volume: hd.Volume,
        choices: Sequence[PostProcessing],
        on_progress: Progress = lambda fraction: None,
        others: Sequence[hd.Volume] = (),
    ) -> list[Prediction]:
        """Return one prediction for each choice of post-processing, from a single run of the networks.

        Raises: BrainNotFound, OutOfMemory.
        """
        prepared = prepare(volume, self.spec, others)
        region, logits = self._search(prepared, on_progress)
        specs = [self.spec.model_copy(update={"postprocessing": choice}) for choice in choices]
        predictions = []
        for spec in specs:
            within = _within(region.mask, logits, spec.postprocessing)
            positive = foreground(logits) > spec.postprocessing.threshold_logit
            found = _select(foreground(within), positive, prepared.volume.voxel_volume, spec.postprocessing)
            prediction = _on_native_grid(within, found, prepared.volume, volume, spec)
            doubts = cautions(found, region, prepared.volume, spec)
            predictions.append(replace(prediction, warnings=(*region.warnings, *doubts)))
        on_progress(1.0)
        return predictions

    def logits(self, prepared: Prepared, on_progress: Progress = lambda fraction: None) -> hd.Volume:
        """Return the logit of any label at each voxel (x, y, z).

        If the spec has a brain, it is below the threshold everywhere outside the brain and its margin.
        Raises: BrainNotFound, OutOfMemory.
        """
        region, logits = self._search(prepared, on_progress)
        return prepared.volume.with_array(foreground(_within(region.mask, logits, self.spec.postprocessing)))

    def _search(self, prepared: Prepared, on_progress: Progress) -> tuple[Region, Array]:
        on_progress(0.0)
        region = self.region(prepared.volume)
        axes = self.spec.mirroring_axes
        return region, self.logits_around(prepared.array, region.mask, axes, on_progress)

    def region(self, prepared: hd.Volume) -> Region:
        """Return the region searched in a prepared first input (x, y, z): the brain's, or everything.

        Raises: BrainNotFound, OutOfMemory.
        """
        if self.spec.brain is None or self.brain_backend is None:
            return Region(np.ones(prepared.array.shape, dtype=bool))
        return find_brain(prepared, self.brain_backend, self.spec.brain)

    def logits_around(
        self,
        array: Array,
        region: Mask,
        axes: Sequence[Axis],
        on_progress: Progress = lambda fraction: None,
    ) -> Array:
        """Return each label's logit against the background (label, x, y, z) in the region's box and its
        context. Elsewhere all labels together are below the threshold.

        array: the prepared inputs. axes: axes of the averaged mirror images. Raises: OutOfMemory.
        """
        window, count = self.spec.window, len(self.spec.labels)
        box = _with_context(ndimage.find_objects(region.astype(np.uint8))[0], region.shape, window.shape)
        below = _below(self.spec.postprocessing, count)
        logits = np.full((count, *region.shape), below, dtype=np.float32)
        logits[:, *box] = mean_logits(
            lambda image, progress: slide(image, self.backend, window, count, progress),
            array[:, *box],
            count,
            axes,
            on_progress,
        )
        return logits


def foreground(logits: Array) -> Array:
    """Return the logit of any label, from each label's logit against the background (label, ...).

    With a softmax, log((1 - p) / p) for the background's p is the logsumexp of the labels' logits.
    """
    return logits[0] if len(logits) == 1 else np.asarray(special.logsumexp(logits, axis=0))


def _below(postprocessing: PostProcessing, labels: int) -> np.float32:
    """Return a logit so low that this number of labels together stay below the threshold."""
    return np.float32(postprocessing.threshold_logit - 1.0 - np.log(labels))


def _within(region: Mask, logits: Array, postprocessing: PostProcessing) -> Array:
    """Return the logits, lowered outside the region so that there is no foreground there."""
    return np.where(region, logits, np.minimum(logits, _below(postprocessing, len(logits))))


def _with_context(box: Box, shape: tuple[int, ...], window: tuple[int, int, int]) -> Box:
    """Enlarge the box by CONTEXT on each side, at least to the window's size, within the shape."""
    wider = []
    for side, size, width in zip(box, shape, window, strict=True):
        missing = max(width - (side.stop - side.start), 2 * CONTEXT)
        first = max(side.start - missing // 2, 0)
        last = min(max(side.stop + missing - missing // 2, first + width), size)
        wider.append(slice(min(first, max(last - width, 0)), last))
    return wider[0], wider[1], wider[2]


def _select(any_label: Array, positive: Mask, voxel_mm3: float, postprocessing: PostProcessing) -> Found:
    """Number the components on the model's grid and select those of the result.

    any_label: the logit of any label in the searched region. positive: above the threshold, anywhere.
    """
    parts = cc3d.connected_components(
        any_label > postprocessing.threshold_logit, connectivity=26, out_dtype=np.uint32
    )
    volumes_mm3 = np.bincount(parts.ravel()) * voxel_mm3
    kept = volumes_mm3 >= postprocessing.minimum_volume_mm3
    if postprocessing.seed_threshold is not None:
        kept[1:] &= are_sure(peaks_of(any_label, parts), volumes_mm3[1:], postprocessing.seed_threshold)
    kept[0] = True
    return Found(parts, kept, positive)


def _on_native_grid(
    logits: Array, found: Found, model: hd.Volume, native: hd.Volume, spec: ModelSpec
) -> Prediction:
    """Interpolate each selected component in its box on the native grid.

    logits: (label, x, y, z) on the grid of ``model``.
    """
    cut = spec.postprocessing.threshold_logit
    minimum_mm3 = spec.postprocessing.minimum_volume_mm3
    parts, kept = found.numbers, found.kept
    # A dropped component must not reappear in the box of a neighbour.
    logits = np.where(kept[parts], logits, np.minimum(logits, _below(spec.postprocessing, len(logits))))
    mask = np.zeros(native.spatial_shape, dtype=np.uint8)
    probability = np.zeros(native.spatial_shape, dtype=np.float32)
    to_model = model.inverse_affine @ native.affine
    minimum_voxels = max(minimum_mm3 / native.voxel_volume, spec.postprocessing.minimum_native_voxels)
    for number, box in enumerate(ndimage.find_objects(parts.astype(np.int32)), start=1):
        target = native_box(box, model, native)
        if not kept[number] or mask[target].size == 0:
            continue
        inside = interpolate(logits, to_model, target)
        probability[target] = _most_probable(inside)
        label_map = _draw_labels(inside, cut, minimum_voxels, spec.labels)
        mask[target][label_map > 0] = label_map[label_map > 0]
    return Prediction(native.with_array(mask), native.with_array(probability))


def are_sure(
    peaks: Array, volumes_mm3: NDArray[np.floating[Any]], seed_threshold: float
) -> NDArray[np.bool_]:
    """Tell which components a seed threshold keeps. peaks: their highest logits."""
    return np.asarray((peaks > logit(seed_threshold)) | (volumes_mm3 >= SEEDLESS_MM3))


def peaks_of(values: Array, parts: NDArray[np.integer[Any]]) -> Array:
    """Return the highest value in each part, numbered 1, 2, …; empty if there are no parts.

    values, parts: of the same shape. SciPy's equivalent is slower, because it sorts the whole volume.
    """
    inside = parts > 0
    peaks = np.full(int(parts.max(initial=0)) + 1, -np.inf, dtype=np.float32)
    np.maximum.at(peaks, parts[inside], values[inside])
    return peaks[1:]


def _most_probable(logits: Array) -> Array:
    """Return the probability of the most probable label, from the labels' logits (label, ...)."""
    any_label = foreground(logits)
    probability = 0.5 * (1.0 + np.tanh(any_label / 2.0))
    if len(logits) > 1:
        probability *= np.exp(logits.max(axis=0) - any_label)
    return np.asarray(probability)


def _draw_labels(
    logits: Array, cut: float, minimum_voxels: float, labels: Sequence[Label]
) -> NDArray[np.uint8]:
    """Return the label's value at each voxel, 0 for background.

    Components below the minimum are dropped: of all labels together, then of each label that is not whole.
    """
    mask = _large(foreground(logits) > cut, minimum_voxels)
    if len(labels) == 1:
        return mask.astype(np.uint8) * np.uint8(labels[0].value)
    values = np.array([label.value for label in labels], dtype=np.uint8)
    label_map = np.where(mask, values[logits.argmax(axis=0)], np.uint8(0))
    for label in labels:
        if not label.whole:
            part = label_map == label.value
            label_map[part & ~_large(part, minimum_voxels)] = 0
    return label_map


def _large(mask: NDArray[np.bool_], minimum_voxels: float) -> NDArray[np.bool_]:
    """Remove components of fewer voxels: interpolation on a finer grid can leave fragments."""
    parts = cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32)
    enough = np.bincount(parts.ravel()) >= minimum_voxels
    enough[0] = False
    return np.asarray(enough[parts])


def native_box(box: Box, model: hd.Volume, native: hd.Volume) -> Box:
    """Return the box of native voxels whose centres lie in a box of the model's grid and its margin.

    It may be empty. The model's grid ends half a voxel beyond its outermost centres; outside, where the
    volume was cropped away, nothing was predicted.
    """
    ends = np.array(
        [
            [max(s.start - MARGIN, -0.5), min(s.stop - 1 + MARGIN, size - 0.5)]
            for s, size in zip(box, model.spatial_shape, strict=True)
        ]
    )
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    moved = native.map_reference_to_indices(model.map_indices_to_reference(corners))
    first = np.clip(np.ceil(moved.min(0) - ROUNDING), 0, native.spatial_shape).astype(int)
    last = np.clip(np.floor(moved.max(0) + ROUNDING) + 1, 0, native.spatial_shape).astype(int)
    return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])


def interpolate(logits: Array, to_model: NDArray[np.float64], target: Box) -> Array:
    """Interpolate the model's logits (label, x, y, z) linearly at the native voxels of a box.

    to_model: affine from native indices to indices of the model's grid.
    """
    first = np.array([s.start for s in target])
    shape = tuple(s.stop - s.start for s in target)
    offset = to_model[:3, :3] @ first + to_model[:3, 3]
    native_logits = np.empty((len(logits), *shape), dtype=np.float32)
    for label, place in zip(logits, native_logits, strict=True):
        ndimage.affine_transform(
            label, to_model[:3, :3], offset, output_shape=shape, output=place, order=1, mode="nearest"
        )
    return native_logits
