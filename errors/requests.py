"""Requests that are faulty themselves."""

from errors.base import MetScopeError


class RequestError(MetScopeError):
    """A faulty request; base of the more specific errors."""

    status = 400
    code = "bad_request"
    exit_code = 2
    advice = "Correct the request and send it again."


class InvalidForm(RequestError):
    """A request with invalid fields."""

    status = 422
    code = "invalid_form"
    advice = "Correct the listed fields and send the request again."


class UploadRefused(RequestError):
    """An upload that cannot be read or exceeds the limits."""

    status = 422
    code = "upload_refused"
    advice = "Upload complete DICOM files, or ZIP archives of them, within the limits."


class Unauthorized(RequestError):
    """A request without a valid token."""

    status = 401
    code = "unauthorized"
    advice = "Send a token: Authorization: Bearer TOKEN."


class Forbidden(RequestError):
    """A request that the role of its token, or its origin, does not permit."""

    status = 403
    code = "forbidden"
    advice = "Ask your MetScope administrator for a token with that role."


class TokenExists(RequestError):
    """A name for a new token that is, or was, in use."""

    status = 409
    code = "token_exists"
    advice = "Choose another name."


class NotFound(RequestError):
    """A request for something that does not exist."""

    status = 404
    code = "not_found"
    advice = "Check the address."


class StudyNotFound(NotFound):
    """A study that the archive does not have, or that is being deleted."""

    code = "study_not_found"
    exit_code = 4
    advice = "Check that the study has been sent to the archive."


class SeriesNotFound(NotFound):
    """A series that the study does not have."""

    code = "series_not_found"
    exit_code = 3
    advice = "Choose one of the study's series."


class JobNotFound(NotFound):
    """A job id that does not exist."""

    code = "job_not_found"
    advice = "Request the segmentation again."


class BatchNotFound(NotFound):
    """A batch id that does not exist."""

    code = "batch_not_found"
    advice = "Request the batch again."


class SegmentationNotFound(NotFound):
    """A segmentation that does not exist or was deleted."""

    code = "segmentation_not_found"
    advice = "List the study's segmentations."


class LesionNotFound(NotFound):
    """A lesion that the segmentation does not have."""

    code = "lesion_not_found"
    advice = "Use one of the lesion numbers of this segmentation."


class InstanceNotFound(NotFound):
    """An object that the archive does not have."""

    code = "instance_not_found"
    advice = "Save the segmentation to the archive, then request the measurement again."


class PatientNotFound(NotFound):
    """A patient identifier that is not recorded."""

    code = "patient_not_found"
    advice = "List the patients."


class TokenNotFound(NotFound):
    """A token that does not exist or is already revoked."""

    code = "token_not_found"
    advice = "List the tokens."


class ModelNotFound(NotFound):
    """A model that does not exist, or whose specification cannot be opened."""

    code = "model_not_found"
    exit_code = 5
    advice = "Choose one of the models listed under /models."


class JobNotCancellable(RequestError):
    """A job that has ended, or whose result is already recorded."""

    status = 409
    code = "job_not_cancellable"
    advice = "Check the state and the result of the job."


class JobNotRetryable(RequestError):
    """A job that neither failed nor was cancelled."""

    status = 409
    code = "job_not_retryable"
    advice = "Wait until the job has ended, or request the segmentation again."


class SegmentationNotStored(RequestError):
    """Raised when the results to delete have not all been stored yet."""

    status = 409
    code = "segmentation_not_stored"
    advice = "Wait until the job has stored the segmentation, then delete it."


class SegmentationSuperseded(RequestError):
    """Raised when a newer result exists than the one that the request refers to."""

    status = 409
    code = "segmentation_superseded"
    advice = "Open the newest version and correct that one."


class LesionNameTaken(RequestError):
    """A name that another lesion of the segmentation has."""

    status = 409
    code = "lesion_name_taken"
    advice = "Choose another name."


class UncertaintyUnavailable(RequestError):
    """A segmentation for which no uncertainty map can be computed."""

    status = 409
    code = "uncertainty_unavailable"
    advice = "Segment the series with one of the models listed under /models, then request the map again."
