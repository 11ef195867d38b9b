"""The embedded archive: a folder of DICOM files, without a server or an index file."""

import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydicom import Dataset
from pydicom.multival import MultiValue

from errors import (
    ArchiveRefused,
    ArchiveUnreachable,
    SeriesNotFound,
    StoreFailed,
    StudyNotFound,
    UnreadableFile,
)
from imaging import identity
from imaging.files import DamagedSeries, check_uids, is_directory_record, is_meant_as_dicom
from orthanc import part10

STUDY_KEYWORDS = [
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex",
]  # fmt: skip
# FileSetID is for DICOMDIR files; a file with none of these attributes may as well be truncated.
INDEX_KEYWORDS = [
    *STUDY_KEYWORDS, "SpecificCharacterSet", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality",
    "FileSetID",
]  # fmt: skip


@dataclass(frozen=True)
class _File:
    """A file as last seen.

    header: attributes of INDEX_KEYWORDS; None if the file is not a DICOM instance. damaged: it is meant to be
    one and cannot be read.
    """

    modified_ns: int
    size: int
    header: Dataset | None
    damaged: bool


class FolderArchive:
    """An Archive in a folder, which is created if absent. Files may be added and removed at any time.

    Every query lists the folder and reads only the headers of new and changed files, so several processes may
    use one folder. Raises: ArchiveUnreachable if the folder cannot be created.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._files: dict[Path, _File] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArchiveUnreachable(f"The archive's folder cannot be created: {error.strerror}.") from None

    def search_studies(self, **filters: str) -> list[Dataset]:
        unknown = sorted(set(filters) - {*STUDY_KEYWORDS, "ModalitiesInStudy"})
        if unknown:
            raise ArchiveRefused(f"A folder cannot be searched by {', '.join(unknown)}.")
        studies: dict[str, list[Dataset]] = {}
        for header in self._instances().values():
            studies.setdefault(header.StudyInstanceUID, []).append(header)
        return [study for headers in studies.values() if _matches(study := _summary(headers), filters)]

    def series_headers(self, study_uid: str, series_uids: Collection[str] = ()) -> list[list[Dataset]]:
        series: dict[str, list[Dataset]] = {}
        study = self._study(study_uid)
        for path, header in study.items():
            if not series_uids or header.SeriesInstanceUID in series_uids:
                dataset = _read(path, header, part10.read_header)
                series.setdefault(header.SeriesInstanceUID, []).append(dataset)
        damaged = self._damaged_names(study_uid, study)
        return [DamagedSeries(headers, damaged) for headers in series.values()]

    def retrieve_series(self, study_uid: str, series_uid: str) -> list[Dataset]:
        study = self._study(study_uid)
        headers = {p: h for p, h in study.items() if h.SeriesInstanceUID == series_uid}
        if not headers:
            raise SeriesNotFound(f"Study {study_uid} has no series {series_uid} in the archive.")
        instances = [_read(path, header, part10.read) for path, header in headers.items()]
        identity.check_received(instances, study_uid, series_uid)
        return DamagedSeries(instances, self._damaged_names(study_uid, study))

    def store(self, instances: Sequence[Dataset]) -> None:
        stored_into = {instance.StudyInstanceUID for instance in instances}
        entries = {
            _uids(header): (path, header)
            for path, header in self._instances().items()
            if header.StudyInstanceUID in stored_into
        }
        patients = {(uids[0], identity.patient_of(header)): header for uids, (_, header) in entries.items()}
        for instance in instances:
            uids = _uids(instance)
            # UIDs become folder names, so `../..` must not pass.
            if not all(map(identity.is_uid, uids)):
                raise StoreFailed(f"Instance {uids[2]!r} was not stored: one of its UIDs is not valid.")
            same_study = [header for (study_uid, _), header in patients.items() if study_uid == uids[0]]
            identity.check_study_patient(instance, same_study)
            patients.setdefault((uids[0], identity.patient_of(instance)), instance)
            if uids in entries:
                stored_instance = _read(*entries[uids], part10.read)
                identity.check_storable([instance], {uids[2]: stored_instance})
                continue
            folder = self._folder / uids[0] / uids[1]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{uids[2]}.dcm"
                _write(instance, path)
                entries[uids] = path, instance
            except OSError as error:
                raise StoreFailed(
                    f"Instance {uids[2]} was not stored: {error.strerror}.", {"failed": [str(uids[2])]}
                ) from None

    def has_instance(self, study_uid: str, sop_uid: str) -> bool:
        return any(
            header.SOPInstanceUID == sop_uid and header.StudyInstanceUID == study_uid
            for header in self._instances().values()
        )

    def delete_instance(self, study_uid: str, sop_uid: str) -> None:
        self._delete(study_uid, sop_uid)

    def delete_study(self, study_uid: str) -> None:
        self._delete(study_uid, None)

    def _delete(self, study_uid: str, sop_uid: str | None) -> None:
        self._refresh()
        for path, file in self._files.items():
            header = file.header
            if header and header.StudyInstanceUID == study_uid and sop_uid in {header.SOPInstanceUID, None}:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise ArchiveRefused(
                        f"Instance {header.SOPInstanceUID} was not deleted: {error.strerror}."
                    ) from None

    def check(self) -> None:
        if not self._folder.is_dir():
            raise ArchiveUnreachable("The archive's folder does not exist any longer.")
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise ArchiveRefused("This user has no permission to read and write the archive's folder.")

    def _study(self, study_uid: str) -> dict[Path, Dataset]:
        headers = {p: h for p, h in self._instances().items() if h.StudyInstanceUID == study_uid}
        if not headers:
            raise StudyNotFound(f"The archive has no study {study_uid}.")
        return headers

    def _damaged_names(self, study_uid: str, paths: Iterable[Path]) -> list[str]:
        """Return the names of damaged files that may belong to the study. paths: its other files.

        Without their folders, which users often name after the patient.
        """
        folders = {path.parent for path in paths}
        study_folder = self._folder / study_uid
        return [
            path.name
            for path, file in sorted(self._files.items())
            if file.damaged and (path.parent in folders or study_folder in path.parents)
        ]

    def _instances(self) -> dict[Path, Dataset]:
        """Return the headers of the instances by path; for an instance in two files, the first by name."""
        self._refresh()
        entries = {}
        for path in sorted(self._files, reverse=True):
            header = self._files[path].header
            if header is not None:
                entries[_uids(header)] = (path, header)
        return dict(reversed(entries.values()))

    def _refresh(self) -> None:
        files = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                # Hidden files belong to the system, or are our own that are still being written.
                if name.startswith("."):
                    continue
                try:
                    status = path.stat()
                except OSError:
                    # The file is gone again, or it is a link to nowhere or to itself.
                    continue
                # Reading a named pipe would block forever.
                if not stat.S_ISREG(status.st_mode):
                    continue
                file = self._files.get(path)
                if file is None or (file.modified_ns, file.size) != (status.st_mtime_ns, status.st_size):
                    file = _File(status.st_mtime_ns, status.st_size, *_index_entry(path))
                files[path] = file
        self._files = files


def _uids(header: Dataset) -> tuple[str, str, str]:
    """Return the study, series and SOP instance UIDs of an instance."""
    return str(header.StudyInstanceUID), str(header.SeriesInstanceUID), str(header.SOPInstanceUID)


def _index_entry(path: Path) -> tuple[Dataset | None, bool]:
    """Return a file's header for the index, or None, and whether the file is damaged."""
    try:
        header = part10.read_header(path, INDEX_KEYWORDS)
        if is_directory_record(header):
            return None, False
        check_uids(header)
        return header, False
    except part10.UNREADABLE:
        pass
    return None, is_meant_as_dicom(path)


def _read(path: Path, header: Dataset, read: Callable[[Path], Dataset]) -> Dataset:
    try:
        return read(path)
    except part10.UNREADABLE as error:
        raise UnreadableFile(
            f"Instance {header.SOPInstanceUID} of series {header.SeriesInstanceUID} is damaged in the "
            f"archive's folder ({type(error).__name__})."
        ) from None


def _write(instance: Dataset, path: Path) -> None:
    """Write under a temporary name until the file is on disk: a crash leaves a complete file or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
        try:
            file.write(part10.encode(instance))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def _summary(headers: Sequence[Dataset]) -> Dataset:
    """Return the study-level attributes that answer a query on studies."""
    study = Dataset()
    for keyword in ["SpecificCharacterSet", *STUDY_KEYWORDS]:
        if keyword in headers[0]:
            study[keyword] = headers[0][keyword]
    study.ModalitiesInStudy = sorted({header.get("Modality", "") for header in headers} - {""})
    study.NumberOfStudyRelatedSeries = len({header.SeriesInstanceUID for header in headers})
    study.NumberOfStudyRelatedInstances = len(headers)
    return study


def _matches(study: Dataset, filters: dict[str, str]) -> bool:
    for keyword, pattern in filters.items():
        value = study.get(keyword, "")
        values = [str(item) for item in (value if isinstance(value, MultiValue) else [value])]
        if keyword == "StudyDate" and "-" in pattern:
            # DICOM dates sort as text; an open end matches all dates.
            start, end = pattern.split("-")
            if not any(start <= item <= (end or "9") for item in values if item):
                return False
        elif not any(fnmatchcase(item, pattern.replace("[", "[[]")) for item in values):
            return False
    return True
