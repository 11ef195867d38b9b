"""The forms and answers for segmentation requests, single or in batches, and their progress."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from schemas.common import MAX_BATCH_STUDIES, Answer, Form, Query, Text, Uid, WaitForm
from schemas.tasks import Kind

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
    def _require_filter(self) -> Self:
        if not self.filters():
            raise ValueError("give at least one attribute")
        return self


class BatchForm(Form):
    """Several studies to segment: listed, or found by a query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study_instance_uids: list[Uid] | None = Field(None, min_length=1, max_length=MAX_BATCH_STUDIES)
    query: StudyQuery | None = None
    model: str | None = Field(None, description="A model of /models; null: the default model")
    force: bool = Field(False, description="Segment again even if an identical result exists")

    @model_validator(mode="after")
    def _require_one_source(self) -> Self:
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


class JobsAnswer(Answer):
    """Jobs, newest first."""

    jobs: list[JobAnswer]


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
