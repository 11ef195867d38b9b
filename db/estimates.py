"""Estimates of the time that the jobs of a model take."""

import statistics
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, Connection, Row, bindparam, select, type_coerce
from sqlalchemy.orm import Session, sessionmaker

from db.database import current_time, reading_rows
from db.tables import ACTIVE_STATES, Job, JobState, Segmentation
from schemas.tasks import SEGMENT

JOBS_IN_AN_ESTIMATE = 20

# Read from the JSON, because the kind has no column of its own.
IS_SEGMENTATION = type_coerce(Job.task, JSON)["kind"].as_string() == SEGMENT.kind

LATEST_DONE = (
    select(Job.started_at, Job.finished_at)
    .join(Segmentation, Segmentation.id == Job.segmentation_id)
    .where(Job.state == JobState.DONE, Job.model_id == bindparam("model_id"))
    .where(Segmentation.created_at >= Job.started_at, IS_SEGMENTATION)
    .order_by(Job.finished_at.desc())
    .limit(JOBS_IN_AN_ESTIMATE)
)


def estimate_s(sessions: sessionmaker[Session], job: Job) -> float | None:
    """Return the seconds that the job still needs once it runs: the median of the model's latest done jobs,
    less the time that the present attempt has run; never below 0. None if it has ended, if it is not a
    segmentation, or if none was done before.

    Jobs whose result already existed (adopted, or postponed for the archive) do not count. Those that name
    their inputs do: every job of a model uses all of its inputs, named or selected automatically.
    """
    return estimates_s(sessions, [job])[0]


def estimates_s(sessions: sessionmaker[Session], job_rows: Sequence[Job | Row[Any]]) -> list[float | None]:
    """Return ``estimate_s`` of each job, with one query per model."""
    models = {job.model_id for job in job_rows if job.state in ACTIVE_STATES}
    if not models:
        return [None] * len(job_rows)
    with reading_rows(sessions) as connection:
        medians_s = {model_id: _median_s(connection, model_id) for model_id in models}
        now = current_time(connection)

    def left_s(job: Job | Row[Any]) -> float | None:
        median_s = medians_s.get(job.model_id)
        if job.state not in ACTIVE_STATES or median_s is None or job.task.kind != SEGMENT.kind:
            return None
        running_since = job.started_at if job.state == JobState.RUNNING else None
        elapsed_s = (now - running_since).total_seconds() if running_since else 0.0
        return max(0.0, median_s - elapsed_s)

    return [left_s(job) for job in job_rows]


def _median_s(connection: Connection, model_id: str) -> float | None:
    durations_s = [
        (finished_at - started_at).total_seconds()
        for started_at, finished_at in connection.execute(LATEST_DONE, {"model_id": model_id})
        if started_at is not None and finished_at is not None
    ]
    return statistics.median(durations_s) if durations_s else None
