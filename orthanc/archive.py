"""An archive, as the rest of MetScope knows it, and which one the settings name."""

from collections.abc import Collection, Sequence
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydicom import Dataset

from orthanc.dicomweb import DicomwebArchive
from orthanc.folder import FolderArchive
from orthanc.transport import Limits, Transport
from settings import Settings


class Archive(Protocol):
    """Where images come from and results go. Every method may raise an ArchiveError."""

    def search_studies(self, **filters: str) -> list[Dataset]:
        """Study-level attributes of the matching studies. filters: DICOM keyword = value, with * and ?."""

    def series_headers(self, study_uid: str, series_uids: Collection[str] = ()) -> list[list[Dataset]]:
        """Return per series the header of every instance, without pixel data; only of series_uids, if any.

        A series whose headers the archive refuses is an UnreadSeries, unless there is no other; one of a
        study with damaged files is a DamagedSeries.
        Raises: StudyNotFound, SeveralPatients, ArchiveIncomplete (fewer series are listed than there are).
        """

    def retrieve_series(self, study_uid: str, series_uid: str) -> list[Dataset]:
        """Every instance of a series, complete, in no particular order.

        Raises: StudyNotFound, SeriesNotFound, ArchiveIncomplete (fewer than are listed), ArchiveRefused (of
        another study or series), InconsistentImages (of several patients).
        """

    def store(self, instances: Sequence[Dataset]) -> None:
        """Return when each instance is in the archive and found there by a query; storing again is harmless.

        Nothing is replaced. Raises: StoreFailed, naming the SOP Instance UIDs and the archive's reason;
        AlreadyStored where it has other content under an instance's UIDs, IdentityConflict where it has the
        study under another patient.
        """

    def has_instance(self, study_uid: str, sop_uid: str) -> bool:
        """Whether a query finds the instance."""

    def delete_instance(self, study_uid: str, sop_uid: str) -> None:
        """Return when the archive does not hold the instance any more; one that is absent is no error.

        Raises: DeletionUnavailable.
        """

    def delete_study(self, study_uid: str) -> None:
        """Return when the archive does not hold the study any more; one that is absent is no error.

        Raises: DeletionUnavailable.
        """

    def check(self) -> None:
        """Return quickly if the archive is there and lets us in."""


def open_archive(settings: Settings) -> Archive:
    """The archive that settings.archive_url names. Raises: ArchiveUnreachable if a folder cannot be made."""
    url = urlsplit(settings.archive_url)
    if url.scheme == "file":
        return FolderArchive(url2pathname(url.path))
    limits = Limits(
        settings.dicomweb_connect_timeout_s,
        settings.dicomweb_read_timeout_s,
        settings.dicomweb_total_timeout_s,
    )
    user, password = settings.dicomweb_user, settings.dicomweb_password.get_secret_value()
    rest = Transport(settings.orthanc_url, user, password, limits) if settings.orthanc_url else None
    return DicomwebArchive(Transport(settings.archive_url, user, password, limits), rest)
