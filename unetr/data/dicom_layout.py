"""Labelled studies as DICOM files: a folder for each, with its image series and the SEGs that label them.

    FOLDER/STUDY/SERIES/INSTANCE.dcm

is what ``python -m orthanc fetch`` writes; below a study's folder any other arrangement does as well. Of the
SEGs of a series the one made last counts, so that what a reader corrected is learnt. A series that a SEG
labels is a case; of the study's other series those belong to it that lie on its very grid.
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
from imaging.contrast import contrast_findings, verdict
from imaging.files import Found, read, read_headers
from imaging.frames import text
from imaging.labelled import is_seg, newest
from imaging.sequences import SEQUENCES, T1, T1_POST_CONTRAST, sequence_of
from imaging.stack import Stack, to_stack
from unetr.data.cases import BadCase, Case, Source, Wanted, subfolders, truth_of

LESION, OEDEMA = 1, 2
# Of a segment's property type; in PS3.16's CID 7159 and CID 7151 before it.
OEDEMA_CODE = Code("79654002", "SCT", "Edema")
# Equal in all of the series that lie on one grid; where these are, the places of their slices are compared.
GRID_KEYWORDS = ("FrameOfReferenceUID", "Rows", "Columns", "PixelSpacing", "NumberOfFrames")


def dicom(folder: Path, wanted: Wanted) -> Iterator[Source | BadCase]:
    """The labelled series of every study: 1 wherever a segment is, 2 in one of the type edema.

    Raises: DataRefused where the folder holds no study.
    """
    for study in subfolders(folder):
        try:
            found = read_headers(study)
        except UnreadableFile as error:
            yield BadCase(study.name, error.found)
        else:
            yield from _of_study(study.name, found, wanted)


def _of_study(name: str, found: Found, wanted: Wanted) -> Iterator[Source | BadCase]:
    segs = (header for headers in found.series for header in headers if is_seg(header))
    labels = newest(segs, found.series)
    images = {
        text(headers[0], "SeriesInstanceUID"): headers for headers in found.series if not is_seg(headers[0])
    }
    if found.damaged:
        yield BadCase(name, found.warnings[0])
    elif not labels:
        yield BadCase(name, "No DICOM SEG says which series of the study it labels.")
    else:
        for series_uid, label in sorted(labels.items()):
            case_id = name if len(labels) == 1 else f"{name}/{series_uid}"
            if series_uid not in images:
                yield BadCase(case_id, f"The labelled series {series_uid} is not there.")
                continue
            files, drawn = _files(images[series_uid]), Path(str(label.filename))
            others = [_files(headers) for headers in _alike(images, series_uid, wanted)]
            read = partial(_read, case_id, files, drawn, others, wanted)
            patient = text(label, "PatientID") or name
            yield Source(case_id, patient, (drawn, *files, *(file for one in others for file in one)), read)


def _files(headers: Sequence[Dataset]) -> list[Path]:
    return [Path(str(header.filename)) for header in headers]


def _alike(
    images: Mapping[str, Sequence[Dataset]], series_uid: str, wanted: Wanted
) -> list[Sequence[Dataset]]:
    """The other series of wanted sequences that, by their first instance, may lie on the grid of that one."""

    def grid(headers: Sequence[Dataset]) -> tuple[object, ...]:
        return len(headers), *(text(headers[0], keyword) for keyword in GRID_KEYWORDS)

    sequences = SEQUENCES if wanted.sequences is None else wanted.sequences
    return [
        headers
        for uid, headers in sorted(images.items())
        if uid != series_uid
        and grid(headers) == grid(images[series_uid])
        and sequence_of(headers) in sequences
    ]


def _read(
    case_id: str, files: Sequence[Path], label: Path, others: Sequence[Sequence[Path]], wanted: Wanted
) -> Case:
    """Raises: InputRefused."""
    stack = to_stack([read(file) for file in files])
    drawn, segments = seg_read.read(read(label), stack)
    values = np.zeros(max((segment.number for segment in segments), default=0) + 1, np.int32)
    for segment in segments:
        values[segment.number] = OEDEMA if segment.type == OEDEMA_CODE else LESION
    truth = truth_of(drawn.with_array(values[drawn.array]), (LESION, OEDEMA), wanted)
    images = {_labelled_sequence(stack): stack.volume}
    for other in others:
        for name, volume in _on_grid(other, stack).items():
            images.setdefault(name, volume)
    return Case(case_id, {name: images[name] for name in wanted.of(list(images))}, truth)


def _labelled_sequence(stack: Stack) -> str:
    """Metastases are drawn after contrast: a labelled T1 that does not deny it is taken for post-contrast."""
    first = stack.headers[0]
    sequence = sequence_of(stack.headers)
    if sequence is None:
        description = text(first, "SeriesDescription") or "no description"
        raise DataRefused(f"Nothing says which sequence the labelled series is ({description}).")
    denied = verdict(first, contrast_findings(first))[0] == "denied"
    return T1_POST_CONTRAST if sequence == T1 and not denied else sequence


def _on_grid(files: Sequence[Path], stack: Stack) -> dict[str, hd.Volume]:
    """The series by its sequence's name; nothing where it is no volume, or on another grid."""
    try:
        other = to_stack([read(file) for file in files])
    except InputRefused:
        return {}
    sequence = sequence_of(other.headers)
    same = other.volume.geometry_equal(stack.volume, tol=1e-3)
    return {sequence: other.volume} if sequence and same else {}
