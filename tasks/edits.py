"""Edits of a version's lesions: which remain, under which names, with which voxels."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
from pydicom import Dataset

from findings import UNNAMED, read_drawn
from imaging import seg
from imaging.derived import LONG_STRING
from imaging.stack import Stack
from lesions.matching import match_by_overlap
from tasks.versions import Earlier


@dataclass(frozen=True)
class Drawn:
    """Edited lesions 1..n on the stack's grid. same: lesion number -> its number in the earlier version.

    sources: their segments, if another program made the SEG. names: new names. unchanged: numbers of the
    lesions whose voxels are exactly as before.
    """

    labels: hd.Volume
    same: Mapping[int, int] = field(default_factory=dict)
    sources: Mapping[int, seg.Segment] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    unchanged: Collection[int] = ()


def without(earlier: Earlier, deleted: Sequence[int], names: Mapping[int, str]) -> Drawn:
    """Return the earlier lesions without the deleted ones. names: new names by earlier number."""
    kept = [number for number in sorted(earlier.sources) if number not in deleted]
    renumbered = np.zeros(max(earlier.sources, default=0) + 1, np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    same = dict(enumerate(kept, start=1))
    given = {number: names[old] for number, old in same.items() if old in names}
    labels = earlier.labels.with_array(renumbered[earlier.labels.array])
    return Drawn(labels, same, names=given, unchanged=same)


def as_it_is(version: Earlier) -> Drawn:
    """Return the lesions of a version, unchanged."""
    same = {number: number for number in version.sources}
    return Drawn(version.labels, same, unchanged=same)


def compared(newest: Earlier, restored: Earlier) -> Drawn:
    """Return the lesions of an earlier version as an edit of the newest, matched by tracking UID."""
    numbers = {lesion["tracking_uid"]: lesion["number"] for lesion in newest.document["lesions"]}
    same = {
        lesion["number"]: numbers[lesion["tracking_uid"]]
        for lesion in restored.document["lesions"]
        if lesion["tracking_uid"] in numbers
    }
    return Drawn(restored.labels, same, unchanged=_unchanged(newest, restored.labels, same))


def redrawn(given: Dataset, stack: Stack, earlier: Earlier) -> Drawn:
    """Return the lesions of a SEG drawn by hand, matched to the earlier ones by their voxels."""
    drawn, segments = read_drawn(given, stack)
    labels, same = match_by_overlap(earlier.labels, drawn)
    names = _names(labels, drawn, segments)
    # A new lesion drawn in the segment of an earlier one must not take its name.
    taken = {one["name"]: one["number"] for one in earlier.document["lesions"]}
    names = {
        number: name
        for number, name in names.items()
        if same.get(number) == taken.get(name, same.get(number))
    }
    return Drawn(labels, same, names=names, unchanged=_unchanged(earlier, labels, same))


def _unchanged(earlier: Earlier, labels: hd.Volume, same: Mapping[int, int]) -> set[int]:
    """Return the numbers of the lesions whose voxels are exactly as before."""
    before, now = earlier.labels.array, labels.array
    drawn = (before > 0) | (now > 0)
    pairs = np.unique(np.stack([now[drawn], before[drawn]]), axis=1).T.tolist()
    alone = Counter(new for new, _ in pairs), Counter(old for _, old in pairs)
    return {new for new, old in pairs if same.get(new) == old and alone[0][new] == alone[1][old] == 1}


def _names(labels: hd.Volume, drawn: hd.Volume, segments: Sequence[seg.Segment]) -> dict[int, str]:
    """Return by lesion number the labels of the segments that hold exactly one lesion."""
    labelled = {segment.number: segment.name for segment in segments}
    lesions, first = np.unique(labels.array, return_index=True)
    segment_of = dict(zip(lesions.tolist(), drawn.array.flat[first].tolist(), strict=True))
    counts = Counter(segment_of.values())
    return {
        lesion: labelled[segment].strip()[:LONG_STRING]
        for lesion, segment in segment_of.items()
        # A label that several lesions share is not the name of any of them.
        if lesion and counts[segment] == 1 and not UNNAMED.fullmatch(labelled[segment])
    }
