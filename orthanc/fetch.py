"""Labelled series, fetched from the archive into a folder as ``unetr.data.datasets`` reads them.

    FOLDER/STUDY/SERIES/INSTANCE.dcm

A series is written to FOLDER/.part and renamed when it is complete and on disk. A series that is there is not
fetched again, so an interrupted fetch resumes when run again.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from errors import ArchiveRefused, DataRefused, MissingSequence, SeriesNotFound
from imaging.frames import text
from imaging.identity import is_uid
from imaging.inputs import choose_inputs
from imaging.labelled import is_seg, labelled_series, newest
from imaging.sequences import T1_POST_CONTRAST, sequence_of
from imaging.series import UnreadSeries
from orthanc import part10
from orthanc.archive import Archive

UNFINISHED_FOLDER = ".part"


@dataclass(frozen=True)
class Fetched:
    """A series now in the folder. labels: it is a SEG. images: their number. new: it was fetched just now."""

    series_instance_uid: str
    description: str
    labels: bool
    images: int
    new: bool


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model: its sequences in order, and whether it takes heads only.

    elsewhere: other studies of the patient, in which sequences that a study lacks are looked for.
    """

    names: Sequence[str] = (T1_POST_CONTRAST,)
    head: bool = True
    elsewhere: Sequence[str] = ()


def fetch(
    archive: Archive, study_uid: str, out: Path, series_uid: str | None = None, inputs: Inputs | None = None
) -> Iterator[Fetched]:
    """Fetch a model's inputs and the SEGs that label them.

    The first input is series_uid, or each series that a SEG labels, or the series that would be segmented.
    Raises: ArchiveError, StudyNotFound, SeriesNotFound, InputRefused (see ``imaging.inputs.choose_inputs``),
    DataRefused (the folder cannot be written).
    """
    inputs = inputs or Inputs()
    series = archive.series_headers(study_uid)
    try:
        input_uids = wanted_series(series, series_uid, inputs)
    except MissingSequence:
        if not inputs.elsewhere:
            raise
        series += [headers for uid in inputs.elsewhere for headers in archive.series_headers(uid)]
        input_uids = wanted_series(series, series_uid, inputs)
    for headers in sorted(series, key=lambda headers: is_seg(headers[0])):
        uid = text(headers[0], "SeriesInstanceUID")
        label = is_seg(headers[0])
        if uid in input_uids or (
            label and any(labelled_series(header, series) in input_uids for header in headers)
        ):
            is_new = _fetch_series(archive, text(headers[0], "StudyInstanceUID"), headers, out)
            yield Fetched(uid, text(headers[0], "SeriesDescription"), label, len(headers), is_new)


def wanted_series(series: Sequence[Sequence[Dataset]], series_uid: str | None, inputs: Inputs) -> set[str]:
    """Return the SeriesInstanceUIDs of the inputs, with the caller's series or those that SEGs label."""
    if series_uid is None:
        by_uid = {text(headers[0], "SeriesInstanceUID"): headers for headers in series}
        labelled = newest((header for headers in series for header in headers if is_seg(header)), series)
        firsts = [by_uid[uid] for uid in sorted(by_uid.keys() & labelled.keys())]
    else:
        firsts = [headers for headers in series if text(headers[0], "SeriesInstanceUID") == series_uid]
        if not firsts:
            raise SeriesNotFound(f"The study has no series {series_uid}.")
    uid_sets = [_inputs_with(headers, series, inputs) for headers in firsts] or [_inputs(series, {}, inputs)]
    return set().union(*uid_sets)


def _inputs_with(headers: Sequence[Dataset], series: Sequence[Sequence[Dataset]], inputs: Inputs) -> set[str]:
    """Return the inputs, with that series as the input of its sequence, otherwise as the first."""
    uid = text(headers[0], "SeriesInstanceUID")
    if len(inputs.names) == 1:
        return {uid}
    name = next((name for name in inputs.names if name == sequence_of(headers)), inputs.names[0])
    return _inputs(series, {name: uid}, inputs)


def _inputs(series: Sequence[Sequence[Dataset]], series_uids: Mapping[str, str], inputs: Inputs) -> set[str]:
    candidates = choose_inputs(series, inputs.names, series_uids, head=inputs.head)
    return {candidate.series_instance_uid for candidate in candidates}


def _fetch_series(archive: Archive, study_uid: str, headers: Sequence[Dataset], out: Path) -> bool:
    """Fetch the series unless it is there; return whether it was fetched."""
    if isinstance(headers, UnreadSeries):
        raise headers.refusal
    series_uid = text(headers[0], "SeriesInstanceUID")
    uids = {text(header, "SOPInstanceUID") for header in headers}
    # UIDs become file names, so ../.. must not pass.
    if not all(is_uid(uid) for uid in (study_uid, series_uid, *uids)):
        raise ArchiveRefused(f"Series {series_uid!r} has a UID that is not valid, and was not fetched.")
    folder = out / study_uid / series_uid
    if uids <= {file.stem for file in folder.glob("*.dcm")}:
        return False
    instances = archive.retrieve_series(study_uid, series_uid)
    unfinished = out / UNFINISHED_FOLDER
    try:
        # A fetch that was killed may have left files.
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
    if not is_uid(uid):
        raise ArchiveRefused(f"The archive served an instance whose UID is not valid: {uid!r}.")
    with (folder / f"{uid}.dcm").open("wb") as file:
        file.write(part10.encode(instance))
        file.flush()
        os.fsync(file.fileno())
