"""A network whose window is smaller than the volume, carried over all of it."""

from collections.abc import Callable, Iterator

import numpy as np

from unetr.backends import Array, Backend
from unetr.spec import Window

Box = tuple[slice, slice, slice]
Progress = Callable[[float], None]

# Width of a window's Gaussian weight, as a share of the window (nnU-Net's and MONAI's value).
BLENDING_SIGMA = 0.125


def slide(
    array: Array,
    backend: Backend,
    window: Window,
    labels: int,
    on_progress: Progress = lambda fraction: None,
) -> Array:
    """Logits (label, x, y, z) of every voxel: the weighted means over the windows that hold it.

    array: (input, x, y, z). labels: how many the backend tells from the background. on_progress is called
    with the fraction done before each window.
    """
    padded = _padded(array, window)
    shape = padded.shape[1:]
    boxes = list(windows(shape, window.shape, window.overlap))
    weight = _blending_weight(window)
    total = np.zeros((labels, *shape), dtype=np.float32)
    weights = np.zeros(shape, dtype=np.float32)
    for number, box in enumerate(boxes):
        on_progress(number / len(boxes))
        total[:, *box] += weight * backend(padded[:, *box])
        weights[box] += weight
    total /= weights
    return total[:, *(slice(n) for n in array.shape[1:])]


def _padded(array: Array, window: Window) -> Array:
    """At least as large as the window, each input filled up with its lowest value."""
    missing = np.maximum(np.array(window.shape) - array.shape[1:], 0)
    if not missing.any():
        return array
    more = [(0, int(n)) for n in missing]
    return np.stack([np.pad(one, more, constant_values=float(one.min())) for one in array])


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
