"""What the API takes and gives, field by field; the OpenAPI document is made from these classes.

Forms refuse unknown keys. Answers are written out in full: an unknown value is null, never left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from statistics import mean
from typing import Annotated, Any, Literal, Self

from flask_openapi3.models.file import FileStorage
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from sqlalchemy import Row

from db.tables import ACTIVE_STATES, Batch, Job, JobState

# Looser than the standard: leading zeros do occur in archives.
UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"
Uid = Annotated[str, Field(max_length=64, pattern=UID_PATTERN)]
# PostgreSQL refuses NUL inside a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
DATE_RANGE_PATTERN = r"^([0-9]{8}|[0-9]{8}-|-[0-9]{8}|[0-9]{8}-[0-9]{8})$"
Point = Annotated[list[float], Field(min_length=3, max_length=3)]
Index = Annotated[list[int], Field(min_length=3, max_length=3)]
Axis = Annotated[list[Point], Field(min_length=2, max_length=2)]
LONGEST_WAIT_S = 60.0
LARGEST_BATCH = 1000
# What PostgreSQL's integer holds.
LARGEST_ID = 2**31 - 1
WaitS = Annotated[
    float | None,
    Field(ge=0, le=LONGEST_WAIT_S, description="Wait this long for the end before answering"),
]
# A Segment Label (0062,0005): a Long String, which has no control characters and no backslash.


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f\\]*$"),
]


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year in UTC is not from 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StudyPath(Form):
    study_instance_uid: Uid = Field(description="StudyInstanceUID (0020,000D)")


class JobPath(Form):
    job_id: Text


class SegmentationPath(Form):
    segmentation_id: Text


class PatientPath(Form):
    patient_id: Text = Field(description="PatientID (0010,0020)")


class Query(Form):
    """Flask-OpenAPI3 asks for the schema at every request, and it takes a while to make."""

    @classmethod
    @cache
    def model_json_schema(  # type: ignore[override]
        cls, *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        return super().model_json_schema(*arguments, **options)


class PatientQuery(Query):
    issuer: Text | None = Field(None, description="IssuerOfPatientID, where several patients share the id")


class BatchPath(Form):
    batch_id: Text


class ActionPath(JobPath):
    action: Literal["cancel", "retry"]


class LoginForm(Form):
    """token: of one who may come in. next: where to go then, an address of this site."""

    token: str = Field(min_length=1)
    next: str = "/"


class RolePath(Form):
    role: Literal["reader", "operator", "admin"]


class JobsQuery(Query):
    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None
    study_instance_uid: Uid | None = None
    limit: int = Field(50, ge=1, le=500)


class AuditQuery(Query):
    actor: Text | None = Field(None, description="Name of a token, or the user of a command line")
    action: Text | None = Field(None, description="As job.request or segmentation.read")
    subject: Text | None = Field(None, description="Id or name of what was changed or read")
    kind: Literal["read", "change"] | None = Field(None, description="Reads of patient data, or changes")
    since: Moment | None = Field(None, description="Events from this time on, with its time zone")
    until: Moment | None = Field(None, description="Events before this time, with its time zone")
    before: int | None = Field(
        None, ge=1, le=LARGEST_ID, description="next_before of the page before this one"
    )
    limit: int = Field(50, ge=1, le=500)


class WaitForm(Form):
    """An absent or empty body does not wait."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Read by flask-openapi3: the body may be left out.
    model_config["openapi_extra"] = {"required": False}  # type: ignore[typeddict-unknown-key]

    wait_s: WaitS = None

    @model_validator(mode="before")
    @classmethod
    def _absent_body(cls, body: Any) -> Any:
        return {} if body is None else body


class SegmentationForm(WaitForm):
    """What to segment. An absent or empty body asks for all defaults."""

    series_instance_uid: Uid | None = Field(None, description="The series; null lets MetScope choose")
    inputs: dict[str, Uid] = Field(
        {}, description="The series of each of the model's inputs, by its name; MetScope chooses the others"
    )
    model: str | None = Field(None, description="A model of /models; null takes the default one")
    force: bool = Field(False, description="Segment again even where an equal result exists")


class Renaming(Form):
    model_config = ConfigDict(extra="forbid", strict=True)

    number: int = Field(ge=1, description="Of the lesion")
    name: Name


class CorrectionForm(Form):
    """Lesions to be called otherwise, and lesions that are none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rename: list[Renaming] = Field([], max_length=LARGEST_BATCH)
    delete: list[Annotated[int, Field(ge=1)]] = Field(
        [], max_length=LARGEST_BATCH, description="Numbers of lesions"
    )
    wait_s: WaitS = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        renamed = [one.number for one in self.rename]
        if not renamed and not self.delete:
            raise ValueError("give a lesion to rename or to delete")
        if len({*renamed, *self.delete}) < len(renamed) + len(self.delete):
            raise ValueError("name each lesion once")
        return self


class MeasurementForm(Form):
    """A SEG in the archive that a person drew or edited."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sop_instance_uid: Uid = Field(description="SOPInstanceUID (0008,0018) of the SEG")
    corrects: Text | None = Field(
        None, description="The segmentation that was edited; null: the newest of the SEG's series, if any"
    )
    wait_s: WaitS = None


class StudyQuery(Form):
    """Which studies, by QIDO-RS's matching: * and ? in texts, FROM-TO in dates."""

    model_config = ConfigDict(extra="forbid", strict=True)

    PatientID: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    AccessionNumber: Annotated[str, Field(min_length=1, max_length=16)] | None = None
    StudyDate: Annotated[str, Field(pattern=DATE_RANGE_PATTERN)] | None = None
    StudyDescription: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    def filters(self) -> dict[str, str]:
        """By keyword, those that were given."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if not self.filters():
            raise ValueError("give at least one attribute")
        return self


class BatchForm(Form):
    """Several studies: listed, or found by a query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study_instance_uids: list[Uid] | None = Field(None, min_length=1, max_length=LARGEST_BATCH)
    query: StudyQuery | None = None
    model: str | None = Field(None, description="A model of /models; null takes the default one")
    force: bool = Field(False, description="Segment again even where an equal result exists")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.study_instance_uids is None) == (self.query is None):
            raise ValueError("give either study_instance_uids or query")
        return self


class UploadForm(Form):
    """DICOM files and ZIP archives of them."""

    files: list[FileStorage] = Field(description="The field may be repeated")


class Answer(BaseModel):
    """Forbidding extras puts additionalProperties: false into the document: a test sees every stray field."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Answer):
    code: str = Field(description="Stable; listed in docs/api.md")
    message: str
    details: dict[str, Any]


class ErrorAnswer(Answer):
    """The one shape of every error."""

    error: ErrorBody


class JobError(Answer):
    code: str
    message: str


class JobAnswer(Answer):
    """A request for a segmentation and how far it has come. result: address of the segmentation."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str | None
    progress: float = Field(ge=0, le=1)
    estimate_s: float | None = Field(description="Seconds still to go")
    attempts: int
    error: JobError | None
    result: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    requested_by: str | None
    kind: Literal["segmentation", "correction", "measurement", "restoration", "rtstruct", "uncertainty"]
    study_instance_uid: str
    series_instance_uid: str | None
    inputs: dict[str, str]
    model: str
    force: bool

    @classmethod
    def of(cls, job: Job, estimate_s: float | None) -> Self:
        """From the database's row."""
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
        "kind": kind_of(columns["task"]),
        "inputs": (columns["task"] or {}).get("inputs", {}),
    }


# By the key of a job's task.
KINDS = {
    "correct": "correction",
    "measure": "measurement",
    "restore": "restoration",
    "rtstruct": "rtstruct",
    "uncertainty": "uncertainty",
}


def kind_of(task: Mapping[str, Any] | None) -> str:
    """What a job does, by its task; None: it segments."""
    return next((kind for key, kind in KINDS.items() if key in (task or {})), "segmentation")


class AuditEventAnswer(Answer):
    """Who did what to what, or read it. actor: null for MetScope itself."""

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str
    details: dict[str, Any]


class AuditAnswer(Answer):
    """The newest first. next_before: asks for the next page as ``before``; null on the last."""

    events: list[AuditEventAnswer]
    next_before: int | None


class JobsAnswer(Answer):
    """The newest first."""

    jobs: list[JobAnswer]

    @classmethod
    def of(cls, jobs: Sequence[Row[Any]], estimates_s: Sequence[float | None]) -> Self:
        """From the database's rows."""
        # A row's attributes cost three times as much.
        names = jobs[0]._fields if jobs else ()
        columns = [dict(zip(names, job, strict=True)) for job in jobs]
        fields = [_job_fields(*pair) for pair in zip(columns, estimates_s, strict=True)]
        return cls.model_validate({"jobs": fields})


class UploadedStudy(Answer):
    study_instance_uid: str
    instances: int


class UploadAnswer(Answer):
    """What was stored."""

    studies: list[UploadedStudy]


class BatchJobAnswer(Answer):
    """A study of a batch. lesions: how many its result has."""

    id: str
    study_instance_uid: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str | None
    error: JobError | None
    result: str | None
    lesions: int | None


class BatchAnswer(Answer):
    """Several requests made at once. progress: of all of them. states: how many jobs are in each."""

    id: str
    requested_by: str | None
    created_at: datetime
    progress: float = Field(ge=0, le=1)
    states: dict[Literal["queued", "running", "done", "failed", "cancelled"], int]
    jobs: list[BatchJobAnswer]

    @classmethod
    def of(cls, batch: Batch, lesions: Mapping[str, int]) -> Self:
        """From the database's rows. lesions: how many each segmentation has, by its id."""
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


class CandidateAnswer(Answer):
    series_instance_uid: str
    description: str
    modality: str
    score: float
    reasons: list[str]
    refused: str | None = Field(description="Code of the reason why MetScope does not choose this series")
    message: str | None
    selectable: bool = Field(description="Whether a request may name this series, with a warning if refused")
    warnings: list[str]
    sequence: str | None = Field(
        description="T1, T1 post-contrast, T2, FLAIR, or null where none is recognised"
    )


class CandidatesAnswer(Answer):
    """The study's series, best first."""

    candidates: list[CandidateAnswer]


class SliceAnswer(Answer):
    sop_instance_uid: str | None
    frame: int | None
    index: int | None


class PlaneAnswer(Answer):
    """The resampled plane that the diameters lie on, where it is not an acquired slice."""

    origin_lps_mm: Point
    normal_lps: Point
    spacing_mm: float


class BoxAnswer(Answer):
    """First and last index, both inclusive: (slice, row, column)."""

    first: Index
    last: Index


class LesionAnswer(Answer):
    """One lesion. Lengths in mm, points in mm in the patient's LPS axes."""

    number: int
    name: str
    tracking_id: str
    tracking_uid: str
    volume_ml: float
    voxel_count: int
    long_axis_mm: float
    short_axis_mm: float
    feret_mm: float
    long_axis_lps: Axis
    short_axis_lps: Axis
    slice: SliceAnswer
    measurement_plane: Literal["acquisition", "resampled_axial"]
    plane: PlaneAnswer | None
    slices_spanned: int
    centroid_lps_mm: Point
    bounding_box: BoxAnswer
    mean_probability: float | None
    confidence: float | None = Field(
        ge=0, le=1, description="Probability that it is a lesion; null where drawn by hand or not calibrated"
    )
    measurable: bool
    measurable_reason: str


class ModelReference(Answer):
    id: str
    version: str
    sha256: str


class StoredSegmentation(Answer):
    """The SEG object. stored: the archive has confirmed it. Null UIDs: no lesion, so there is no object.

    missing_since: when the archive was found to have it no more.
    """

    sop_instance_uid: str | None
    series_instance_uid: str | None
    stored: bool
    missing_since: datetime | None


class CompanionAnswer(Answer):
    """An object stored beside the SEG: report, structure set, map of uncertainty (OT).

    stored: the archive has confirmed it.
    """

    modality: Literal["SR", "RTSTRUCT", "OT"]
    sop_instance_uid: str
    series_instance_uid: str
    stored: bool


class ChangeAnswer(Answer):
    """What a correction made of a lesion. Null: it is no more, or was not before."""

    change: Literal["drawn", "redrawn", "renamed", "deleted", "restored"]
    name: str | None
    tracking_uid: str
    volume_ml: float | None
    previous_name: str | None
    previous_volume_ml: float | None


class SegmentationAnswer(Answer):
    """One run of one model on one series, or a person's correction of it, with every lesion measured.

    corrects, corrected_by: of a correction, the segmentation before it and who made it.
    """

    schema_version: int
    id: str
    version: int
    created_at: datetime
    study_instance_uid: str
    study_date: str | None
    series_instance_uid: str
    model: ModelReference
    segmentation: StoredSegmentation
    companions: list[CompanionAnswer]
    corrects: str | None
    corrected_by: str | None
    changes: list[ChangeAnswer]
    lesions: list[LesionAnswer]
    total_volume_ml: float
    reasons: list[str]
    warnings: list[str]
    timings_s: dict[str, float]
    research_use_only: Literal[True]


class SegmentationsAnswer(Answer):
    """The newest first."""

    segmentations: list[SegmentationAnswer]


class PatientAnswer(Answer):
    patient_id: str
    issuer: str
    name: str | None
    birth_date: str | None
    sex: str | None
    studies: int
    last_study_date: str | None


class PatientsAnswer(Answer):
    """Patients with results, by patient_id."""

    patients: list[PatientAnswer]


class PatientLesion(LesionAnswer):
    colour: str
    study_instance_uid: str
    study_date: str | None
    series_instance_uid: str
    series_description: str | None
    segmentation_id: str
    model_id: str


class LesionsAnswer(Answer):
    """By study date. Of each series one segmentation: what a person corrected, else the newest."""

    patient_id: str
    lesions: list[PatientLesion]


class ModelAnswer(Answer):
    id: str
    title: str
    version: str
    sha256: str
    default: bool


class ModelsAnswer(Answer):
    models: list[ModelAnswer]


class SessionAnswer(Answer):
    """name: the token's; anonymous, who may do everything, where there is no authentication."""

    name: str
    role: Literal["reader", "operator", "admin"]
    version: str


class LiveAnswer(Answer):
    live: Literal[True]


class CheckAnswer(Answer):
    ok: bool
    reason: str | None


class ReadyAnswer(Answer):
    """ready: every check is ok; an ok one may have a reason too, to look into. loaded_models: those that a
    worker holds in memory.
    """

    ready: bool
    checks: dict[Literal["database", "archive", "broker", "data", "models", "worker"], CheckAnswer]
    loaded_models: list[str]
