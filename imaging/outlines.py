"""A mask's pixels to polygons along their edges.

So a polygon's area is that of its pixels, however few, and filling it gives them back. Through the pixels'
centres or midway between them it would be smaller: a single pixel would have no area, or half of its own.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

# The corner of a pixel as (column, row): (0, 0) is the first pixel's own, half a pixel before its centre.
Corner = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.int_]]:
    """Around each piece of a slice (rows, columns) one polygon, (points, 2), of the corners where it turns.

    Pixels that share only a corner are two pieces. A hole is reached from the outer edge by a channel of no
    width (PS3.3 C.8.8.6.3, "keyhole"): one contour for each piece of tissue, which is right whether a reader
    unites the contours of a slice or lets them exclude each other, fills by parity or by winding.
    """
    # Each pixel is four equal nodes at its corners, so that a line between unequal nodes can only run along
    # edges. Where two pixels share just a corner the mean is 0.5, and a level above that parts them.
    nodes = np.pad(mask, 1).repeat(2, axis=0).repeat(2, axis=1).astype(float)
    rows, columns = (np.add.outer(np.arange(-1, count + 1), (0, 1)).ravel() for count in mask.shape)
    generator = contour_generator(columns, rows, nodes, name="serial", fill_type=FillType.OuterOffset)
    for points, offsets in zip(*generator.filled(0.75, np.inf), strict=True):
        outer, *holes = (_corners(points[start:end]) for start, end in pairwise(offsets))
        ring = np.array(_with_channels(outer, holes))
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        yield ring[(before != after).any(axis=1)]


def _corners(points: NDArray[np.float64]) -> list[Corner]:
    """Each corner that a closed line of contourpy's passes, in steps of one, the first not repeated."""
    corners = np.rint(points).astype(int)
    moved = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    return [(column, row) for column, row in corners[moved].tolist()]


def _with_channels(outer: list[Corner], holes: list[list[Corner]]) -> list[Corner]:
    """One line around the outside and the holes, which run against it."""

    def top(hole: list[Corner]) -> Corner:
        return min(hole, key=lambda corner: corner[::-1])

    ring = list(outer)
    # From a hole's top straight up through the piece: to the outside, or to a hole that begins higher up.
    for hole in sorted(holes, key=lambda hole: top(hole)[1]):
        channel = [top(hole)]
        while channel[-1] not in ring:
            column, row = channel[-1]
            channel.append((column, row - 1))
        *channel, end = channel
        first, at = hole.index(channel[0]), ring.index(end)
        ring[at:at] = [end, *channel[::-1], *hole[first + 1 :], *hole[:first], *channel]
    return ring
