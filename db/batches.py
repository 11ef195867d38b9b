"""Batches: requests for several studies at once, and their progress."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session, selectinload, sessionmaker

from db import jobs
from db.database import current_time, reading, writing
from db.tables import ACTIVE_STATES, Batch, BatchJob, Job, LesionRow
from errors import BatchNotFound


def submit(
    sessions: sessionmaker[Session],
    study_instance_uids: Sequence[str],
    model_id: str,
    *,
    force: bool = False,
    requested_by: str | None = None,
) -> Batch:
    """Submit a batch with a job for each study in one transaction, and return it.

    An active job of an identical request is joined.
    """
    with writing(sessions) as session:
        batch = Batch(id=str(uuid.uuid4()), requested_by=requested_by, created_at=current_time(session))
        session.add(batch)
        session.flush()
        # Always in the same order, so that two batches with the same studies cannot deadlock.
        for uid in sorted(set(study_instance_uids)):
            job, is_new = jobs.add(
                session, uid, model_id, series_instance_uid=None, force=force, requested_by=requested_by
            )
            session.add(BatchJob(batch_ref=batch.id, job_ref=job.id, joined=not is_new))
    return get(sessions, batch.id)


def get(sessions: sessionmaker[Session], batch_id: str) -> Batch:
    """Return the batch with its jobs. Raises: BatchNotFound."""
    with reading(sessions) as session:
        batch = session.get(Batch, batch_id, options=[selectinload(Batch.jobs)])
        if batch is None:
            raise BatchNotFound(f"There is no batch {batch_id}.")
        return batch


def cancel(sessions: sessionmaker[Session], batch_id: str, actor: str | None) -> Batch:
    """Cancel the jobs of the batch that can be cancelled and that nobody outside it waits for.

    Raises: BatchNotFound.
    """
    of_batch = select(BatchJob.job_ref).where(BatchJob.batch_ref == batch_id)
    with writing(sessions) as session:
        # Locks all batches that share a job: of two cancelled at once, the second sees the first cancelled.
        sharing = select(BatchJob.batch_ref).where(BatchJob.job_ref.in_(of_batch))
        batches = select(Batch).where(Batch.id.in_(sharing) | (Batch.id == batch_id)).order_by(Batch.id)
        batch = {row.id: row for row in session.scalars(batches.with_for_update())}.get(batch_id)
        if batch is None:
            raise BatchNotFound(f"There is no batch {batch_id}.")
        batch.cancelled_at = batch.cancelled_at or current_time(session)
        _lock_active_jobs(session, batch_id)
        waited_for = (
            select(BatchJob.job_ref)
            .join(Batch, Batch.id == BatchJob.batch_ref)
            .where(Batch.cancelled_at.is_(None), Batch.id != batch_id)
        )
        # A job that every batch only joined was also requested on its own, earlier or later.
        made_by_a_batch = select(BatchJob.job_ref).where(~BatchJob.joined)
        cancellable = (
            select(Job)
            .where(Job.id.in_(of_batch), Job.state.in_(ACTIVE_STATES), Job.segmentation_id.is_(None))
            .where(Job.id.not_in(waited_for), Job.id.in_(made_by_a_batch))
            .execution_options(populate_existing=True)
        )
        for job in session.scalars(cancellable):
            jobs.ask_to_cancel(session, job, actor)
    return get(sessions, batch_id)


def _lock_active_jobs(session: Session, batch_id: str) -> None:
    """Lock the active jobs in the order of ``submit``: Python's, for which PostgreSQL needs a collation."""
    uid: ColumnElement[str] = Job.study_instance_uid.expression
    if session.get_bind().dialect.name == "postgresql":
        uid = uid.collate("C")
    active = (
        select(Job.id)
        .join(BatchJob, BatchJob.job_ref == Job.id)
        .where(BatchJob.batch_ref == batch_id, Job.state.in_(ACTIVE_STATES))
        .order_by(uid, Job.id)
    )
    session.execute(active.with_for_update(of=Job)).all()


def count_lesions(sessions: sessionmaker[Session], job_rows: Iterable[Job | Row[Any]]) -> dict[str, int]:
    """Return the number of lesions of each segmentation that the jobs led to, by its id."""
    ids = [job.segmentation_id for job in job_rows if job.segmentation_id is not None]
    query = (
        select(LesionRow.segmentation_ref, func.count())
        .where(LesionRow.segmentation_ref.in_(ids))
        .group_by(LesionRow.segmentation_ref)
    )
    with reading(sessions) as session:
        return dict.fromkeys(ids, 0) | dict(session.execute(query).all())
