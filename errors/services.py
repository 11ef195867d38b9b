"""Archive, database and downloads that do not do what they are asked."""

from errors.base import MetScopeError


class ArchiveError(MetScopeError):
    status = 502
    code = "archive_error"
    exit_code = 4
    advice = "Try again in a few minutes; if it stays so, tell the PACS administrator."


class ArchiveUnreachable(ArchiveError):
    status = 503
    code = "archive_unreachable"


class ArchiveTimeout(ArchiveError):
    status = 504
    code = "archive_timeout"


class ArchiveRefused(ArchiveError):
    code = "archive_refused"


class ArchiveIncomplete(ArchiveError):
    code = "archive_incomplete"


class StoreFailed(ArchiveError):
    code = "store_failed"


class AlreadyStored(StoreFailed):
    status = 409
    code = "already_stored"
    advice = "Delete what the archive has under these UIDs, or send the images under UIDs of their own."


class DeletionUnavailable(ArchiveError):
    status = 501
    code = "deletion_unavailable"
    advice = "Set ORTHANC_URL to the root of Orthanc's own REST API."


class DatabaseUnavailable(MetScopeError):
    status = 503
    code = "database_unavailable"
    advice = "Try again in a few minutes; if it stays so, tell the engineer who runs MetScope."


class ArchiveBusy(MetScopeError):
    status = 503
    code = "archive_busy"
    advice = "Try again in a few seconds; if it stays so, tell the PACS administrator."


class UploadBusy(MetScopeError):
    status = 503
    code = "upload_busy"
    advice = "Send the files again when the other uploads have ended."


class DownloadFailed(MetScopeError):
    status = 502
    code = "download_failed"
    exit_code = 4
    advice = "Run the same command again: it goes on where it stopped."
