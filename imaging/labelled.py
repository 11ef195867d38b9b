"""The series of its study that a SEG or structure set labels, and the version of a SEG that counts."""

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

# The creation time of an object is the first of these that is present.
CREATION_ATTRIBUTES = (
    ("ContentDate", "ContentTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("SeriesDate", "SeriesTime"),
)


def is_seg(header: Dataset) -> bool:
    return header.get("SOPClassUID") in (SEGMENTATION_STORAGE, LABEL_MAP_SEGMENTATION_STORAGE)


def labelled_series(segmentation: Dataset, series: Iterable[Sequence[Dataset]]) -> str | None:
    """Return the SeriesInstanceUID of the series that a SEG or structure set labels; None if not stated.

    series: headers of the study's series. The source images of the frames, or the images that the contours
    of lesions name, decide; then the images that the whole object names; and only without either the series
    that it claims, which may be missing from the study. If some of those images are missing, the object must
    also claim that series. Raises: UnreadableFile for a structure set that contradicts itself.
    """
    owners: dict[str, set[str]] = defaultdict(set)
    for headers in series:
        for header in headers:
            owners[text(header, "SOPInstanceUID")].add(text(header, "SeriesInstanceUID"))
    if is_structure_set(segmentation):
        references, listed = contour_sources(segmentation), listed_series(segmentation)
    else:
        references, listed = frame_sources(segmentation), items(segmentation, "ReferencedSeriesSequence")
    claimed = {text(item, "SeriesInstanceUID") for item in listed} - {""}
    for keyword in ("SourceImageSequence", "ReferencedImageSequence"):
        # Some writers name every image here, of any series: one image of the labelled series suffices.
        if not references and (uids := referenced_uids(items(segmentation, keyword))):
            references = [uids]
    if not references:
        return claimed.pop() if len(claimed) == 1 else None
    series_of = [{uid for image in uids for uid in owners[image]} for uids in references]
    # A missing image proves nothing, so the object must also claim the series of the others.
    present = [uids for uids in series_of if uids]
    possible = set.intersection(*present) if present else set()
    if len(possible) > 1 or len(present) < len(series_of):
        possible &= claimed
    if not present and len(claimed) == 1 and claimed.isdisjoint(set().union(*owners.values())):
        return claimed.pop()
    return possible.pop() if len(possible) == 1 else None


def newest(segs: Iterable[Dataset], series: Sequence[Sequence[Dataset]]) -> dict[str, Dataset]:
    """Return the newest SEG of each labelled series, by SeriesInstanceUID: a correction, not its original.

    Headers suffice; SEGs that do not state what they label are left out.
    series: headers of the study's series.
    """
    newest_segs: dict[str, Dataset] = {}
    for seg in sorted(segs, key=_creation_time):
        if series_uid := labelled_series(seg, series):
            newest_segs[series_uid] = seg
    return newest_segs


def _creation_time(seg: Dataset) -> tuple[str, str]:
    """Return date and time as DICOM writes them, which sort as text, and the UID to break ties."""
    when = next(
        (text(seg, date) + text(seg, time) for date, time in CREATION_ATTRIBUTES if text(seg, date)), ""
    )
    return when, text(seg, "SOPInstanceUID")
