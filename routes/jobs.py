"""The routes for segmentation requests, single or in batches, and their progress."""

import time

from flask import Response, g

from db import batches, estimates, jobs
from db.tables import ACTIVE_STATES, Batch, Job
from errors import InvalidForm
from routes.job_answers import batch_answer, job_answer, jobs_answer
from routes.shared import answer, blueprint, context, submission
from schemas.common import MAX_BATCH_STUDIES, StudyPath
from schemas.jobs import (
    BatchAnswer,
    BatchForm,
    BatchPath,
    JobAnswer,
    JobPath,
    JobsAnswer,
    JobsQuery,
    SegmentationForm,
)

WAIT_POLL_S = 0.1

routes = blueprint("jobs")


@routes.post(
    "/segmentation/<study_instance_uid>",
    responses={200: JobAnswer, 202: JobAnswer},
)
def request_segmentation(path: StudyPath, body: SegmentationForm) -> Response:
    """Segment a study: a job, to be polled at its Location

    Answers 200 if the job ended within wait_s, otherwise 202. If no series is given, the job chooses one.
    """
    job = submission().segment(path.study_instance_uid, context().model(body.model), body)
    return answer_with(job, body.wait_s)


def answer_with(job: Job, wait_s: float | None) -> Response:
    """Answer with a job's progress, after waiting up to wait_s for its end."""
    job = wait_for_end(job, wait_s or 0.0)
    response = _job(job, 202 if job.state in ACTIVE_STATES else 200)
    response.headers["Location"] = f"/jobs/{job.id}"
    return response


def wait_for_end(job: Job, wait_s: float) -> Job:
    """Wait up to wait_s for the job to end and return it; at once if too many requests wait already."""
    deadline = time.monotonic() + wait_s
    if wait_s and context().waiting.acquire(blocking=False):
        try:
            while job.state in ACTIVE_STATES and time.monotonic() < deadline:
                time.sleep(WAIT_POLL_S)
                job = jobs.get(context().sessions, job.id)
        finally:
            context().waiting.release()
    return job


def _job(job: Job, status: int = 200) -> Response:
    return answer(job_answer(job, estimates.estimate_s(context().sessions, job)), status)


@routes.get("/jobs", responses={200: JobsAnswer})
def list_jobs(query: JobsQuery) -> Response:
    """List the newest jobs"""
    sessions = context().sessions
    rows = jobs.list_jobs(sessions, query.limit, query.state, query.study_instance_uid)
    return answer(jobs_answer(rows, estimates.estimates_s(sessions, rows)))


@routes.get("/jobs/<job_id>", responses={200: JobAnswer})
def get_job(path: JobPath) -> Response:
    """Get the state and progress of a job"""
    return _job(jobs.get(context().sessions, path.job_id))


@routes.post(
    "/jobs/<job_id>/cancel",
    responses={200: JobAnswer},
)
def cancel_job(path: JobPath) -> Response:
    """Cancel a job; a running job stops within seconds"""
    return _job(submission().cancel(path.job_id))


@routes.post("/jobs/<job_id>/retry", responses={202: JobAnswer})
def retry_job(path: JobPath) -> Response:
    """Retry a failed or cancelled job: a new job with the same request"""
    return _job(submission().retry(path.job_id), 202)


@routes.post("/batches", responses={202: BatchAnswer})
def request_batch(body: BatchForm) -> Response:
    """Segment several studies, listed or found by a query: a batch of jobs"""
    model = context().model(body.model)
    batch = submission().segment_batch(_studies(body), model, body.force)
    response = _batch(batch, 202)
    response.headers["Location"] = f"/batches/{batch.id}"
    return response


def _studies(body: BatchForm) -> list[str]:
    """Return the UIDs of the studies to segment.

    Raises: ArchiveBusy; InvalidForm if the query finds no study or more than a batch may have.
    """
    if body.query is None:
        return body.study_instance_uids or []
    with context().asking_archive() as archive:
        studies = archive.search_studies(**body.query.filters())
    if not 0 < len(studies) <= MAX_BATCH_STUDIES:
        raise InvalidForm(
            f"query: it matches {len(studies)} studies; a batch may have 1 to {MAX_BATCH_STUDIES}."
        )
    return [str(study.StudyInstanceUID) for study in studies]


@routes.get("/batches/<batch_id>", responses={200: BatchAnswer})
def get_batch(path: BatchPath) -> Response:
    """Get the progress of a batch and the outcome for each study"""
    return _batch(batches.get(context().sessions, path.batch_id))


@routes.post("/batches/<batch_id>/cancel", responses={200: BatchAnswer})
def cancel_batch(path: BatchPath) -> Response:
    """Cancel the unfinished jobs of a batch; recorded results are kept"""
    return _batch(batches.cancel(context().sessions, path.batch_id, g.actor))


def _batch(batch: Batch, status: int = 200) -> Response:
    lesion_counts = batches.count_lesions(context().sessions, batch.jobs)
    return answer(batch_answer(batch, lesion_counts), status)
