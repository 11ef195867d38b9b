"""How well a prediction matches the truth, lesion by lesion."""

from collections.abc import Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np

HIT_FRACTION = 0.1


@dataclass(frozen=True)
class Match:
    """covered: by true lesion number, the fraction of its voxels that were predicted.

    partners: by true lesion number, the predicted lesion that overlaps it most.
    false_numbers: the predicted lesions that touch no true one.
    """

    covered: Mapping[int, float]
    partners: Mapping[int, int]
    false_numbers: tuple[int, ...]

    def found(self, number: int) -> bool:
        """Whether predicted components cover at least a tenth of the true lesion's volume."""
        return self.covered[number] >= HIT_FRACTION


def match(truth: hd.Volume, predicted: hd.Volume) -> Match:
    """Compare two label volumes (lesion numbers, 0 elsewhere) on one grid. Raises: ValueError."""
    if not truth.geometry_equal(predicted):
        raise ValueError("truth and prediction are on different grids")
    rows, columns = int(truth.array.max()) + 1, int(predicted.array.max()) + 1
    pairs = truth.array.astype(np.int64).ravel() * columns + predicted.array.ravel()
    counts = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
    present = [number for number in range(1, rows) if counts[number].sum()]
    hits = {number: counts[number, 1:] for number in present}
    return Match(
        covered={number: float(hits[number].sum() / counts[number].sum()) for number in present},
        partners={number: int(hits[number].argmax()) + 1 for number in present if hits[number].sum()},
        false_numbers=tuple(
            number for number in range(1, columns) if counts[:, number].any() and not counts[1:, number].any()
        ),
    )
