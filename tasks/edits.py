"""Edits of a version's lesions: which remain, under which names, with which voxels."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
from pydicom import Dataset

from findings import PLACEHOLDER_NAME, read_drawn
from imaging import seg
from imaging.derived import LONG_STRING
from imaging.stack import Stack
from lesions.matching import match_by_overlap
from tasks.versions import RecordedVersion


@dataclass(frozen=True)
class EditedLesions:
    """Edited lesions 1..n on the stack's grid. same: lesion number -> its number in the earlier version.

    sources: their segments, if another program made the SEG. names: new names. unchanged: numbers of the
    lesions whose voxels are exactly as before.
    """

    labels: hd.Volume
    same: Mapping[int, int] = field(default_factory=dict)
    sources: Mapping[int, seg.Segment] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    unchanged: Collection[int] = ()


def without(base: RecordedVersion, deleted: Sequence[int], names: Mapping[int, str]) -> EditedLesions:
    """Return the earlier lesions without the deleted ones. names: new names by earlier number."""
    numbers = [number for number in sorted(base.sources) if number not in deleted]
    renumbered = np.zeros(max(base.sources, default=0) + 1, np.int32)
    renumbered[numbers] = np.arange(1, len(numbers) + 1)
    same = dict(enumerate(numbers, start=1))
    new_names = {number: names[base_number] for number, base_number in same.items() if base_number in names}
    labels = base.labels.with_array(renumbered[base.labels.array])
    return EditedLesions(labels, same, names=new_names, unchanged=same)


def as_it_is(version: RecordedVersion) -> EditedLesions:
    """Return the lesions of a version, unchanged."""
    same = {number: number for number in version.sources}
    return EditedLesions(version.labels, same, unchanged=same)


def compare_versions(newest: RecordedVersion, restored: RecordedVersion) -> EditedLesions:
    """Return the lesions of an earlier version as an edit of the newest, matched by tracking UID."""
    numbers = {lesion.tracking_uid: lesion.number for lesion in newest.document.lesions}
    same = {
        lesion.number: numbers[lesion.tracking_uid]
        for lesion in restored.document.lesions
        if lesion.tracking_uid in numbers
    }
    return EditedLesions(restored.labels, same, unchanged=_unchanged_numbers(newest, restored.labels, same))


def match_drawing(drawing: Dataset, stack: Stack, base: RecordedVersion) -> EditedLesions:
    """Return the lesions of a SEG drawn by hand, matched to the earlier ones by their voxels."""
    volume, segments = read_drawn(drawing, stack)
    labels, same = match_by_overlap(base.labels, volume)
    names = _names(labels, volume, segments)
    # A new lesion drawn in the segment of an earlier one must not take its name.
    number_of_name = {lesion.name: lesion.number for lesion in base.document.lesions}
    names = {
        number: name
        for number, name in names.items()
        if same.get(number) == number_of_name.get(name, same.get(number))
    }
    return EditedLesions(labels, same, names=names, unchanged=_unchanged_numbers(base, labels, same))


def _unchanged_numbers(base: RecordedVersion, labels: hd.Volume, same: Mapping[int, int]) -> set[int]:
    """Return the numbers of the lesions whose voxels are exactly as before."""
    before, now = base.labels.array, labels.array
    mask = (before > 0) | (now > 0)
    pairs = np.unique(np.stack([now[mask], before[mask]]), axis=1).T.tolist()
    alone = Counter(new for new, _ in pairs), Counter(old for _, old in pairs)
    return {new for new, old in pairs if same.get(new) == old and alone[0][new] == alone[1][old] == 1}


def _names(labels: hd.Volume, volume: hd.Volume, segments: Sequence[seg.Segment]) -> dict[int, str]:
    """Return by lesion number the labels of the segments that hold exactly one lesion."""
    labelled = {segment.number: segment.name for segment in segments}
    lesions, indices = np.unique(labels.array, return_index=True)
    segment_of = dict(zip(lesions.tolist(), volume.array.flat[indices].tolist(), strict=True))
    counts = Counter(segment_of.values())
    return {
        lesion: labelled[segment].strip()[:LONG_STRING]
        for lesion, segment in segment_of.items()
        # A label that several lesions share is not the name of any of them.
        if lesion and counts[segment] == 1 and not PLACEHOLDER_NAME.fullmatch(labelled[segment])
    }
