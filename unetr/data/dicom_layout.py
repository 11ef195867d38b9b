"""Labelled studies as DICOM files: a folder for each, with its image series and the SEGs that label them.

    FOLDER/STUDY/SERIES/INSTANCE.dcm

This is the layout that ``python -m orthanc fetch`` writes; within a study's folder the arrangement is free.
The newest SEG of a series is used, so that readers' corrections are learnt. Each series labelled by a SEG is
a case; the study's other series on exactly the same grid belong to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from errors import DataRefused, InputRefused, UnreadableFile
from imaging import seg_read
from imaging.files import SeriesHeaders, read, read_headers
from imaging.frames import text
from imaging.labelled import is_seg, newest
from imaging.sequences import SEQUENCES, T1, T1_POST_CONTRAST, contrast_findings, sequence_of, verdict
from imaging.stack import Stack, to_stack
from unetr.data.cases import Case, CaseSource, LabelSelection, RejectedCase, subfolders, truth_of

LESION, OEDEMA = 1, 2
# Property type of an oedema segment; in PS3.16's CID 7159, formerly CID 7151.
OEDEMA_CODE = Code("79654002", "SCT", "Edema")
# Equal in all series on one grid. If they are equal, the positions of the slices are compared as well.
GRID_KEYWORDS = ("FrameOfReferenceUID", "Rows", "Columns", "PixelSpacing", "NumberOfFrames")


def dicom(folder: Path, selection: LabelSelection) -> Iterator[CaseSource | RejectedCase]:
    """Yield the labelled series of every study; label 1 in any segment, 2 in one of the type edema.

    Raises: DataRefused if the folder holds no study.
    """
    for study in subfolders(folder):
        try:
            contents = read_headers(study)
        except UnreadableFile as error:
            yield RejectedCase(study.name, error.problem.replace(str(study), study.name))
        else:
            yield from _of_study(study.name, contents, selection)


def _of_study(
    name: str, contents: SeriesHeaders, selection: LabelSelection
) -> Iterator[CaseSource | RejectedCase]:
    segs = (header for headers in contents.series for header in headers if is_seg(header))
    labels = newest(segs, contents.series)
    images = {
        text(headers[0], "SeriesInstanceUID"): headers
        for headers in contents.series
        if not is_seg(headers[0])
    }
    if contents.damaged:
        yield RejectedCase(name, contents.warnings[0])
    elif not labels:
        yield RejectedCase(name, "No DICOM SEG says which series of the study it labels.")
    else:
        for series_uid, label in sorted(labels.items()):
            case_id = name if len(labels) == 1 else f"{name}/{series_uid}"
            if series_uid not in images:
                yield RejectedCase(case_id, f"The labelled series {series_uid} is missing.")
                continue
            files, label_file = _files(images[series_uid]), Path(str(label.filename))
            further_series = [_files(headers) for headers in _alike(images, series_uid, selection)]
            read = partial(_read, case_id, files, label_file, further_series, selection)
            patient = text(label, "PatientID") or name
            yield CaseSource(
                case_id,
                patient,
                (label_file, *files, *(file for series_files in further_series for file in series_files)),
                read,
            )


def _files(headers: Sequence[Dataset]) -> list[Path]:
    return [Path(str(header.filename)) for header in headers]


def _alike(
    images: Mapping[str, Sequence[Dataset]], series_uid: str, selection: LabelSelection
) -> list[Sequence[Dataset]]:
    """Return the other series of wanted sequences whose first instance has the same grid attributes."""

    def grid(headers: Sequence[Dataset]) -> tuple[object, ...]:
        return len(headers), *(text(headers[0], keyword) for keyword in GRID_KEYWORDS)

    sequences = SEQUENCES if selection.sequences is None else selection.sequences
    return [
        headers
        for uid, headers in sorted(images.items())
        if uid != series_uid
        and grid(headers) == grid(images[series_uid])
        and sequence_of(headers) in sequences
    ]


def _read(
    case_id: str,
    files: Sequence[Path],
    label: Path,
    further_series: Sequence[Sequence[Path]],
    selection: LabelSelection,
) -> Case:
    """Read a labelled series, its SEG and the other series on its grid. Raises: InputRefused."""
    stack = to_stack([_instance(file) for file in files])
    numbers, segments = seg_read.read(_instance(label), stack)
    values = np.zeros(max((segment.number for segment in segments), default=0) + 1, np.int32)
    for segment in segments:
        values[segment.number] = OEDEMA if segment.type == OEDEMA_CODE else LESION
    truth = truth_of(numbers.with_array(values[numbers.array]), (LESION, OEDEMA), selection)
    images = {_labelled_sequence(stack): stack.volume}
    for series_files in further_series:
        for name, volume in _on_grid(series_files, stack).items():
            images.setdefault(name, volume)
    return Case(case_id, {name: images[name] for name in selection.of(list(images))}, truth)


def _instance(file: Path) -> Dataset:
    """Read a file. Raises: UnreadableFile, which does not say where the file lies."""
    try:
        return read(file)
    except UnreadableFile as error:
        raise UnreadableFile(error.problem.replace(str(file), file.name)) from error


def _labelled_sequence(stack: Stack) -> str:
    """Return the sequence of the labelled series; a T1 counts as post-contrast unless it denies contrast.

    Metastases are labelled on post-contrast images. Raises: DataRefused if the sequence is unknown.
    """
    first = stack.headers[0]
    sequence = sequence_of(stack.headers)
    if sequence is None:
        description = text(first, "SeriesDescription") or "no description"
        raise DataRefused(f"The headers do not show which sequence the labelled series is ({description}).")
    denied = verdict(first, contrast_findings(first))[0] == "denied"
    return T1_POST_CONTRAST if sequence == T1 and not denied else sequence


def _on_grid(files: Sequence[Path], stack: Stack) -> dict[str, hd.Volume]:
    """Return the series by its sequence's name; empty if it is not a volume, or on another grid."""
    try:
        candidate = to_stack([_instance(file) for file in files])
    except InputRefused:
        return {}
    sequence = sequence_of(candidate.headers)
    same = candidate.volume.geometry_equal(stack.volume, tol=1e-3)
    return {sequence: candidate.volume} if sequence and same else {}
