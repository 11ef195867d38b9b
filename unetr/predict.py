"""From a volume to a mask and probabilities on its own grid."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import cc3d
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetr.backends import Array, Backend, load_backend
from unetr.preprocess import prepare
from unetr.spec import ModelSpec, Window

Box = tuple[slice, slice, slice]
Progress = Callable[[float], None]

# Width of a window's Gaussian weight, as a share of the window (nnU-Net's and MONAI's value).
BLENDING_SIGMA = 0.125
# Voxels around a component, on the model's grid, within which its outline is interpolated.
MARGIN = 2
# Of a voxel: what the affines' arithmetic may add to an index.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Prediction:
    """On the grid of the volume that was given, (slice, row, column).

    mask: uint8, the label's value or 0. probability: float32, 0 outside the components' boxes.
    """

    mask: hd.Volume
    probability: hd.Volume
    timings_s: Mapping[str, float] = field(default_factory=dict)


class Predictor:
    """One model, ready to run. Deterministic: the same volume gives the same prediction."""

    def __init__(self, spec: ModelSpec, backend: Backend) -> None:
        self.spec = spec
        self.backend = backend

    @staticmethod
    def load(spec: ModelSpec, device: str = "auto") -> "Predictor":
        """Load the spec's weights; device as for ``load_backend``. Raises: WeightsInvalid, ModelError."""
        return Predictor(spec, load_backend(spec, device))

    def __call__(self, volume: hd.Volume, on_progress: Progress = lambda fraction: None) -> Prediction:
        """Predict a volume (slice, row, column).

        on_progress is called with the fraction done before each window and at the end; what it raises
        passes through. Raises: OutOfMemory.
        """
        started = time.perf_counter()
        prepared = prepare(volume, self.spec).volume
        ready = time.perf_counter()
        difference = slide(prepared.array, self.backend, self.spec, on_progress)
        inferred = time.perf_counter()
        prediction = _on_native_grid(prepared.with_array(difference), volume, self.spec)
        on_progress(1.0)
        timings = {
            "preprocess": ready - started,
            "inference": inferred - ready,
            "restore": time.perf_counter() - inferred,
        }
        return Prediction(prediction.mask, prediction.probability, timings)


def slide(array: Array, backend: Backend, spec: ModelSpec, on_progress: Progress) -> Array:
    """Logit difference of every voxel: the weighted mean over the windows that hold it. array: (x, y, z)."""
    window = np.array(spec.window.shape)
    missing = np.maximum(window - array.shape, 0)
    padded = np.pad(array, [(0, int(n)) for n in missing], constant_values=float(array.min()))
    boxes = list(windows(padded.shape, spec.window.shape, spec.window.overlap))
    weight = _blending_weight(spec.window)
    total = np.zeros(padded.shape, dtype=np.float32)
    weights = np.zeros(padded.shape, dtype=np.float32)
    for number, box in enumerate(boxes):
        on_progress(number / len(boxes))
        total[box] += weight * backend(padded[box])
        weights[box] += weight
    total /= weights
    return total[tuple(slice(n) for n in array.shape)]


def windows(shape: tuple[int, ...], window: tuple[int, int, int], overlap: float) -> Iterator[Box]:
    """The fewest evenly spread windows that cover the shape and overlap by at least that fraction."""
    starts = []
    for size, width in zip(shape, window, strict=True):
        count = int(np.ceil((size - width) / max(width * (1.0 - overlap), 1.0))) + 1
        starts.append(np.rint(np.linspace(0, size - width, count)).astype(int))
    for x in starts[0]:
        for y in starts[1]:
            for z in starts[2]:
                yield slice(x, x + window[0]), slice(y, y + window[1]), slice(z, z + window[2])


def _blending_weight(window: Window) -> Array:
    weight = np.ones(window.shape, dtype=np.float32)
    if window.blend == "constant":
        return weight
    for axis, size in enumerate(window.shape):
        offset = (np.arange(size) - (size - 1) / 2.0) / (BLENDING_SIGMA * size)
        shape = [1, 1, 1]
        shape[axis] = size
        weight *= np.exp(-0.5 * offset**2).reshape(shape).astype(np.float32)
    return np.maximum(weight, np.float32(1e-3))


def _on_native_grid(difference: hd.Volume, native: hd.Volume, spec: ModelSpec) -> Prediction:
    """Components of the model's grid, interpolated inside their boxes on the native one."""
    cut = float(np.log(spec.postprocessing.threshold / (1.0 - spec.postprocessing.threshold)))
    logits = difference.array
    found = cc3d.connected_components(logits > cut, connectivity=26, out_dtype=np.uint32)
    minimum_mm3 = spec.postprocessing.minimum_volume_mm3
    kept = np.bincount(found.ravel()) >= minimum_mm3 / difference.voxel_volume
    kept[0] = True
    # A dropped component must not come back in the box of a neighbour.
    logits = np.where(kept[found], logits, np.minimum(logits, cut - 1.0))
    mask = np.zeros(native.spatial_shape, dtype=np.uint8)
    probability = np.zeros(native.spatial_shape, dtype=np.float32)
    to_model = difference.inverse_affine @ native.affine
    for number, box in enumerate(ndimage.find_objects(found.astype(np.int32)), start=1):
        target = _native_box(box, difference, native)
        if not kept[number] or mask[target].size == 0:
            continue
        inside = _interpolate(logits, to_model, target)
        probability[target] = 0.5 * (1.0 + np.tanh(inside / 2.0))
        mask[target][_large(inside > cut, minimum_mm3 / native.voxel_volume)] = spec.labels[0].value
    return Prediction(native.with_array(mask), native.with_array(probability))


def _large(mask: NDArray[np.bool_], minimum_voxels: float) -> NDArray[np.bool_]:
    """The mask without components of fewer voxels: an outline on a finer grid can shed crumbs."""
    parts = cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32)
    enough = np.bincount(parts.ravel()) >= minimum_voxels
    enough[0] = False
    return np.asarray(enough[parts])


def _native_box(box: Box, model: hd.Volume, native: hd.Volume) -> Box:
    """The native voxels whose centres a box of the model's grid and its margin hold; there may be none.

    The model's grid ends half a voxel beyond its outermost centres: outside, where the crop took the volume
    away, nothing was predicted.
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


def _interpolate(logits: Array, to_model: NDArray[np.float64], target: Box) -> Array:
    """Linear interpolation of the model's logits at the native voxels of a box."""
    first = np.array([s.start for s in target])
    shape = tuple(s.stop - s.start for s in target)
    offset = to_model[:3, :3] @ first + to_model[:3, 3]
    return np.asarray(
        ndimage.affine_transform(
            logits, to_model[:3, :3], offset, output_shape=shape, order=1, mode="nearest"
        ),
        dtype=np.float32,
    )
