"""Test-time augmentation: the mean of the predictions of a volume and of its mirror images.

A volume is predicted as it is and mirrored along axes of the model's grid, as the networks were trained;
each prediction is mirrored back. After Wang et al., Neurocomputing 2019 (doi:10.1016/j.neucom.2019.01.103),
who draw augmentations at random and count votes. Here every mirror image is used once, so that the result is
deterministic, and probabilities are averaged.
"""

from collections.abc import Callable, Sequence
from itertools import chain, combinations

import numpy as np
from scipy import special

from unetr.backends import Array
from unetr.sliding import Progress
from unetr.spec import Axis

ALL_AXES: tuple[Axis, ...] = (0, 1, 2)


def mirror_images(axes: Sequence[Axis]) -> list[tuple[Axis, ...]]:
    """Return every combination of axes to mirror along at once; the first is empty."""
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


def mean_logits(
    predict: Callable[[Array, Progress], Array],
    array: Array,
    labels: int,
    axes: Sequence[Axis],
    on_progress: Progress = lambda fraction: None,
) -> Array:
    """Return each label's logit against the background (label, x, y, z) for the mirror images' mean
    probability. Without axes this is the prediction itself.

    predict: returns these logits for inputs (input, x, y, z). It is called with a mirror image of ``array``
    and a progress callback, once for each of the 2 ** len(axes) images.
    """
    if not axes:
        return predict(array, on_progress)
    images = mirror_images(axes)
    # Logarithms of the classes' summed probabilities, background first: close to 1, single precision cannot
    # resolve probabilities.
    sums = np.full((labels + 1, *array.shape[1:]), -np.inf, dtype=np.float32)
    for number, image in enumerate(images):
        flipped = tuple(axis + 1 for axis in image)
        logits = np.flip(predict(np.flip(array, flipped), _share(on_progress, number, len(images))), flipped)
        # Plane by plane, so that the intermediate results stay small.
        for x in range(array.shape[1]):
            of_classes = special.log_softmax(with_background(logits[:, x]), axis=0)
            np.logaddexp(sums[:, x], of_classes, out=sums[:, x])
    return np.asarray(sums[1:] - sums[0])


def with_background(logits: Array) -> Array:
    """Prepend the background's logit, 0, to the labels' logits against the background (label, ...)."""
    return np.concatenate([np.zeros_like(logits[:1]), logits])


def _share(on_progress: Progress, number: int, count: int) -> Progress:
    return lambda fraction: on_progress((number + fraction) / count)
