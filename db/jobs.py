"""Job state. SQL is authoritative; a broker message only says "look at this job".

A worker claims a job for a time (the lease) and renews the lease while it works. If the worker falls silent,
the lease runs out and another worker may claim the job; from then on the first one cannot change it. A
function that takes ``sessions`` is one transaction and returns detached rows. The time is the database's, so
that workers on machines whose clocks differ agree on when a lease has run out.

``owner`` names one claim, not one worker: each claim needs a new one (host, process id and a random part).
Functions that take an owner raise LeaseLost if the job is no longer running for that owner, and JobNotFound
if it does not exist.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, Row, bindparam, select, update
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import current_time, insert_for, reading, reading_rows, writing
from db.tables import ACTIVE_STATES, ONE_ACTIVE_JOB, BatchJob, Job, JobState, Segmentation
from errors import (
    DeadlineExceeded,
    JobInterrupted,
    JobNotCancellable,
    JobNotFound,
    JobNotRetryable,
    LeaseLost,
    MetScopeError,
)
from schemas.tasks import SEGMENT, Task

NEWEST_JOBS = (
    select(*Job.__table__.columns)
    .order_by(Job.created_at.desc(), Job.id)
    .limit(bindparam("limit", type_=Integer))
)
STATE_FILTER = Job.state == bindparam("state")
STUDY_FILTER = Job.study_instance_uid == bindparam("study_instance_uid")


def submit(  # noqa: PLR0913 - the columns of a request
    sessions: sessionmaker[Session],
    study_instance_uid: str,
    model_id: str,
    *,
    series_instance_uid: str | None = None,
    force: bool = False,
    requested_by: str | None = None,
    task: Task = SEGMENT,
) -> Job:
    """Queue a job and return it. Without force, an active job of an identical request is returned instead.

    series_instance_uid: None leaves the choice to the job. Send the id to the broker in either case: a second
    message about a job does no harm.
    """
    with writing(sessions) as session:
        job, is_new = add(
            session,
            study_instance_uid,
            model_id,
            series_instance_uid=series_instance_uid,
            force=force,
            requested_by=requested_by,
            task=task,
        )
        if not is_new:
            _note_joined(session, job)
        return job


def _note_joined(session: Session, job: Job) -> None:
    """Note in the batches of the job that it was also requested on its own."""
    session.execute(update(BatchJob).where(BatchJob.job_ref == job.id).values(joined=True))


def add(  # noqa: PLR0913 - the columns of a request
    session: Session,
    study_instance_uid: str,
    model_id: str,
    *,
    series_instance_uid: str | None,
    force: bool,
    requested_by: str | None,
    task: Task = SEGMENT,
) -> tuple[Job, bool]:
    """Do ``submit`` within a larger transaction; return the job, and whether it is new."""
    request_key = "/".join((study_instance_uid, series_instance_uid or "", model_id))
    if task != SEGMENT:
        content = json.dumps(task.model_dump(mode="json"), sort_keys=True)
        request_key += "/" + hashlib.sha256(content.encode()).hexdigest()
    active = (
        select(Job)
        .where(Job.request_key == request_key, Job.state.in_(ACTIVE_STATES), ~Job.cancel_requested)
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update()
    )
    if not force and (job := session.scalar(active)):
        return job, False
    now, new_id = current_time(session), str(uuid.uuid4())
    # Two processes may get here at once: the index on active jobs lets one insert, the other conflicts
    # with that row. The SET changes nothing, but without an update the row is not returned.
    insertion = insert_for(session, Job).values(
        id=new_id,
        request_key=request_key,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        model_id=model_id,
        task=task,
        force=force,
        requested_by=requested_by,
        state=JobState.QUEUED,
        progress=0.0,
        attempts=0,
        cancel_requested=False,
        queued_at=now,
        created_at=now,
    )
    job_id = session.scalars(
        insertion.on_conflict_do_update(
            index_elements=[Job.request_key],
            index_where=ONE_ACTIVE_JOB,
            set_={"request_key": request_key},
        ).returning(Job.id)
    ).one()
    audit.note(session, requested_by, "job.request", job_id, force=force)
    return session.get_one(Job, job_id), job_id == new_id


def claim(
    sessions: sessionmaker[Session], job_id: str, owner: str, lease_s: float, max_attempts: int
) -> Job | None:
    """Claim the job for this owner and return it; None if another has it, it must wait, or it has ended.

    A claim counts as an attempt. A job whose attempts are used up fails as job_interrupted instead.
    Raises: JobNotFound.
    """
    with writing(sessions) as session:
        job = _locked(session, job_id)
        now = current_time(session)
        if job.state == JobState.QUEUED:
            if job.not_before is not None and job.not_before > now:
                return None
        elif not _expired(job, now) or ended_after_interruption(session, job, max_attempts):
            return None
        job.state = JobState.RUNNING
        job.attempts += 1
        job.lease_owner = owner
        job.started_at = job.heartbeat_at = now
        job.lease_expires_at = now + timedelta(seconds=lease_s)
        job.not_before = None
        return job


def heartbeat(
    sessions: sessionmaker[Session],
    job_id: str,
    owner: str,
    lease_s: float,
    deadline_s: float,
    running_s: float,
) -> bool:
    """Renew the lease; return whether a user has asked to cancel the job.

    running_s: how long the attempt has run, by a monotonic clock. If that exceeds deadline_s and no result is
    recorded yet, the job fails as deadline_exceeded.
    Raises: LeaseLost, also in that case; JobNotFound.
    """
    with writing(sessions) as session:
        job = owned(session, job_id, owner)
        job.heartbeat_at = now = current_time(session)
        job.lease_expires_at = now + timedelta(seconds=lease_s)
        if job.segmentation_id is None and running_s > deadline_s:
            late = DeadlineExceeded(f"The job was still in stage '{job.stage}' after {deadline_s:.0f} s.")
            _end(session, job, JobState.FAILED, late.code, late.message)
        cancel_requested = job.cancel_requested
    if job.state != JobState.RUNNING:
        raise LeaseLost(f"Job {job_id} took too long.")
    return cancel_requested


def progress(sessions: sessionmaker[Session], job_id: str, owner: str, stage: str, fraction: float) -> bool:
    """Set the stage and the fraction of the whole job that is done, 0..1; leave the lease as it is.

    Returns whether a user has asked to cancel the job. Raises: LeaseLost, JobNotFound.
    """
    with writing(sessions) as session:
        job = owned(session, job_id, owner)
        job.stage = stage
        job.progress = fraction
        return job.cancel_requested


def finish(sessions: sessionmaker[Session], job_id: str, owner: str, segmentation_id: str) -> Job:
    """Mark the job done and record its result. Raises: LeaseLost, JobNotFound."""
    with writing(sessions) as session:
        job = owned(session, job_id, owner)
        job.segmentation_id = segmentation_id
        job.progress = 1.0
        _end(session, job, JobState.DONE)
        return job


def fail(sessions: sessionmaker[Session], job_id: str, owner: str, code: str, message: str) -> Job:
    """Mark the job failed, with the code and message of the error. Raises: LeaseLost, JobNotFound."""
    with writing(sessions) as session:
        job = owned(session, job_id, owner)
        _end(session, job, JobState.FAILED, code, message)
        return job


def end_as_failed(session: Session, job: Job, error: MetScopeError) -> None:
    """Mark a locked job failed, whatever its owner."""
    _end(session, job, JobState.FAILED, error.code, error.message)


def mark_cancelled(sessions: sessionmaker[Session], job_id: str, owner: str) -> Job:
    """Mark the job cancelled, after its worker has stopped on request. Raises: LeaseLost, JobNotFound."""
    with writing(sessions) as session:
        job = owned(session, job_id, owner)
        _end(session, job, JobState.CANCELLED)
        return job


def postpone(
    sessions: sessionmaker[Session],
    job_id: str,
    owner: str,
    stage: str,
    delay_s: float,
    *,
    counts: bool = False,
) -> Job:
    """Return the job to the queue for at least delay_s, because a stage cannot be done yet.

    counts: whether this was an attempt. A job that a user has asked to cancel is cancelled instead, unless
    its result is already recorded. Raises: LeaseLost, JobNotFound.
    """
    with writing(sessions) as session:
        job = owned(session, job_id, owner)
        now = current_time(session)
        job.stage = stage
        if _to_be_cancelled(job):
            _end(session, job, JobState.CANCELLED)
            return job
        queue_again(job, now)
        job.attempts -= not counts
        job.not_before = now + timedelta(seconds=delay_s)
        return job


def cancel(sessions: sessionmaker[Session], job_id: str, actor: str | None = None) -> Job:
    """Cancel a queued job at once, a running one when its worker next asks.

    A job whose result is recorded continues, so that the archive gets what the database has.
    Raises: JobNotFound, JobNotCancellable.
    """
    with writing(sessions) as session:
        job = _locked(session, job_id)
        if job.state not in ACTIVE_STATES:
            raise JobNotCancellable(f"Job {job_id} is {job.state}.")
        if job.segmentation_id is not None:
            raise JobNotCancellable(f"The result of job {job_id} is already recorded.")
        ask_to_cancel(session, job, actor)
        return job


def ask_to_cancel(session: Session, job: Job, actor: str | None) -> None:
    """Do ``cancel`` for a locked job that can be cancelled."""
    job.cancel_requested = True
    audit.note(session, actor, "job.cancel", job.id)
    if job.state == JobState.QUEUED:
        _end(session, job, JobState.CANCELLED)


def retry(sessions: sessionmaker[Session], job_id: str, actor: str | None = None) -> Job:
    """Queue another job with the request of one that failed or was cancelled, and return it.

    If the first job's result is recorded, the new job has that result and only has to store it.
    Raises: JobNotFound, JobNotRetryable.
    """
    job = get(sessions, job_id)
    if job.state not in {JobState.FAILED, JobState.CANCELLED}:
        raise JobNotRetryable(f"Job {job_id} is {job.state}.")
    result = select(Segmentation.id).where(
        Segmentation.id == job.segmentation_id, Segmentation.deleted_at.is_(None)
    )
    with writing(sessions) as session:
        new_job, is_new = add(
            session,
            job.study_instance_uid,
            job.model_id,
            series_instance_uid=job.series_instance_uid,
            force=job.force,
            requested_by=actor,
            task=job.task,
        )
        if is_new:
            new_job.segmentation_id = session.scalar(result)
        else:
            _note_joined(session, new_job)
        return new_job


def get(sessions: sessionmaker[Session], job_id: str) -> Job:
    """Return the job. Raises: JobNotFound."""
    with reading(sessions) as session:
        job = session.get(Job, job_id)
        if job is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return job


def list_jobs(
    sessions: sessionmaker[Session],
    limit: int = 50,
    state: str | None = None,
    study_instance_uid: str | None = None,
) -> Sequence[Row[Any]]:
    """Return the columns of the newest jobs, newest first. state: one of JobState; None: any."""
    query = NEWEST_JOBS
    if state is not None:
        query = query.where(STATE_FILTER)
    if study_instance_uid is not None:
        query = query.where(STUDY_FILTER)
    values = {"limit": limit, "state": state, "study_instance_uid": study_instance_uid}
    with reading_rows(sessions) as connection:
        return connection.execute(query, values).all()


def owned(session: Session, job_id: str, owner: str) -> Job:
    """Return the owner's running job, locked until the transaction ends. Raises: LeaseLost, JobNotFound."""
    job = _locked(session, job_id)
    if job.state != JobState.RUNNING or job.lease_owner != owner:
        raise LeaseLost(f"Job {job_id} is {job.state} and no longer held by {owner}.")
    return job


def _locked(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise JobNotFound(f"There is no job {job_id}.")
    return job


def _expired(job: Job, now: datetime) -> bool:
    return job.state == JobState.RUNNING and job.lease_expires_at is not None and job.lease_expires_at <= now


def _to_be_cancelled(job: Job) -> bool:
    return job.cancel_requested and job.segmentation_id is None


def _end(
    session: Session, job: Job, state: JobState, code: str | None = None, message: str | None = None
) -> None:
    job.state = state
    job.error_code = code
    job.error_message = message
    job.finished_at = current_time(session)
    job.lease_owner = job.lease_expires_at = None


def ended_after_interruption(session: Session, job: Job, max_attempts: int) -> bool:
    """End a job whose worker vanished if nothing is left to try; return whether it was ended.

    A job whose result is recorded is never given up: the result only has to be stored.
    """
    if _to_be_cancelled(job):
        _end(session, job, JobState.CANCELLED)
    elif job.attempts >= max_attempts and job.segmentation_id is None:
        interrupted = JobInterrupted(f"The worker process died {job.attempts} times in stage '{job.stage}'.")
        _end(session, job, JobState.FAILED, interrupted.code, interrupted.message)
    return job.state != JobState.RUNNING


def queue_again(job: Job, now: datetime) -> None:
    job.state = JobState.QUEUED
    job.queued_at = now
    job.lease_owner = job.lease_expires_at = job.not_before = None
