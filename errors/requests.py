"""Requests that are at fault themselves."""

from errors.base import MetScopeError


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
