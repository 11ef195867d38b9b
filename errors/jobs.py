"""Jobs that end before they are done."""

from errors.base import MetScopeError


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
