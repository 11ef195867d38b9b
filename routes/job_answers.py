"""The answers for jobs and batches, made of their rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from sqlalchemy import Row

from db.tables import ACTIVE_STATES, Batch, Job, JobState
from schemas.jobs import BatchAnswer, BatchJobAnswer, JobAnswer, JobError, JobsAnswer

JOB_COLUMNS = JobAnswer.model_fields.keys() & Job.__table__.columns.keys()


def job_answer(job: Job, estimate_s: float | None) -> JobAnswer:
    """Return the answer for a job."""
    columns = {column.key: getattr(job, column.key) for column in Job.__table__.columns}
    return _job_answer(columns, estimate_s)


def jobs_answer(jobs: Sequence[Row[Any]], estimates_s: Sequence[float | None]) -> JobsAnswer:
    """Return the answer for jobs that were read as rows."""
    # Reading a row's attributes by name would take three times as long.
    names = jobs[0]._fields if jobs else ()
    columns = [dict(zip(names, job, strict=True)) for job in jobs]
    return JobsAnswer(jobs=[_job_answer(*pair) for pair in zip(columns, estimates_s, strict=True)])


def _job_answer(columns: Mapping[str, Any], estimate_s: float | None) -> JobAnswer:
    return JobAnswer(
        **{name: columns[name] for name in JOB_COLUMNS},
        estimate_s=estimate_s,
        error=_error(columns["error_code"], columns["error_message"]),
        result=_result(columns["segmentation_id"]),
        model=columns["model_id"],
        kind=columns["task"].kind,
        inputs=getattr(columns["task"], "inputs", {}),
    )


def batch_answer(batch: Batch, lesions: Mapping[str, int]) -> BatchAnswer:
    """Return the answer for a batch. lesions: number of lesions by segmentation id."""
    states = Counter(job.state for job in batch.jobs)
    return BatchAnswer(
        id=batch.id,
        requested_by=batch.requested_by,
        created_at=batch.created_at,
        progress=mean(job.progress if job.state in ACTIVE_STATES else 1.0 for job in batch.jobs),
        states={state.value: states[state] for state in JobState},
        jobs=[
            BatchJobAnswer(
                id=job.id,
                study_instance_uid=job.study_instance_uid,
                state=JobState(job.state).value,
                stage=job.stage,
                error=_error(job.error_code, job.error_message),
                result=_result(job.segmentation_id),
                lesions=lesions.get(job.segmentation_id or ""),
            )
            for job in batch.jobs
        ],
    )


def _error(code: str | None, message: str | None) -> JobError | None:
    return JobError(code=code, message=message or "") if code else None


def _result(segmentation_id: str | None) -> str | None:
    return None if segmentation_id is None else f"/segmentations/{segmentation_id}"
