"""Which series of its study a SEG or structure set labels, and which version of a SEG counts."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydicom import Dataset

from imaging.frames import items, text
from imaging.rtstruct_read import contour_sources, is_structure_set, listed_series
from imaging.seg_read import (
    LABEL_MAP_SEGMENTATION_STORAGE,
    SEGMENTATION_STORAGE,
    frame_sources,
    referenced_uids,
)

# The first of these that is there says when an object was made.
MADE = (
    ("ContentDate", "ContentTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("SeriesDate", "SeriesTime"),
)


def is_seg(header: Dataset) -> bool:
    return header.get("SOPClassUID") in (SEGMENTATION_STORAGE, LABEL_MAP_SEGMENTATION_STORAGE)


def labelled_series(drawn: Dataset, series: Iterable[Sequence[Dataset]]) -> str | None:
    """Return the SeriesInstanceUID of the series that a SEG or structure set labels; None where it does not
    say so.

    series: headers of the study's series. The images that the frames were derived from or the contours of
    lesions name decide, then the images that the whole object names, and only without either the series that
    it claims, which may be one that the study does not have. Where some of those images are gone, it must
    also claim that series. Raises: UnreadableFile for a structure set that contradicts itself.
    """
    owners: dict[str, set[str]] = defaultdict(set)
    for headers in series:
        for header in headers:
            owners[text(header, "SOPInstanceUID")].add(text(header, "SeriesInstanceUID"))
    if is_structure_set(drawn):
        references, listed = contour_sources(drawn), listed_series(drawn)
    else:
        references, listed = frame_sources(drawn), items(drawn, "ReferencedSeriesSequence")
    claimed = {text(item, "SeriesInstanceUID") for item in listed} - {""}
    for keyword in ("SourceImageSequence", "ReferencedImageSequence"):
        # Some writers name every image here, whatever series it is of: one of the labelled series suffices.
        if not references and (uids := referenced_uids(items(drawn, keyword))):
            references = [uids]
    if not references:
        return claimed.pop() if len(claimed) == 1 else None
    series_of = [{uid for image in uids for uid in owners[image]} for uids in references]
    # An image that is gone says nothing; what the others say must then be claimed too.
    known = [uids for uids in series_of if uids]
    possible = set.intersection(*known) if known else set()
    if len(possible) > 1 or len(known) < len(series_of):
        possible &= claimed
    if not known and len(claimed) == 1 and claimed.isdisjoint(set().union(*owners.values())):
        return claimed.pop()
    return possible.pop() if len(possible) == 1 else None


def newest(segs: Iterable[Dataset], series: Sequence[Sequence[Dataset]]) -> dict[str, Dataset]:
    """By SeriesInstanceUID of the labelled series, the SEG that was made last: a reader's correction counts,
    not what it corrects. Headers are enough; SEG objects that do not say what they label are left out.

    series: headers of the study's series.
    """
    found: dict[str, Dataset] = {}
    for seg in sorted(segs, key=_made):
        if series_uid := labelled_series(seg, series):
            found[series_uid] = seg
    return found


def _made(seg: Dataset) -> tuple[str, str]:
    """Date and time as DICOM writes them, which sort as texts, and the UID where two are of one moment."""
    when = next((text(seg, date) + text(seg, time) for date, time in MADE if text(seg, date)), "")
    return when, text(seg, "SOPInstanceUID")
