"""What the API takes and gives, field by field; the OpenAPI document is made from these classes.

Forms refuse unknown keys. Answers are written out in full: an unknown value is null, never left out.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from db.tables import Job

# Looser than the standard: leading zeros do occur in archives.
UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"
Uid = Annotated[str, Field(max_length=64, pattern=UID_PATTERN)]
Point = Annotated[list[float], Field(min_length=3, max_length=3)]
Index = Annotated[list[int], Field(min_length=3, max_length=3)]
Axis = Annotated[list[Point], Field(min_length=2, max_length=2)]
LONGEST_WAIT_S = 60.0


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StudyPath(Form):
    study_instance_uid: Uid = Field(description="StudyInstanceUID (0020,000D)")


class JobPath(Form):
    job_id: str


class SegmentationPath(Form):
    segmentation_id: str


class PatientPath(Form):
    patient_id: str = Field(description="PatientID (0010,0020)")


class PatientQuery(Form):
    issuer: str | None = Field(None, description="IssuerOfPatientID, where several patients share the id")


class ActionPath(JobPath):
    action: Literal["cancel", "retry"]


class RolePath(Form):
    role: Literal["reader", "operator", "admin"]


class JobsQuery(Form):
    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None
    limit: int = Field(50, ge=1, le=500)


class SegmentationForm(Form):
    """What to segment. An absent or empty body asks for all defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Read by flask-openapi3: the body may be left out.
    model_config["openapi_extra"] = {"required": False}  # type: ignore[typeddict-unknown-key]

    series_instance_uid: Uid | None = Field(None, description="The series; null lets MetScope choose")
    model: str | None = Field(None, description="A model of /models; null takes the default one")
    force: bool = Field(False, description="Segment again even where an equal result exists")
    wait_s: float | None = Field(
        None, ge=0, le=LONGEST_WAIT_S, description="Wait this long for the end before answering"
    )

    @model_validator(mode="before")
    @classmethod
    def _absent_body(cls, body: Any) -> Any:
        return {} if body is None else body


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
    study_instance_uid: str
    series_instance_uid: str | None
    model: str
    force: bool

    @classmethod
    def of(cls, job: Job, estimate_s: float | None) -> Self:
        """From the database's row."""
        error = None
        if job.error_code is not None:
            error = JobError(code=job.error_code, message=job.error_message or "")
        return cls.model_validate(
            {
                **{name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)},
                "estimate_s": estimate_s,
                "error": error,
                "result": None if job.segmentation_id is None else f"/segmentations/{job.segmentation_id}",
                "model": job.model_id,
            }
        )


class JobsAnswer(Answer):
    """The newest first."""

    jobs: list[JobAnswer]


class CandidateAnswer(Answer):
    series_instance_uid: str
    description: str
    modality: str
    score: float
    reasons: list[str]
    refused: str | None = Field(description="Code of the reason why this series cannot be used")
    message: str | None
    warnings: list[str]


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
    measurable: bool
    measurable_reason: str


class ModelReference(Answer):
    id: str
    version: str
    sha256: str


class StoredSegmentation(Answer):
    """The SEG object. stored: the archive has confirmed it. Null UIDs: no lesion, so there is no object."""

    sop_instance_uid: str | None
    series_instance_uid: str | None
    stored: bool


class SegmentationAnswer(Answer):
    """One run of one model on one series, with every lesion measured."""

    schema_version: int
    id: str
    version: int
    created_at: datetime
    study_instance_uid: str
    series_instance_uid: str
    model: ModelReference
    segmentation: StoredSegmentation
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
    """By study date; of each series and model only the newest segmentation."""

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


class LiveAnswer(Answer):
    live: Literal[True]


class CheckAnswer(Answer):
    ok: bool
    reason: str | None


class ReadyAnswer(Answer):
    """ready: every check is ok. loaded_models: those that a worker holds in memory."""

    ready: bool
    checks: dict[Literal["database", "archive", "broker", "worker"], CheckAnswer]
    loaded_models: list[str]
