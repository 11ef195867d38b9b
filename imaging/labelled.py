"""Which SEG objects of a study label which of its series, and which version of them counts."""

from collections.abc import Iterable

from pydicom import Dataset

from imaging.frames import text
from imaging.seg_read import LABEL_MAP_SEGMENTATION_STORAGE, SEGMENTATION_STORAGE

# The first of these that is there says when an object was made.
MADE = (
    ("ContentDate", "ContentTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("SeriesDate", "SeriesTime"),
)


def is_seg(header: Dataset) -> bool:
    return header.get("SOPClassUID") in (SEGMENTATION_STORAGE, LABEL_MAP_SEGMENTATION_STORAGE)


def labelled_series(seg: Dataset) -> str | None:
    """SeriesInstanceUID of the series that a SEG labels (ReferencedSeriesSequence), or None."""
    referenced = seg.get("ReferencedSeriesSequence")
    return text(referenced[0], "SeriesInstanceUID") or None if referenced else None


def newest(segs: Iterable[Dataset]) -> dict[str, Dataset]:
    """By SeriesInstanceUID of the labelled series, the SEG that was made last: a reader's correction counts,
    not what it corrects. Headers are enough; SEG objects that do not say what they label are left out.
    """
    found: dict[str, Dataset] = {}
    for seg in sorted(segs, key=_made):
        if series_uid := labelled_series(seg):
            found[series_uid] = seg
    return found


def _made(seg: Dataset) -> tuple[str, str]:
    """Date and time as DICOM writes them, which sort as texts, and the UID where two are of one moment."""
    when = next((text(seg, date) + text(seg, time) for date, time in MADE if text(seg, date)), "")
    return when, text(seg, "SOPInstanceUID")
