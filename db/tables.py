"""The tables: patients, studies, series, segmentations with their companions and their outbox, lesions,
measurements, jobs, batches, deletions of studies, workers, tokens, audit events.

A change here needs a migration under ``db/migrations/versions``; a test compares the two. Times are
UTC and timezone-aware on both databases. Lengths in mm, volumes in ml, points in LPS mm.
"""

from datetime import date, datetime, time
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, MetaData, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from db.column_types import TaskColumn, Text, UtcDateTime
from schemas.tasks import Task


class Base(DeclarativeBase):
    """Base of the tables. It names all constraints, so that a migration can drop them on either database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class Patient(Base):
    """A patient as an issuer identifies them. issuer: (0010,0021), empty if the header has none."""

    __tablename__ = "patients"
    __table_args__ = (UniqueConstraint("patient_id", "issuer"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[str]
    issuer: Mapped[str]
    name: Mapped[str | None]
    birth_date: Mapped[date | None]
    sex: Mapped[str | None]


class Study(Base):
    """A study of a patient. study_date and study_time are the scanner's local time, as in DICOM."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(unique=True)
    patient_ref: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    study_date: Mapped[date | None]
    study_time: Mapped[time | None]
    description: Mapped[str | None]

    patient: Mapped[Patient] = relationship()


class Series(Base):
    """A series that was segmented. Another study may have a different series with the same UID."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_ref", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(index=True)
    study_ref: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    description: Mapped[str | None]
    modality: Mapped[str | None]

    study: Mapped[Study] = relationship()


class Segmentation(Base):
    """A segmentation of a series: one run of a model, or a person's correction of it.

    version: 1, 2, … per series and model; a number is never used twice.
    content_sha256: ``imaging.identity.content_digest`` of the series; null in rows older than migration 0008.
    corrects, corrected_by, changes: for a correction, the segmentation before it, its author, and what became
    of each lesion.
    sop_instance_uid, series_instance_uid: those of the SEG; null if no lesion was found.
    stored_at: when the archive confirmed the SEG, which then left the outbox.
    checked_at, missing_since: when the archive was last asked whether it still has the SEG, and since when
    the SEG is missing.
    """

    __tablename__ = "segmentations"
    __table_args__ = (UniqueConstraint("series_ref", "model_id", "version"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    series_ref: Mapped[int] = mapped_column(ForeignKey("series.id"))
    version: Mapped[int]
    idempotency_key: Mapped[str] = mapped_column(index=True)
    content_sha256: Mapped[str | None]
    corrects: Mapped[str | None] = mapped_column(ForeignKey("segmentations.id", ondelete="SET NULL"))
    corrected_by: Mapped[str | None]
    changes: Mapped[list[Any]]
    model_id: Mapped[str]
    model_version: Mapped[str]
    model_sha256: Mapped[str]
    reasons: Mapped[list[Any]]
    warnings: Mapped[list[Any]]
    sop_instance_uid: Mapped[str | None] = mapped_column(unique=True)
    series_instance_uid: Mapped[str | None]
    stored_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]
    missing_since: Mapped[datetime | None]
    store_attempts: Mapped[int]
    timings_s: Mapped[dict[str, Any]]
    peak_memory_mb: Mapped[float | None]
    software_version: Mapped[str]
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    series: Mapped[Series] = relationship()
    lesions: Mapped[list["LesionRow"]] = relationship(order_by="LesionRow.number")


class Companion(Base):
    """Another DICOM object made from a segmentation. modality: SR, RTSTRUCT or OT."""

    __tablename__ = "companions"

    sop_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    segmentation_ref: Mapped[str] = mapped_column(ForeignKey("segmentations.id"), index=True)
    modality: Mapped[str]
    series_instance_uid: Mapped[str]
    stored_at: Mapped[datetime | None]


class Outbox(Base):
    """An encoded SEG or companion that the archive has not confirmed; written together with its row.

    encoded: the DICOM file, the same bytes at every attempt to store them.
    """

    __tablename__ = "outbox"

    sop_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    segmentation_ref: Mapped[str] = mapped_column(ForeignKey("segmentations.id"), index=True)
    encoded: Mapped[bytes]


class LesionRow(Base):
    """A lesion of a segmentation. colour: #rrggbb, as the viewer draws it."""

    __tablename__ = "lesions"
    __table_args__ = (UniqueConstraint("segmentation_ref", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    segmentation_ref: Mapped[str] = mapped_column(ForeignKey("segmentations.id"))
    number: Mapped[int]
    name: Mapped[str]
    tracking_id: Mapped[str]
    tracking_uid: Mapped[str] = mapped_column(index=True)
    colour: Mapped[str]

    measurements: Mapped[list["Measurement"]] = relationship(order_by="Measurement.id")


class Measurement(Base):
    """A measurement of a lesion, with the fields of the API; the newest one is valid."""

    __tablename__ = "measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    lesion_ref: Mapped[int] = mapped_column(ForeignKey("lesions.id"), index=True)
    volume_ml: Mapped[float]
    voxel_count: Mapped[int]
    long_axis_mm: Mapped[float]
    short_axis_mm: Mapped[float]
    feret_mm: Mapped[float]
    long_axis_lps: Mapped[list[Any]]
    short_axis_lps: Mapped[list[Any]]
    slice: Mapped[dict[str, Any]]
    measurement_plane: Mapped[str]
    plane: Mapped[dict[str, Any] | None]
    slices_spanned: Mapped[int]
    centroid_lps_mm: Mapped[list[Any]]
    bounding_box: Mapped[dict[str, Any]]
    mean_probability: Mapped[float | None]
    confidence: Mapped[float | None]
    measurable: Mapped[bool]
    measurable_reason: Mapped[str]
    created_at: Mapped[datetime]


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE_STATES = (JobState.QUEUED, JobState.RUNNING)
ONE_ACTIVE_JOB = text("state IN ('queued', 'running') AND NOT force AND NOT cancel_requested")


class Job(Base):
    """A requested task, e.g. a segmentation, and its progress. Authoritative, unlike the broker's messages.

    request_key: the requested study, series, model and task; at most one unforced job per key is active.
    started_at: when the present attempt began. queued_at: when the job was last put into the queue.
    lease_owner may change the job until another worker claims it after lease_expires_at.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="state"),
        Index(
            "uq_jobs_one_active",
            "request_key",
            unique=True,
            sqlite_where=ONE_ACTIVE_JOB,
            postgresql_where=ONE_ACTIVE_JOB,
        ),
        Index(None, "state", "created_at"),
        Index(None, "model_id", "finished_at"),
        Index(None, "study_instance_uid", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    request_key: Mapped[str]
    study_instance_uid: Mapped[str]
    series_instance_uid: Mapped[str | None]
    model_id: Mapped[str]
    task: Mapped[Task] = mapped_column(TaskColumn)
    force: Mapped[bool]
    requested_by: Mapped[str | None]
    state: Mapped[str]
    stage: Mapped[str | None]
    progress: Mapped[float]
    attempts: Mapped[int]
    cancel_requested: Mapped[bool]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    queued_at: Mapped[datetime]
    not_before: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    segmentation_id: Mapped[str | None] = mapped_column(ForeignKey("segmentations.id"))
    created_at: Mapped[datetime] = mapped_column(index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Batch(Base):
    """A request for several studies at once."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    requested_by: Mapped[str | None]
    created_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]

    jobs: Mapped[list[Job]] = relationship(
        secondary="batch_jobs", order_by=(Job.created_at, Job.id), viewonly=True
    )


class BatchJob(Base):
    """A job of a batch. joined: it was also requested by others, before or after the batch."""

    __tablename__ = "batch_jobs"

    batch_ref: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    job_ref: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)
    joined: Mapped[bool]


class StudyDeletion(Base):
    """A study that is being deleted in the archive; until the deletion ends, nothing of it is recorded."""

    __tablename__ = "study_deletions"

    study_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    requested_by: Mapped[str | None]
    created_at: Mapped[datetime]


class Worker(Base):
    """A live worker process: it renews seen_at, and removes its row when it stops.

    model_problem: why it could not load the default model; null if it could, or has not tried yet.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    loaded_models: Mapped[list[Any]]
    model_problem: Mapped[str | None]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Role(StrEnum):
    """The role of a token: a reader views, an operator also requests segmentations, an admin also deletes."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


class Token(Base):
    """A bearer token. sha256: of its secret, hexadecimal."""

    __tablename__ = "tokens"
    __table_args__ = (CheckConstraint("role IN ('reader', 'operator', 'admin')", name="role"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class AuditEvent(Base):
    """An event of the audit trail: a change, or a read of patient data. details hold no patient data."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str | None]
    action: Mapped[str]
    subject: Mapped[str]
    details: Mapped[dict[str, Any]]
