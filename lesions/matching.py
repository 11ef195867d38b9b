"""Matching of the lesions in two masks of the same images."""

from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from lesions.measure import components


def match_by_overlap(before: hd.Volume, after: hd.Volume) -> tuple[hd.Volume, dict[int, int]]:
    """Number the lesions of a corrected mask, and match them to the earlier lesions.

    before: the numbers of the earlier lesions. after: on the same grid, the number of each voxel's segment.

    1. Each piece of ``after``, a 26-connected component of one segment, is assigned to the earlier lesion
       with which it shares most voxels. A piece that shares no voxel with any is a new lesion.
    2. The pieces of one segment that are assigned to the same earlier lesion form one lesion.
    3. If lesions of several segments are assigned to the same earlier lesion, the one that shares most voxels
       with it matches it; the others are new.

    If shares are equal, the lower number wins.
    Returns the lesion numbers, int32 on the same grid, 1..n, the largest lesion first, and the earlier number
    of each lesion that matches one. Raises: ValueError if the grids differ.
    """
    if not before.geometry_equal(after):
        raise ValueError("the two masks lie on different grids")
    pieces = components(after)
    mask = pieces.array > 0
    piece, segment, earlier = pieces.array[mask], after.array[mask], before.array[mask]
    groups, shared = _groups(piece, segment, earlier)
    kept: dict[int, tuple[int, int]] = {}
    for key in sorted(groups, key=lambda key: (-shared[key], key)):
        if key[1] > 0:
            kept.setdefault(key[1], key)
    sizes = np.bincount(piece, minlength=1)
    order = sorted(groups, key=lambda key: (-sizes[groups[key]].sum(), min(groups[key])))
    renumbered = np.zeros(len(sizes), np.int32)
    for number, key in enumerate(order, start=1):
        renumbered[groups[key]] = number
    same = {order.index(key) + 1: old for old, key in kept.items()}
    return after.with_array(renumbered[pieces.array]), same


def _groups(
    piece: NDArray[Any], segment: NDArray[Any], earlier: NDArray[Any]
) -> tuple[dict[tuple[int, int], list[int]], dict[tuple[int, int], int]]:
    """Return the pieces of each lesion, by (segment, earlier lesion, or less than 0 for a new one), and the
    number of voxels that they share with the earlier lesion.

    piece, segment, earlier: numbers of each voxel that is drawn.
    """
    segment_of = dict(zip(piece.tolist(), segment.tolist(), strict=True))
    pairs, counts = np.unique(np.stack([piece, earlier]), axis=1, return_counts=True)
    shares: dict[int, dict[int, int]] = {}
    for (piece_number, old), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        if old:
            shares.setdefault(piece_number, {})[old] = count
    groups: dict[tuple[int, int], list[int]] = {}
    shared: dict[tuple[int, int], int] = {}
    for piece_number, number in segment_of.items():
        share = shares.get(piece_number, {-piece_number: 0})
        old = max(share, key=lambda old: (share[old], -old))
        groups.setdefault((number, old), []).append(piece_number)
        shared[number, old] = shared.get((number, old), 0) + share[old]
    return groups, shared
