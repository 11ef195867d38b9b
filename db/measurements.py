"""What was measured: a result goes in by one transaction, documents and lists of lesions come out."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.orm import Session, aliased, contains_eager, selectinload, sessionmaker

from db import audit, jobs, tables
from db.database import reading, writing
from db.documents import IDENTITY, MEASURED, SCHEMA_VERSION, document_of, lesion_of, place_of
from db.source import Source, source_of, upsert_source
from db.tables import Outbox, Patient, Segmentation, Series, Study
from errors import InvalidForm, JobCancelled, PatientNotFound, SegmentationNotFound
from imaging.seg import colour
from lesions.measure import Lesion

__all__ = [
    "SCHEMA_VERSION",
    "NewSegmentation",
    "Source",
    "adopt",
    "delete_segmentation",
    "document",
    "find_equal",
    "lesions_of_patient",
    "locked",
    "patients",
    "record",
    "segmentations_of_study",
    "source_of",
]


# Those not deleted, with all that a document needs.
SEGMENTATIONS = (
    select(Segmentation)
    .join(Segmentation.series)
    .join(Series.study)
    .options(
        contains_eager(Segmentation.series).contains_eager(Series.study),
        selectinload(Segmentation.lesions).joinedload(tables.Lesion.measurements),
    )
    .where(Segmentation.deleted_at.is_(None))
)


@dataclass(frozen=True)
class NewSegmentation:
    """A finished run, ready to be recorded.

    reasons: why that series was chosen. timings_s: seconds per stage.
    seg_sop_instance_uid, seg_series_instance_uid, encoded: the SEG as a DICOM file; None without lesions.
    idempotency_key: equal for equal images and model.
    """

    source: Source
    model_id: str
    model_version: str
    model_sha256: str
    reasons: Sequence[str]
    warnings: Sequence[str]
    lesions: Sequence[Lesion]
    seg_sop_instance_uid: str | None
    seg_series_instance_uid: str | None
    encoded: bytes | None
    idempotency_key: str
    timings_s: Mapping[str, float]
    peak_memory_mb: float | None
    software_version: str


def record(
    sessions: sessionmaker[Session], new: NewSegmentation, job_id: str | None = None, owner: str = ""
) -> str:
    """Write every row of the result, the outbox entry and the job's segmentation_id, or nothing at all.

    job_id: the job that asked, held by owner; None for a run without a job. A job without force adopts an
    equal result that another has recorded meanwhile. Returns the segmentation's id.
    Raises: LeaseLost, JobNotFound, JobCancelled.
    """
    now = datetime.now(UTC)
    with writing(sessions) as session:
        job = jobs.owned(session, job_id, owner) if job_id is not None else None
        if job is not None and job.cancel_requested:
            raise JobCancelled(f"Job {job.id} was cancelled before its result was recorded.")
        series_ref = upsert_source(session, new.source)
        # The upsert holds the series' row, so no other transaction can record the same images meanwhile.
        equal = session.scalar(_equal(new.idempotency_key)) if job is not None and not job.force else None
        if job is not None and equal is not None:
            job.segmentation_id = locked(session, equal).id
            return equal
        used = select(func.max(Segmentation.version)).where(
            Segmentation.series_ref == series_ref, Segmentation.model_id == new.model_id
        )
        segmentation = Segmentation(
            id=str(uuid.uuid4()),
            series_ref=series_ref,
            version=1 + (session.scalar(used) or 0),
            idempotency_key=new.idempotency_key,
            model_id=new.model_id,
            model_version=new.model_version,
            model_sha256=new.model_sha256,
            reasons=list(new.reasons),
            warnings=list(new.warnings),
            sop_instance_uid=new.seg_sop_instance_uid,
            series_instance_uid=new.seg_series_instance_uid,
            store_attempts=0,
            timings_s=dict(new.timings_s),
            peak_memory_mb=new.peak_memory_mb,
            software_version=new.software_version,
            created_at=now,
            lesions=[_lesion_row(lesion, now) for lesion in new.lesions],
        )
        session.add(segmentation)
        session.flush()
        if new.encoded is not None:
            session.add(Outbox(segmentation_ref=segmentation.id, encoded=new.encoded))
        if job is not None:
            job.segmentation_id = segmentation.id
        return segmentation.id


def find_equal(sessions: sessionmaker[Session], idempotency_key: str) -> str | None:
    """Id of the newest segmentation with that key that is neither deleted nor missing in the archive."""
    with reading(sessions) as session:
        return session.scalar(_equal(idempotency_key))


def adopt(sessions: sessionmaker[Session], job_id: str, owner: str, segmentation_id: str) -> None:
    """Give a running job an existing result. Raises: LeaseLost, JobNotFound, SegmentationNotFound."""
    with writing(sessions) as session:
        job = jobs.owned(session, job_id, owner)
        job.segmentation_id = locked(session, segmentation_id).id


def document(sessions: sessionmaker[Session], segmentation_id: str) -> dict[str, Any]:
    """The segmentation as the API gives it (docs/api.md). Raises: SegmentationNotFound, also when deleted."""
    with reading(sessions) as session:
        segmentation = session.scalar(SEGMENTATIONS.where(Segmentation.id == segmentation_id))
        if segmentation is None:
            raise SegmentationNotFound(f"There is no segmentation {segmentation_id}.")
        return document_of(segmentation)


def segmentations_of_study(sessions: sessionmaker[Session], study_instance_uid: str) -> list[dict[str, Any]]:
    """Documents, newest first; none for a study never segmented (the archive knows the others)."""
    query = SEGMENTATIONS.where(Study.study_instance_uid == study_instance_uid).order_by(
        Segmentation.created_at.desc(), Segmentation.version.desc()
    )
    with reading(sessions) as session:
        return [document_of(segmentation) for segmentation in session.scalars(query)]


def patients(sessions: sessionmaker[Session]) -> list[dict[str, Any]]:
    """Patients with a segmentation: patient_id, issuer, name, birth_date, sex, studies (how many),
    last_study_date. Dates are ISO 8601 or None; sorted by patient_id.
    """
    query = (
        select(
            Patient.patient_id,
            Patient.issuer,
            Patient.name,
            Patient.birth_date,
            Patient.sex,
            func.count(Study.id.distinct()),
            func.max(Study.study_date),
        )
        .join(Study, Study.patient_ref == Patient.id)
        .join(Series, Series.study_ref == Study.id)
        .join(Segmentation, Segmentation.series_ref == Series.id)
        .where(Segmentation.deleted_at.is_(None))
        .group_by(Patient.id)
        .order_by(Patient.patient_id, Patient.issuer)
    )
    with reading(sessions) as session:
        return [
            {
                "patient_id": patient_id,
                "issuer": issuer,
                "name": name,
                "birth_date": birth_date and birth_date.isoformat(),
                "sex": sex,
                "studies": studies,
                "last_study_date": last_study_date and last_study_date.isoformat(),
            }
            for patient_id, issuer, name, birth_date, sex, studies, last_study_date in session.execute(query)
        ]


def lesions_of_patient(
    sessions: sessionmaker[Session], patient_id: str, issuer: str | None = None
) -> list[dict[str, Any]]:
    """The patient's lesions by study date and time (undated studies last), then by number.

    Each as in the document, and colour, study_instance_uid, study_date, series_instance_uid,
    series_description, segmentation_id, model_id. Only the newest version per series and model counts.
    issuer: needed only where several issuers use this patient_id.
    Raises: PatientNotFound; InvalidForm when the issuer is needed.
    """
    known = select(Patient.id).where(Patient.patient_id == patient_id)
    if issuer is not None:
        known = known.where(Patient.issuer == issuer)
    with reading(sessions) as session:
        refs = session.scalars(known).all()
        if not refs:
            raise PatientNotFound("No patient with this identifier has been segmented.")
        if len(refs) > 1:
            raise InvalidForm(f"issuer: {len(refs)} issuers use this patient identifier; name one.")
        query = SEGMENTATIONS.where(Study.patient_ref == refs[0], _is_newest_version()).order_by(
            Study.study_date.asc().nulls_last(),
            Study.study_time.asc().nulls_last(),
            Segmentation.created_at,
        )
        return [
            lesion_of(row) | place_of(segmentation) | {"colour": row.colour}
            for segmentation in session.scalars(query)
            for row in segmentation.lesions
        ]


def delete_segmentation(sessions: sessionmaker[Session], segmentation_id: str, actor: str | None) -> None:
    """Mark it deleted, so that nothing lists it any more, and note who did. Raises: SegmentationNotFound."""
    with writing(sessions) as session:
        segmentation = locked(session, segmentation_id)
        segmentation.deleted_at = datetime.now(UTC)
        session.execute(delete(Outbox).where(Outbox.segmentation_ref == segmentation_id))
        uid = segmentation.sop_instance_uid
        audit.note(session, actor, "segmentation.delete", segmentation_id, sop_instance_uid=uid)


def _lesion_row(lesion: Lesion, now: datetime) -> tables.Lesion:
    fields = lesion.to_dict()
    return tables.Lesion(
        **{name: fields[name] for name in IDENTITY},
        colour=colour(lesion.number).hex,
        measurements=[tables.Measurement(**{name: fields[name] for name in MEASURED}, created_at=now)],
    )


def locked(session: Session, segmentation_id: str) -> Segmentation:
    """The segmentation, locked until the transaction ends.

    Raises: SegmentationNotFound, also when it is deleted.
    """
    segmentation = session.get(Segmentation, segmentation_id, with_for_update=True)
    if segmentation is None or segmentation.deleted_at is not None:
        raise SegmentationNotFound(f"There is no segmentation {segmentation_id}.")
    return segmentation


def _equal(idempotency_key: str) -> Select[str]:
    return (
        select(Segmentation.id)
        .where(
            Segmentation.idempotency_key == idempotency_key,
            Segmentation.deleted_at.is_(None),
            Segmentation.missing_since.is_(None),
        )
        .order_by(Segmentation.created_at.desc(), Segmentation.version.desc())
        .limit(1)
    )


def _is_newest_version() -> ColumnElement[bool]:
    other = aliased(Segmentation)
    newest = select(func.max(other.version)).where(
        other.series_ref == Segmentation.series_ref,
        other.model_id == Segmentation.model_id,
        other.deleted_at.is_(None),
    )
    return Segmentation.version == newest.scalar_subquery()
