"""Sliding-window inference: a network whose window is smaller than the volume, applied to all of it."""

from collections.abc import Callable, Iterator

import numpy as np

from errors import ModelError
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
    """Compute logits (label, x, y, z) of every voxel: weighted means over the windows that contain it.

    array: (input, x, y, z). labels: their number, without the background. on_progress is called with the
    fraction done before each window. Raises: ModelError if the result is not finite.
    """
    padded, inside = _padded(array, window)
    shape = padded.shape[1:]
    boxes = list(windows(shape, window))
    weight = _blending_weight(window)
    total = np.zeros((labels, *shape), dtype=np.float32)
    weights = np.zeros(shape, dtype=np.float32)
    for number, box in enumerate(boxes):
        on_progress(number / len(boxes))
        total[:, *box] += weight * backend(padded[:, *box])
        weights[box] += weight
    total /= weights
    if not np.isfinite(total).all():
        raise ModelError("The network's answer is not finite: its weights or the intensities are unusable.")
    return total[:, *inside]


def _padded(array: Array, window: Window) -> tuple[Array, Box]:
    """Return the array, padded to at least the window's size, and the box of the original in it."""
    missing = np.maximum(np.array(window.shape) - array.shape[1:], 0)
    around = window.padding == "zero_around"
    before = missing // 2 if around else np.zeros_like(missing)
    first, second, third = (
        slice(int(start), int(start) + size) for start, size in zip(before, array.shape[1:], strict=True)
    )
    inside = first, second, third
    if not missing.any():
        return array, inside
    more = [(int(start), int(total - start)) for start, total in zip(before, missing, strict=True)]
    fills = [0.0 if around else float(channel.min()) for channel in array]
    padded = [np.pad(channel, more, constant_values=fill) for channel, fill in zip(array, fills, strict=True)]
    return np.stack(padded), inside


def windows(shape: tuple[int, ...], window: Window) -> Iterator[Box]:
    """Yield the fewest windows that cover the shape and overlap by at least the window's fraction."""
    starts = []
    for size, width in zip(shape, window.shape, strict=True):
        step = max(width * (1.0 - window.overlap), 1.0)
        if window.placement == "from_start":
            step = int(step)
            starts.append(
                np.minimum(np.arange(np.ceil((size - width) / step) + 1, dtype=int) * step, size - width)
            )
        else:
            count = int(np.ceil((size - width) / step)) + 1
            starts.append(np.rint(np.linspace(0, size - width, count)).astype(int))
    for x in starts[0]:
        for y in starts[1]:
            for z in starts[2]:
                yield (
                    slice(x, x + window.shape[0]),
                    slice(y, y + window.shape[1]),
                    slice(z, z + window.shape[2]),
                )


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
