"""The routes for segmentation requests, single or in batches, and their progress."""

import time

from flask import Response, g

from db import batches, estimates, jobs
from db.tables import ACTIVE_STATES, Batch, Job
from db.tasks import SegmentTask
from errors import InvalidForm
from routes.shared import answer, blueprint, context
from schemas.common import LARGEST_BATCH, StudyPath
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
from unetr.spec import ModelSpec

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
    model = context().model_id(body.model)
    if body.inputs:
        _check_inputs(body, context().models[model])
    job = jobs.submit(
        context().sessions,
        path.study_instance_uid,
        model,
        series_instance_uid=body.series_instance_uid,
        force=body.force,
        requested_by=g.actor,
        task=SegmentTask(inputs=body.inputs),
    )
    return answer_with(job, body.wait_s)


def _check_inputs(body: SegmentationForm, spec: ModelSpec) -> None:
    """Check the form's inputs against the model and the rest of the form. Raises: InvalidForm."""
    unknown = sorted(body.inputs.keys() - set(spec.inputs))
    if unknown:
        raise InvalidForm(f"inputs: {spec.id} has no {unknown[0]!r}; it has: {', '.join(spec.inputs)}.")
    if len(set(body.inputs.values())) < len(body.inputs):
        raise InvalidForm("inputs: one series is given twice.")
    first = body.inputs.get(spec.inputs[0])
    if first and body.series_instance_uid and first != body.series_instance_uid:
        raise InvalidForm(f"series_instance_uid: inputs gives another series as {spec.inputs[0]}.")


def answer_with(job: Job, wait_s: float | None) -> Response:
    """Announce a job and answer with its progress, after waiting up to wait_s for its end."""
    context().announcer.tell(job.id)
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
    return answer(JobAnswer.of(job, estimates.estimate_s(context().sessions, job)), status)


@routes.get("/jobs", responses={200: JobsAnswer})
def list_jobs(query: JobsQuery) -> Response:
    """List the newest jobs"""
    sessions = context().sessions
    found = jobs.list_jobs(sessions, query.limit, query.state, query.study_instance_uid)
    return answer(JobsAnswer.of(found, estimates.estimates_s(sessions, found)))


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
    job = jobs.cancel(context().sessions, path.job_id, g.actor)
    # The worker that gets this message deletes the drawing that the job was to measure.
    context().announcer.tell(job.id)
    return _job(job)


@routes.post("/jobs/<job_id>/retry", responses={202: JobAnswer})
def retry_job(path: JobPath) -> Response:
    """Retry a failed or cancelled job: a new job with the same request"""
    job = jobs.retry(context().sessions, path.job_id, g.actor)
    context().announcer.tell(job.id)
    return _job(job, 202)


@routes.post("/batches", responses={202: BatchAnswer})
def request_batch(body: BatchForm) -> Response:
    """Segment several studies, listed or found by a query: a batch of jobs"""
    model = context().model_id(body.model)
    batch = batches.submit(context().sessions, _studies(body), model, force=body.force, requested_by=g.actor)
    for job in batch.jobs:
        context().announcer.tell(job.id)
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
        found = archive.search_studies(**body.query.filters())
    if not 0 < len(found) <= LARGEST_BATCH:
        raise InvalidForm(f"query: it matches {len(found)} studies; a batch may have 1 to {LARGEST_BATCH}.")
    return [str(study.StudyInstanceUID) for study in found]


@routes.get("/batches/<batch_id>", responses={200: BatchAnswer})
def get_batch(path: BatchPath) -> Response:
    """Get the progress of a batch and the outcome for each study"""
    return _batch(batches.get(context().sessions, path.batch_id))


@routes.post("/batches/<batch_id>/cancel", responses={200: BatchAnswer})
def cancel_batch(path: BatchPath) -> Response:
    """Cancel the unfinished jobs of a batch; recorded results are kept"""
    return _batch(batches.cancel(context().sessions, path.batch_id, g.actor))


def _batch(batch: Batch, status: int = 200) -> Response:
    found = batches.count_lesions(context().sessions, batch.jobs)
    return answer(BatchAnswer.of(batch, found), status)
