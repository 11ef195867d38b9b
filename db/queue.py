"""Jobs that wait for a worker, and those of vanished workers, which are queued again."""

from datetime import datetime, timedelta

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, sessionmaker

from db.database import current_time, reading, writing
from db.jobs import ended_after_interruption, queue_again
from db.tables import Job, JobState


def requeue_expired(sessions: sessionmaker[Session], max_attempts: int) -> list[str]:
    """Queue the running jobs again whose lease has run out; return their ids, oldest first.

    Jobs whose attempts are used up fail as job_interrupted instead. Call this every few seconds.
    """
    with writing(sessions) as session:
        now = current_time(session)
        _pull_back(session, now)
        expired = select(Job).where(Job.state == JobState.RUNNING, Job.lease_expires_at <= now)
        ids = []
        for job in session.scalars(expired.order_by(Job.created_at).with_for_update(skip_locked=True)):
            if not ended_after_interruption(session, job, max_attempts):
                queue_again(job, now)
                ids.append(job.id)
        return ids


def _pull_back(session: Session, now: datetime) -> None:
    """Keep the length of leases and delays if the database's clock has been set back."""
    begun = Job.heartbeat_at > now, Job.state == JobState.RUNNING
    queued = Job.queued_at > now, Job.state == JobState.QUEUED
    ahead = select(Job).where(or_(and_(*begun), and_(*queued))).with_for_update(skip_locked=True)
    for job in session.scalars(ahead):
        if job.heartbeat_at is not None and job.lease_expires_at is not None:
            job.lease_expires_at -= job.heartbeat_at - now
            job.heartbeat_at = now
        if job.not_before is not None:
            job.not_before -= job.queued_at - now
        job.queued_at = min(job.queued_at, now)


def next_waiting(sessions: sessionmaker[Session], patience_s: float) -> str | None:
    """Return the id of the oldest job that a free worker should take without a message, or None.

    Its lease has run out, its delay has passed, or it has been queued for patience_s: its message was lost,
    or the broker does not deliver.
    """
    with reading(sessions) as session:
        now = current_time(session)
        since = now - timedelta(seconds=patience_s)
        due = or_(
            and_(Job.state == JobState.RUNNING, Job.lease_expires_at <= now),
            and_(Job.state == JobState.QUEUED, Job.not_before <= now),
            and_(Job.state == JobState.QUEUED, Job.not_before.is_(None), Job.queued_at <= since),
        )
        return session.scalar(select(Job.id).where(due).order_by(Job.created_at, Job.id).limit(1))
