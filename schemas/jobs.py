"""The forms and answers for segmentation requests, single or in batches, and their progress."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import mean
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    model_validator,
)
from sqlalchemy import Row

from db.tables import ACTIVE_STATES, Batch, Job, JobState
from db.tasks import Kind
from schemas.common import LARGEST_BATCH, Answer, Form, Query, Text, Uid, WaitForm

DATE_RANGE_PATTERN = r"^([0-9]{8}|[0-9]{8}-|-[0-9]{8}|[0-9]{8}-[0-9]{8})$"


class JobPath(Form):
    """The id of a job."""

    job_id: Text


class ActionPath(JobPath):
    """The id of a job and the action to take on it."""

    action: Literal["cancel", "retry"]


class BatchPath(Form):
    """The id of a batch."""

    batch_id: Text


class JobsQuery(Query):
    """The jobs to list."""

    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None
    study_instance_uid: Uid | None = None
    limit: int = Field(50, ge=1, le=500)


class SegmentationForm(WaitForm):
    """A segmentation to request. An absent or empty body takes all defaults."""

    series_instance_uid: Uid | None = Field(None, description="The series; null: MetScope chooses")
    inputs: dict[str, Uid] = Field(
        {}, description="The series of each of the model's inputs, by its name; MetScope chooses the others"
    )
    model: str | None = Field(None, description="A model of /models; null: the default model")
    force: bool = Field(False, description="Segment again even if an identical result exists")


class StudyQuery(Form):
    """Attributes of studies, matched as in QIDO-RS: * and ? in texts, FROM-TO in dates."""

    model_config = ConfigDict(extra="forbid", strict=True)

    PatientID: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    AccessionNumber: Annotated[str, Field(min_length=1, max_length=16)] | None = None
    StudyDate: Annotated[str, Field(pattern=DATE_RANGE_PATTERN)] | None = None
    StudyDescription: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    def filters(self) -> dict[str, str]:
        """Return the given attributes by keyword."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if not self.filters():
            raise ValueError("give at least one attribute")
        return self


class BatchForm(Form):
    """Several studies to segment: listed, or found by a query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study_instance_uids: list[Uid] | None = Field(None, min_length=1, max_length=LARGEST_BATCH)
    query: StudyQuery | None = None
    model: str | None = Field(None, description="A model of /models; null: the default model")
    force: bool = Field(False, description="Segment again even if an identical result exists")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.study_instance_uids is None) == (self.query is None):
            raise ValueError("give either study_instance_uids or query")
        return self


class JobError(Answer):
    """The error with which a job failed."""

    code: str
    message: str


class JobAnswer(Answer):
    """A job and its progress. result: address of its segmentation."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str | None
    progress: float = Field(ge=0, le=1)
    estimate_s: float | None = Field(description="Estimated seconds remaining")
    attempts: int
    error: JobError | None
    result: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    requested_by: str | None
    kind: Kind
    study_instance_uid: str
    series_instance_uid: str | None
    inputs: dict[str, str]
    model: str
    force: bool

    @classmethod
    def of(cls, job: Job, estimate_s: float | None) -> Self:
        """Return the answer for a row of the database."""
        columns = {column.key: getattr(job, column.key) for column in Job.__table__.columns}
        return cls.model_validate(_job_fields(columns, estimate_s))


JOB_COLUMNS = JobAnswer.model_fields.keys() & Job.__table__.columns.keys()


def _job_fields(columns: Mapping[str, Any], estimate_s: float | None) -> dict[str, Any]:
    return {
        **{name: columns[name] for name in JOB_COLUMNS},
        "estimate_s": estimate_s,
        "error": _error(columns["error_code"], columns["error_message"]),
        "result": _result(columns["segmentation_id"]),
        "model": columns["model_id"],
        "kind": columns["task"].kind,
        "inputs": getattr(columns["task"], "inputs", {}),
    }


class JobsAnswer(Answer):
    """Jobs, newest first."""

    jobs: list[JobAnswer]

    @classmethod
    def of(cls, jobs: Sequence[Row[Any]], estimates_s: Sequence[float | None]) -> Self:
        """Return the answer for rows of the database."""
        # Reading a row's attributes by name would take three times as long.
        names = jobs[0]._fields if jobs else ()
        columns = [dict(zip(names, job, strict=True)) for job in jobs]
        fields = [_job_fields(*pair) for pair in zip(columns, estimates_s, strict=True)]
        return cls.model_validate({"jobs": fields})


class BatchJobAnswer(Answer):
    """A study of a batch. lesions: number of lesions in its result."""

    id: str
    study_instance_uid: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str | None
    error: JobError | None
    result: str | None
    lesions: int | None


class BatchAnswer(Answer):
    """A batch of jobs. progress: mean of its jobs. states: number of jobs in each state."""

    id: str
    requested_by: str | None
    created_at: datetime
    progress: float = Field(ge=0, le=1)
    states: dict[Literal["queued", "running", "done", "failed", "cancelled"], int]
    jobs: list[BatchJobAnswer]

    @classmethod
    def of(cls, batch: Batch, lesions: Mapping[str, int]) -> Self:
        """Return the answer for a batch. lesions: number of lesions by segmentation id."""
        states = Counter(job.state for job in batch.jobs)
        ended = [job.state not in ACTIVE_STATES for job in batch.jobs]
        return cls.model_validate(
            {
                "id": batch.id,
                "requested_by": batch.requested_by,
                "created_at": batch.created_at,
                "progress": mean(
                    1.0 if over else job.progress for job, over in zip(batch.jobs, ended, strict=True)
                ),
                "states": {state: states[state] for state in JobState},
                "jobs": [
                    {
                        "id": job.id,
                        "study_instance_uid": job.study_instance_uid,
                        "state": job.state,
                        "stage": job.stage,
                        "error": _error(job.error_code, job.error_message),
                        "result": _result(job.segmentation_id),
                        "lesions": lesions.get(job.segmentation_id or ""),
                    }
                    for job in batch.jobs
                ],
            }
        )


def _error(code: str | None, message: str | None) -> JobError | None:
    return JobError(code=code, message=message or "") if code else None


def _result(segmentation_id: str | None) -> str | None:
    return None if segmentation_id is None else f"/segmentations/{segmentation_id}"
