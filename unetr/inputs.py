"""Several sequences of one study, as the network's channels: all on the grid of the first."""

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetr.preprocess import Prepared, head_mask, normalise, prepare
from unetr.spec import Crop, ModelSpec


def prepare_inputs(volumes: Sequence[hd.Volume], spec: ModelSpec) -> list[Prepared]:
    """Each volume (slice, row, column), in the order of the spec's inputs, as its channel sees it.

    The first is prepared as it would be alone; the others are resampled on its grid, and each is normalised
    by its own head. Where another does not reach it is 0 before it is normalised.
    """
    first = prepare(volumes[0], spec)
    return [first, *(_on_grid_of(first.volume, volume, spec) for volume in volumes[1:])]


def _on_grid_of(target: hd.Volume, volume: hd.Volume, spec: ModelSpec) -> Prepared:
    # By way of the model's spacing: what is finer is smoothed as it is in the first volume.
    uncropped = spec.model_copy(update={"crop": Crop(to="none", margin_mm=0.0), "intensity": ()})
    resampled = prepare(volume, uncropped).volume
    to_source = resampled.inverse_affine @ target.affine

    def moved(array: NDArray[Any], order: int) -> NDArray[Any]:
        matrix, offset, shape = to_source[:3, :3], to_source[:3, 3], target.spatial_shape
        return np.asarray(ndimage.affine_transform(array, matrix, offset, output_shape=shape, order=order))

    head = moved(head_mask(resampled.array), 0)
    return Prepared(target.with_array(normalise(moved(resampled.array, 1), head, spec.intensity)))
