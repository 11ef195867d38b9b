"""Every error that MetScope raises on purpose.

Each class carries a stable ``code`` (documented in docs/api.md), the HTTP ``status`` it is answered
with, the ``exit_code`` of the command line, and ``advice``: a sentence that tells a radiologist what
to do. The message given at the raise says what was found, naming tag, slice or value.

    MetScopeError
    ├── SettingsError                 a setting is wrong; nothing starts
    ├── RequestError                  the request itself is at fault
    │   ├── InvalidForm
    │   ├── UploadRefused
    │   ├── Unauthorized
    │   ├── Forbidden
    │   ├── TokenExists
    │   ├── NotFound
    │   │   ├── StudyNotFound
    │   │   ├── SeriesNotFound
    │   │   ├── JobNotFound
    │   │   ├── BatchNotFound
    │   │   ├── SegmentationNotFound
    │   │   ├── LesionNotFound
    │   │   ├── InstanceNotFound
    │   │   ├── PatientNotFound
    │   │   ├── TokenNotFound
    │   │   └── ModelNotFound
    │   ├── JobNotCancellable
    │   ├── JobNotRetryable
    │   ├── SegmentationNotStored
    │   ├── SegmentationSuperseded
    │   ├── LesionNameTaken
    │   └── UncertaintyUnavailable
    ├── InputRefused                  the images are not what the model may be run on
    │   ├── AmbiguousSeries
    │   ├── NoCandidateSeries
    │   ├── MissingSequence
    │   ├── IdentityConflict          known UIDs come with another patient and other images
    │   ├── InputsApart               the volumes of one request show different places
    │   ├── UnsupportedModality
    │   ├── ContrastAbsent
    │   ├── DerivedSeries
    │   ├── LocalizerSeries
    │   ├── NotT1Weighted
    │   ├── NotHead
    │   ├── TooFewSlices
    │   ├── BrainNotFound
    │   ├── MissingGeometry
    │   ├── MissingSlices
    │   ├── UnevenSlices
    │   ├── DuplicateSlices
    │   ├── MixedOrientations
    │   ├── SeveralStacks
    │   ├── MosaicImage
    │   ├── GantryTilt
    │   ├── InconsistentImages
    │   ├── SeveralPatients
    │   ├── ColourImages
    │   ├── VolumeTooLarge
    │   ├── UnreadablePixels
    │   ├── ConstantPixels
    │   ├── UnreadableFile
    │   ├── SegmentationMismatch
    │   ├── OverlappingSegments
    │   ├── TooManyLesions
    │   └── DataRefused               a labelled study, or a folder of them, cannot be learnt from
    ├── ArchiveError                  the PACS did not do what it was asked
    │   ├── ArchiveUnreachable
    │   ├── ArchiveTimeout
    │   ├── ArchiveRefused
    │   ├── ArchiveIncomplete
    │   ├── StoreFailed
    │   │   └── AlreadyStored         other content is there under the same UIDs
    │   └── DeletionUnavailable       the archive offers no way to delete
    ├── DatabaseUnavailable           nothing can be read or written now
    ├── ArchiveBusy                   others wait for the archive
    ├── UploadBusy                    others are uploading
    ├── DownloadFailed                a public data set did not arrive whole
    ├── ModelError                    the model cannot be used
    │   ├── ModelSpecInvalid
    │   ├── WeightsInvalid
    │   └── OutOfMemory
    ├── EmptyLesion                   a measurement was asked of no voxels
    ├── JobCancelled                  a person cancelled the job
    ├── JobUnfinished                 whoever waited for a job waited too long
    ├── DeadlineExceeded              an attempt took too long
    ├── LeaseLost                     another worker has taken the job over
    └── JobInterrupted                a worker vanished and the attempts are used up
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class MetScopeError(Exception):
    """Base of the tree. ``details`` holds JSON-able facts and never patient data."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1
    advice: ClassVar[str] = "Tell the engineer who runs MetScope."

    def __init__(self, found: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.details = dict(details or {})

    @property
    def message(self) -> str:
        """What was found, then what to do about it."""
        return f"{self.found.rstrip()} {self.advice}"


class SettingsError(MetScopeError):
    code = "settings_invalid"
    exit_code = 2
    advice = "Correct it in .env or in the environment and start again."


class RequestError(MetScopeError):
    status = 400
    code = "bad_request"
    exit_code = 2
    advice = "Correct the request and send it again."


class InvalidForm(RequestError):
    status = 422
    code = "invalid_form"
    advice = "Correct the fields named and send the request again."


class UploadRefused(RequestError):
    status = 422
    code = "upload_refused"
    advice = "Upload whole DICOM files, or ZIP archives of them, within the limits."


class Unauthorized(RequestError):
    status = 401
    code = "unauthorized"
    advice = "Send a token: Authorization: Bearer TOKEN."


class Forbidden(RequestError):
    status = 403
    code = "forbidden"
    advice = "Ask the engineer who runs MetScope for a token with that role."


class TokenExists(RequestError):
    status = 409
    code = "token_exists"
    advice = "Choose another name."


class NotFound(RequestError):
    status = 404
    code = "not_found"
    advice = "Check the address."


class StudyNotFound(NotFound):
    code = "study_not_found"
    exit_code = 4
    advice = "Check that the study has been sent to the archive."


class SeriesNotFound(NotFound):
    code = "series_not_found"
    exit_code = 3
    advice = "Choose one of the study's series."


class JobNotFound(NotFound):
    code = "job_not_found"
    advice = "Request the segmentation again."


class BatchNotFound(NotFound):
    code = "batch_not_found"
    advice = "Request the batch again."


class SegmentationNotFound(NotFound):
    code = "segmentation_not_found"
    advice = "List the study's segmentations."


class LesionNotFound(NotFound):
    code = "lesion_not_found"
    advice = "Look at the segmentation's lesions."


class InstanceNotFound(NotFound):
    code = "instance_not_found"
    advice = "Save the segmentation into the archive, then have it measured."


class PatientNotFound(NotFound):
    code = "patient_not_found"
    advice = "List the patients."


class TokenNotFound(NotFound):
    code = "token_not_found"
    advice = "List the tokens."


class ModelNotFound(NotFound):
    code = "model_not_found"
    exit_code = 5
    advice = "Choose one of the models listed under /models."


class JobNotCancellable(RequestError):
    status = 409
    code = "job_not_cancellable"
    advice = "Look at the job and its result."


class JobNotRetryable(RequestError):
    status = 409
    code = "job_not_retryable"
    advice = "Wait for its end, or request the segmentation anew."


class SegmentationNotStored(RequestError):
    status = 409
    code = "segmentation_not_stored"
    advice = "Wait until its job has stored it, then delete it."


class SegmentationSuperseded(RequestError):
    status = 409
    code = "segmentation_superseded"
    advice = "Look at the newest version and correct that."


class LesionNameTaken(RequestError):
    status = 409
    code = "lesion_name_taken"
    advice = "Choose another name."


class UncertaintyUnavailable(RequestError):
    status = 409
    code = "uncertainty_unavailable"
    advice = "Segment the series with one of the models listed under /models, then ask for that one."


class InputRefused(MetScopeError):
    status = 422
    code = "input_refused"
    exit_code = 3
    advice = "Choose another series."


class AmbiguousSeries(InputRefused):
    status = 409
    code = "ambiguous_series"
    advice = "Choose one of the listed series."


class NoCandidateSeries(InputRefused):
    code = "no_candidate_series"
    advice = "Send a post-contrast T1 series, or choose a series yourself."


class MissingSequence(InputRefused):
    code = "missing_sequence"
    advice = "Send the missing series, or choose one yourself."


class IdentityConflict(InputRefused):
    status = 409
    code = "identity_conflict"
    advice = (
        "Have UIDs and PatientID corrected in the archive, or delete the study's segmentations and try again."
    )


class InputsApart(InputRefused):
    code = "inputs_apart"
    advice = "Choose series of one examination, between which the patient was not moved."


class UnsupportedModality(InputRefused):
    code = "unsupported_modality"
    advice = "Choose an MR series."


class ContrastAbsent(InputRefused):
    code = "contrast_absent"
    advice = "Choose the post-contrast series; if this is it, choose it yourself."


class DerivedSeries(InputRefused):
    code = "derived_series"
    advice = "Choose an original, not reformatted, series."


class LocalizerSeries(InputRefused):
    code = "localizer_series"
    advice = "Choose a series that covers the whole head."


class NotT1Weighted(InputRefused):
    code = "not_t1_weighted"
    advice = "Choose the post-contrast T1 series; if this is it, choose it yourself."


class NotHead(InputRefused):
    code = "not_head"
    advice = "Choose a series of the head; if this is one, choose it yourself."


class TooFewSlices(InputRefused):
    code = "too_few_slices"
    advice = "Choose a series that covers the whole head."


class BrainNotFound(InputRefused):
    code = "brain_not_found"
    advice = "Choose a series that covers the whole head."


class MissingGeometry(InputRefused):
    code = "missing_geometry"
    advice = "Send the series again from the scanner."


class MissingSlices(InputRefused):
    code = "missing_slices"
    advice = "Send the complete series again from the scanner."


class UnevenSlices(InputRefused):
    code = "uneven_slices"
    advice = "Choose a series whose slices are evenly spaced."


class DuplicateSlices(InputRefused):
    code = "duplicate_slices"
    advice = "Send the series without the repeated slices."


class MixedOrientations(InputRefused):
    code = "mixed_orientations"
    advice = "Choose a series whose slices are parallel."


class SeveralStacks(InputRefused):
    status = 409
    code = "several_stacks"
    advice = "Send each of the volumes as a series of its own."


class MosaicImage(InputRefused):
    code = "mosaic_image"
    advice = "Choose a series with one slice per image."


class GantryTilt(InputRefused):
    code = "gantry_tilt"
    advice = "Choose a series whose slices are not sheared against each other."


class InconsistentImages(InputRefused):
    code = "inconsistent_images"
    advice = "Send the series again from the scanner."


class SeveralPatients(InputRefused):
    code = "several_patients"
    advice = "Ask the PACS administrator to merge the patients, or to delete the copy that is wrong."


class ColourImages(InputRefused):
    code = "colour_images"
    advice = "Choose a series of greyscale images."


class VolumeTooLarge(InputRefused):
    code = "volume_too_large"
    advice = "Check the size and the spacing of its voxels; send a series of the head alone."


class UnreadablePixels(InputRefused):
    code = "unreadable_pixels"
    advice = "Send the series uncompressed."


class ConstantPixels(InputRefused):
    code = "constant_pixels"
    advice = "Look at the series in the viewer and send it again from the scanner."


class UnreadableFile(InputRefused):
    code = "unreadable_file"
    advice = "Give whole DICOM files, a folder of them, or a NIfTI file."


class SegmentationMismatch(InputRefused):
    code = "segmentation_mismatch"
    advice = "Give a segmentation that was made on this series."


class OverlappingSegments(InputRefused):
    code = "overlapping_segments"
    advice = "Give every voxel to one segment at most, and measure the segmentation again."


class TooManyLesions(InputRefused):
    code = "too_many_lesions"
    advice = "Check the mask: it seems to hold noise, not lesions."


class DataRefused(InputRefused):
    code = "data_refused"
    advice = "Compare the folder with what docs/training.md says of its layout."


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


class ModelError(MetScopeError):
    code = "model_error"
    exit_code = 5


class ModelSpecInvalid(ModelError):
    code = "model_spec_invalid"


class WeightsInvalid(ModelError):
    code = "weights_invalid"


class OutOfMemory(ModelError):
    status = 503
    code = "out_of_memory"
    advice = "Try again when nothing else is running."


class EmptyLesion(MetScopeError):
    code = "empty_lesion"


class JobCancelled(MetScopeError):
    status = 409
    code = "job_cancelled"
    advice = "Request the segmentation again if you want it."


class JobUnfinished(MetScopeError):
    status = 504
    code = "job_unfinished"
    advice = "It goes on; ask again in a few minutes."


class DeadlineExceeded(MetScopeError):
    status = 504
    code = "deadline_exceeded"
    advice = "Retry the job when the machine has less to do; a longer limit is JOB_DEADLINE_S."


class LeaseLost(MetScopeError):
    code = "lease_lost"
    advice = "Nothing to do: the worker that has the job now finishes it."


class JobInterrupted(MetScopeError):
    code = "job_interrupted"
    advice = "Request the segmentation again; if it stays so, tell the engineer who runs MetScope."


def recorded(code: str, message: str) -> MetScopeError:
    """The error that a job's row holds."""
    kind = next((one for one in _tree(MetScopeError) if one.code == code), MetScopeError)
    return kind(message.removesuffix(kind.advice))


def _tree(base: type[MetScopeError]) -> Iterator[type[MetScopeError]]:
    yield base
    for child in base.__subclasses__():
        yield from _tree(child)
