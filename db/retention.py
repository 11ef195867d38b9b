"""Retention: removal of the rows of deleted results, and of jobs that ended long ago."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, delete, exists, select
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import writing
from db.tables import (
    ACTIVE_STATES,
    Batch,
    BatchJob,
    Companion,
    Job,
    LesionRow,
    Measurement,
    Outbox,
    Patient,
    Segmentation,
    Series,
    Study,
)

DELETE_OPTIONS = {"synchronize_session": False}


def purge(sessions: sessionmaker[Session], before: datetime, actor: str) -> dict[str, int]:
    """Remove permanently what was deleted, and jobs that ended, before that time; return row counts by table.

    Series, studies and patients are removed with their last segmentation. Results that were not deleted stay,
    as does the audit trail, which holds no patient data.
    """
    with writing(sessions) as session:
        # An active job on a deleted result still needs its row; the next purge removes both.
        at_work = exists().where(Job.segmentation_id == Segmentation.id, Job.state.in_(ACTIVE_STATES))
        is_deleted = (Segmentation.deleted_at < before) & ~at_work
        deleted = select(Segmentation.id).where(is_deleted)
        ended_jobs = select(Job.id).where(
            Job.state.not_in(ACTIVE_STATES),
            (Job.finished_at < before) | Job.segmentation_id.in_(deleted),
        )
        lesions = select(LesionRow.id).where(LesionRow.segmentation_ref.in_(deleted))
        counts = {}
        for table, condition in (
            (BatchJob, BatchJob.job_ref.in_(ended_jobs)),
            (Batch, ~exists().where(BatchJob.batch_ref == Batch.id)),
            (Job, Job.id.in_(ended_jobs)),
            (Measurement, Measurement.lesion_ref.in_(lesions)),
            (LesionRow, LesionRow.segmentation_ref.in_(deleted)),
            (Outbox, Outbox.segmentation_ref.in_(deleted)),
            (Companion, Companion.segmentation_ref.in_(deleted)),
            (Segmentation, is_deleted),
            (Series, ~exists().where(Segmentation.series_ref == Series.id)),
            (Study, ~exists().where(Series.study_ref == Study.id)),
            (Patient, ~exists().where(Study.patient_ref == Patient.id)),
        ):
            result = session.execute(delete(table).where(condition), execution_options=DELETE_OPTIONS)
            counts[table.__tablename__] = cast("CursorResult[Any]", result).rowcount
        audit.note(session, actor, "purge", before.isoformat(), **counts)
    return counts
