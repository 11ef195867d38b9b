"""The interface of an archive to the rest of MetScope, and the archive that the settings name."""

from collections.abc import Collection, Sequence
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydicom import Dataset

from orthanc.dicomweb import DicomwebArchive
from orthanc.folder import FolderArchive
from orthanc.transport import Transport, TransportLimits
from settings import Settings


class Archive(Protocol):
    """An archive of images and results. Every method may raise an ArchiveError."""

    def search_studies(self, **filters: str) -> list[Dataset]:
        """Return the study-level attributes of matching studies. filters: keyword = value, with * and ?."""

    def series_headers(self, study_uid: str, series_uids: Collection[str] = ()) -> list[list[Dataset]]:
        """Return per series the header of every instance, without pixel data; only of series_uids, if any.

        A series whose headers the archive refuses is an UnreadSeries; if it refuses all, the refusal is
        raised. A series of a study with damaged files is a DamagedSeries.
        Raises: StudyNotFound, SeveralPatients, ArchiveIncomplete (fewer series are listed than there are).
        """

    def retrieve_series(self, study_uid: str, series_uid: str) -> list[Dataset]:
        """Return every instance of a series, complete, in no particular order.

        Raises: StudyNotFound, SeriesNotFound, ArchiveIncomplete (fewer than are listed), ArchiveRefused (of
        another study or series), InconsistentImages (of several patients).
        """

    def store(self, instances: Sequence[Dataset]) -> None:
        """Store the instances; return when a query finds each of them. Storing again is harmless.

        Nothing is replaced. Raises: StoreFailed, naming the SOP Instance UIDs and the archive's reason;
        AlreadyStored if it has other content under an instance's UIDs; IdentityConflict if it has the
        study under another patient.
        """

    def has_instance(self, study_uid: str, sop_uid: str) -> bool:
        """Return whether a query finds the instance."""

    def delete_instance(self, study_uid: str, sop_uid: str) -> None:
        """Delete the instance; return when the archive no longer has it. An absent instance is not an error.

        Raises: DeletionUnavailable.
        """

    def delete_study(self, study_uid: str) -> None:
        """Delete the study; return when the archive no longer has it. An absent study is not an error.

        Raises: DeletionUnavailable.
        """

    def check(self) -> None:
        """Check, quickly, that the archive can be reached and grants access."""


def open_archive(settings: Settings) -> Archive:
    """Return the archive of archive_url. Raises: ArchiveUnreachable if its folder cannot be created."""
    url = urlsplit(settings.archive_url)
    if url.scheme == "file":
        return FolderArchive(url2pathname(url.path))
    limits = TransportLimits(
        settings.dicomweb_connect_timeout_s,
        settings.dicomweb_read_timeout_s,
        settings.dicomweb_total_timeout_s,
    )
    user, password = settings.dicomweb_user, settings.dicomweb_password.get_secret_value()
    rest = Transport(settings.orthanc_url, user, password, limits) if settings.orthanc_url else None
    return DicomwebArchive(Transport(settings.archive_url, user, password, limits), rest)
