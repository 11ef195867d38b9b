"""The mean of the predictions of a volume and of its mirror images: test-time augmentation.

A volume is predicted as it is and mirrored along axes of the model's grid, which is how the networks were
trained, and each prediction is mirrored back. After Wang et al., Neurocomputing 2019
(doi:10.1016/j.neucom.2019.01.103), who draw augmentations at random and count votes; here every mirror image
is taken once, so that the result is the same each time, and probabilities are averaged.
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
    """Every combination of the axes, those that are mirrored at once; the first is none of them."""
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


def mean_logits(
    predict: Callable[[Array, Progress], Array],
    array: Array,
    labels: int,
    axes: Sequence[Axis],
    on_progress: Progress = lambda fraction: None,
) -> Array:
    """Each label's logit against the background, (label, x, y, z), of the mean of the mirror images'
    probabilities. Without axes it is the prediction itself.

    predict: such logits of the inputs, (input, x, y, z); it is called with an image of ``array`` and how to
    tell its progress, once for each, 2 to the number of axes.
    """
    if not axes:
        return predict(array, on_progress)
    images = mirror_images(axes)
    # Logarithms of the sums of the classes' probabilities, the background's first: near 1, single precision
    # cannot tell probabilities apart.
    sums = np.full((labels + 1, *array.shape[1:]), -np.inf, dtype=np.float32)
    for number, image in enumerate(images):
        flipped = tuple(axis + 1 for axis in image)
        logits = np.flip(predict(np.flip(array, flipped), _share(on_progress, number, len(images))), flipped)
        # Plane by plane, so that the intermediate results take no memory.
        for x in range(array.shape[1]):
            of_classes = special.log_softmax(with_background(logits[:, x]), axis=0)
            np.logaddexp(sums[:, x], of_classes, out=sums[:, x])
    return np.asarray(sums[1:] - sums[0])


def with_background(logits: Array) -> Array:
    """The labels' logits against the background (label, ...) behind the background's, which is 0."""
    return np.concatenate([np.zeros_like(logits[:1]), logits])


def _share(on_progress: Progress, number: int, count: int) -> Progress:
    return lambda fraction: on_progress((number + fraction) / count)
