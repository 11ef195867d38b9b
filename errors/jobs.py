"""Jobs that do not end with a result, and lesions that cannot be measured."""

from errors.base import MetScopeError


class EmptyLesion(MetScopeError):
    """Raised when a lesion without voxels is measured."""

    code = "empty_lesion"


class JobCancelled(MetScopeError):
    """Raised when a user has cancelled the job."""

    status = 409
    code = "job_cancelled"
    advice = "Request the segmentation again if you still need it."


class JobUnfinished(MetScopeError):
    """Raised when a job has not ended within the time that its caller waits."""

    status = 504
    code = "job_unfinished"
    advice = "The job is still running. Check again in a few minutes."


class DeadlineExceeded(MetScopeError):
    """An attempt at a job that took longer than JOB_DEADLINE_S."""

    status = 504
    code = "deadline_exceeded"
    advice = "Retry when the server is less busy, or raise JOB_DEADLINE_S."


class LeaseLost(MetScopeError):
    """Raised when a worker no longer holds the lease of its job."""

    code = "lease_lost"
    advice = "No action is needed: another worker is finishing the job."


class JobInterrupted(MetScopeError):
    """A job whose worker vanished or is being stopped."""

    code = "job_interrupted"
    advice = "Request the segmentation again. If the problem persists, contact your MetScope administrator."
