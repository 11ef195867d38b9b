"""Labelled series out of the archive into a folder, as ``unetr.datasets`` reads them.

    FOLDER/STUDY/SERIES/INSTANCE.dcm

A series is written into FOLDER/.part and renamed when it is whole and on the disk; one that is there is not
fetched again, so that what broke off is gone on with by doing it again.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from errors import ArchiveRefused, DataRefused
from imaging.frames import text
from imaging.labelled import is_seg, labelled_series, newest
from imaging.series import UnreadSeries, choose, rank
from orthanc import part10
from orthanc.dicomweb import Archive
from orthanc.folder import UID_PATTERN

UNFINISHED = ".part"


@dataclass(frozen=True)
class Fetched:
    """A series that is in the folder now. labels: it is a SEG. images: how many. new: it was not there."""

    series_instance_uid: str
    description: str
    labels: bool
    images: int
    new: bool


def fetch(archive: Archive, study_uid: str, out: Path, series_uid: str | None = None) -> Iterator[Fetched]:
    """Fetch one series of a study, or those that SEGs label, or the one that would be segmented; and with
    each the SEGs that label it.

    Raises: ArchiveError, StudyNotFound, SeriesNotFound, InputRefused (no series is the one, see
    ``imaging.series.choose``), DataRefused (the folder cannot be written).
    """
    series = archive.series_headers(study_uid)
    wanted = wanted_series(series, series_uid)
    for headers in sorted(series, key=lambda headers: is_seg(headers[0])):
        uid = text(headers[0], "SeriesInstanceUID")
        label = is_seg(headers[0])
        if uid in wanted or (label and any(labelled_series(header) in wanted for header in headers)):
            new = _fetch_series(archive, study_uid, headers, out)
            yield Fetched(uid, text(headers[0], "SeriesDescription"), label, len(headers), new)


def wanted_series(series: Sequence[Sequence[Dataset]], series_uid: str | None) -> list[str]:
    """SeriesInstanceUID of the caller's series, else of those that SEGs label, else of the best candidate."""
    if series_uid is None:
        present = {text(headers[0], "SeriesInstanceUID") for headers in series}
        labelled = newest(header for headers in series for header in headers if is_seg(header))
        if found := sorted(present & labelled.keys()):
            return found
    return [choose(rank(series), series_uid).series_instance_uid]


def _fetch_series(archive: Archive, study_uid: str, headers: Sequence[Dataset], out: Path) -> bool:
    """Fetch the series; return whether that was needed."""
    if isinstance(headers, UnreadSeries):
        raise headers.refusal
    series_uid = text(headers[0], "SeriesInstanceUID")
    uids = {text(header, "SOPInstanceUID") for header in headers}
    # They become names of files, which ../.. must not.
    if not all(UID_PATTERN.fullmatch(uid) for uid in (study_uid, series_uid, *uids)):
        raise ArchiveRefused(f"Series {series_uid!r} has a UID that is not valid, and was not fetched.")
    folder = out / study_uid / series_uid
    if uids <= {file.stem for file in folder.glob("*.dcm")}:
        return False
    instances = archive.retrieve_series(study_uid, series_uid)
    unfinished = out / UNFINISHED
    try:
        # What is there was left by a fetch that was killed.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for instance in instances:
            _write(instance, unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        unfinished.rename(folder)
    except OSError as error:
        raise DataRefused(f"{folder} cannot be written: {error.strerror}.") from error
    return True


def _write(instance: Dataset, folder: Path) -> None:
    uid = text(instance, "SOPInstanceUID")
    if not UID_PATTERN.fullmatch(uid):
        raise ArchiveRefused(f"The archive served an instance whose UID is not valid: {uid!r}.")
    with (folder / f"{uid}.dcm").open("wb") as file:
        file.write(part10.encode(instance))
        file.flush()
        os.fsync(file.fileno())
