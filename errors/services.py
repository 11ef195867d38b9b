"""Failures of the archive, the database, uploads and downloads."""

from errors.base import MetScopeError


class ArchiveError(MetScopeError):
    """Base of the errors about the archive (PACS)."""

    status = 502
    code = "archive_error"
    exit_code = 4
    advice = "Retry in a few minutes. If the problem persists, contact the PACS administrator."


class ArchiveUnreachable(ArchiveError):
    """Raised when the archive cannot be reached or is temporarily unavailable."""

    status = 503
    code = "archive_unreachable"


class ArchiveTimeout(ArchiveError):
    """Raised when the archive exceeds a time limit."""

    status = 504
    code = "archive_timeout"


class ArchiveRefused(ArchiveError):
    """Raised when the archive refuses a request, or its answer cannot be used."""

    code = "archive_refused"


class ArchiveIncomplete(ArchiveError):
    """An answer of the archive that is truncated or lacks listed objects."""

    code = "archive_incomplete"


class StoreFailed(ArchiveError):
    """Raised when the archive did not store every object."""

    code = "store_failed"


class AlreadyStored(StoreFailed):
    """Raised when the archive has other content under the same UIDs."""

    status = 409
    code = "already_stored"
    advice = "Delete the objects that the archive holds under these UIDs, or send the images with new UIDs."


class DeletionUnavailable(ArchiveError):
    """Raised when MetScope has no way to delete from the archive."""

    status = 501
    code = "deletion_unavailable"
    advice = "Set ORTHANC_URL to the root of Orthanc's own REST API."


class DatabaseUnavailable(MetScopeError):
    """Raised when the database does not answer."""

    status = 503
    code = "database_unavailable"
    advice = "Retry in a few minutes. If the problem persists, contact your MetScope administrator."


class ArchiveBusy(MetScopeError):
    """Raised when too many requests wait for the archive."""

    status = 503
    code = "archive_busy"
    advice = "Retry in a few seconds. If the problem persists, contact the PACS administrator."


class UploadBusy(MetScopeError):
    """Raised when too many uploads are in progress."""

    status = 503
    code = "upload_busy"
    advice = "Send the files again when the other uploads have finished."


class DownloadFailed(MetScopeError):
    """A public data set that could not be downloaded completely."""

    status = 502
    code = "download_failed"
    exit_code = 4
    advice = "Run the same command again: it resumes where it stopped."
