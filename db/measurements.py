"""What was measured: a result goes in by one transaction, documents and lists of lesions come out."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom import Dataset
from sqlalchemy import ColumnElement, Select, and_, bindparam, case, delete, func, or_, select
from sqlalchemy.orm import Session, aliased, sessionmaker

from db import audit, jobs, tables
from db.database import current_time, reading, reading_rows, writing
from db.documents import (
    IDENTITY,
    MEASURED,
    SCHEMA_VERSION,
    SEGMENTATIONS,
    documents,
    fetch,
    lesion_of,
    place_of,
)
from db.numbering import Numbering, NumberingOutdated, numbering_in
from db.source import (
    Source,
    header_of,
    require_correction,
    require_kept,
    source_of,
    unproven_series,
    upsert_source,
)
from db.tables import Companion, Outbox, Patient, Segmentation, Series, Study
from errors import (
    InvalidForm,
    JobCancelled,
    PatientNotFound,
    SegmentationMismatch,
    SegmentationNotFound,
    SegmentationSuperseded,
    UncertaintyUnavailable,
)
from imaging.seg import colour
from lesions.measure import Lesion

__all__ = [
    "BY_HAND",
    "SCHEMA_VERSION",
    "Correction",
    "NewCompanion",
    "NewSegmentation",
    "Source",
    "add_companion",
    "adopt",
    "check_images",
    "check_patient",
    "colours",
    "delete_segmentation",
    "document",
    "find_equal",
    "key",
    "lesions_of_patient",
    "lesions_of_series",
    "locked",
    "mark_deleted",
    "newest",
    "newest_version",
    "of_seg",
    "patient",
    "patients",
    "place_of_object",
    "record",
    "refuse_other_model",
    "refuse_superseded",
    "segmentations_of_study",
    "segmented_series",
    "segmented_studies",
    "series_to_prove",
    "source_of",
]

# The model of what was drawn where no model had been.
BY_HAND = {"id": "by-hand", "version": "", "sha256": ""}
ONE = SEGMENTATIONS.where(Segmentation.id == bindparam("id"))
OF_STUDY = SEGMENTATIONS.where(Study.study_instance_uid == bindparam("study_instance_uid")).order_by(
    Segmentation.created_at.desc(), Segmentation.version.desc()
)
PATIENTS = (
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


@dataclass(frozen=True)
class NewCompanion:
    """An object that goes into the archive beside the SEG. encoded: the DICOM file."""

    modality: str
    sop_instance_uid: str
    series_instance_uid: str
    encoded: bytes


@dataclass(frozen=True)
class Correction:
    """corrects: the segmentation before it. changes: what became of each lesion, as docs/api.md has it.

    restores: the older version whose lesions it has again.
    """

    corrects: str | None
    corrected_by: str | None
    changes: Sequence[Mapping[str, Any]]
    restores: str | None = None


@dataclass(frozen=True)
class NewSegmentation:
    """A finished run, ready to be recorded.

    reasons: why that series was chosen. timings_s: seconds per stage.
    seg_sop_instance_uid, seg_series_instance_uid, encoded: the SEG as a DICOM file; None without lesions.
    idempotency_key: equal for equal images and model.
    colours: of lesions that do not have their number's, #rrggbb by number.
    correction: None for a run of a model.
    numbering: where its version, series numbers and tracking identifiers come from; None: not needed.
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
    companions: Sequence[NewCompanion] = ()
    colours: Mapping[int, str] = field(default_factory=dict)
    correction: Correction | None = None
    numbering: Numbering | None = None


def record(
    sessions: sessionmaker[Session], new: NewSegmentation, job_id: str | None = None, owner: str = ""
) -> str:
    """Write every row of the result, the outbox entries and the job's segmentation_id, or nothing at all.

    job_id: the job that asked, held by owner; None for a run without a job. A job without force adopts an
    equal result that another has recorded meanwhile. Returns the segmentation's id.
    Raises: LeaseLost, JobNotFound, JobCancelled, IdentityConflict; SegmentationSuperseded where another
    version has come since the one that is corrected, or a result since there was none; NumberingOutdated.
    """
    with writing(sessions) as session:
        now = current_time(session)
        job = jobs.owned(session, job_id, owner) if job_id is not None else None
        if job is not None and job.cancel_requested:
            raise JobCancelled(f"Job {job.id} was cancelled before its result was recorded.")
        series_ref = upsert_source(session, new.source, job.requested_by if job is not None else None)
        # The upsert holds the series' row, so no other transaction can record the same images meanwhile.
        correction = new.correction or Correction(None, None, ())
        if new.correction is None and job is not None and not job.force:
            # Locked at once: one that is deleted meanwhile is not equal any more.
            equal = session.scalar(_equal(new.idempotency_key).with_for_update())
            if equal is not None:
                job.segmentation_id = equal
                return equal
        elif new.correction is not None:
            _refuse_overtaken(session, new.correction, series_ref)
        # Neither can another result of this patient.
        numbering = numbering_in(session, new.source, new.model_id)
        if new.numbering not in (None, numbering):
            raise NumberingOutdated
        segmentation = Segmentation(
            id=str(uuid.uuid4()),
            series_ref=series_ref,
            version=numbering.version,
            idempotency_key=new.idempotency_key,
            content_sha256=new.source.content_sha256,
            corrects=correction.corrects,
            corrected_by=correction.corrected_by,
            changes=[dict(change) for change in correction.changes],
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
            lesions=[_lesion_row(lesion, new.colours.get(lesion.number), now) for lesion in new.lesions],
        )
        session.add(segmentation)
        session.flush()
        if new.encoded is not None:
            _put_into_outbox(session, segmentation, new.seg_sop_instance_uid or "", new.encoded)
        for companion in new.companions:
            _add_companion(session, segmentation, companion)
        if correction.corrected_by is not None:
            action = "segmentation.restore" if correction.restores else "segmentation.correct"
            details = {"restores": correction.restores} if correction.restores else {}
            changes = len(correction.changes)
            audit.note(session, correction.corrected_by, action, segmentation.id, changes=changes, **details)
        if job is not None:
            job.segmentation_id = segmentation.id
        return segmentation.id


def add_companion(
    sessions: sessionmaker[Session], segmentation_id: str, new: NewCompanion, job_id: str, owner: str
) -> None:
    """Write its row, the outbox entry and the job's segmentation_id, or nothing at all.

    One of the same modality that another job has added meanwhile stays the only one.
    Raises: LeaseLost, JobNotFound, JobCancelled, SegmentationNotFound.
    """
    with writing(sessions) as session:
        job = jobs.owned(session, job_id, owner)
        if job.cancel_requested:
            raise JobCancelled(f"Job {job.id} was cancelled before its result was recorded.")
        segmentation = locked(session, segmentation_id)
        require_kept(session, segmentation.series.study.study_instance_uid)
        present = select(Companion).where(
            Companion.segmentation_ref == segmentation_id, Companion.modality == new.modality
        )
        if session.scalar(present) is None:
            _add_companion(session, segmentation, new)
            audit.note(session, job.requested_by, "companion.add", segmentation_id, modality=new.modality)
        job.segmentation_id = segmentation_id


def _add_companion(session: Session, segmentation: Segmentation, new: NewCompanion) -> None:
    session.add(
        Companion(
            sop_instance_uid=new.sop_instance_uid,
            segmentation_ref=segmentation.id,
            modality=new.modality,
            series_instance_uid=new.series_instance_uid,
        )
    )
    _put_into_outbox(session, segmentation, new.sop_instance_uid, new.encoded)


def _put_into_outbox(session: Session, segmentation: Segmentation, uid: str, encoded: bytes) -> None:
    session.add(Outbox(sop_instance_uid=uid, segmentation_ref=segmentation.id, encoded=encoded))


def series_to_prove(sessions: sessionmaker[Session], source: Source) -> list[str]:
    """Return the study's other series whose images would prove that its PatientID was corrected."""
    with reading(sessions) as session:
        return unproven_series(session, source)


def check_patient(sessions: sessionmaker[Session], source: Source) -> None:
    """Raise IdentityConflict or StudyNotFound where ``record`` and ``adopt`` would, before anything is
    computed.
    """
    with reading(sessions) as session:
        require_kept(session, source.study_instance_uid)
        require_correction(session, source)


def newest(sessions: sessionmaker[Session], study_instance_uid: str, series_instance_uid: str) -> str | None:
    """Return the id of the series' result: what a person corrected last, else what a model found last.

    Only the newest version of each model counts. None where the series was never segmented.
    """
    query = (
        select(Segmentation.id)
        .join(Segmentation.series)
        .join(Series.study)
        .where(Study.study_instance_uid == study_instance_uid)
        .where(Series.series_instance_uid == series_instance_uid, _is_newest_version(present=True))
        .where(Segmentation.deleted_at.is_(None), Segmentation.missing_since.is_(None))
        .order_by(*_preference(Segmentation))
        .limit(1)
    )
    with reading(sessions) as session:
        return session.scalar(query)


def newest_version(sessions: sessionmaker[Session], segmentation_id: str) -> str:
    """Return the id of the newest version of a segmentation: its own where there is no newer one.

    Raises: SegmentationNotFound.
    """
    with reading(sessions) as session:
        segmentation = _found(session.get(Segmentation, segmentation_id), segmentation_id)
        return session.scalar(_newer(segmentation).order_by(Segmentation.version.desc())) or segmentation_id


def of_seg(sessions: sessionmaker[Session], study_instance_uid: str, sop_instance_uid: str) -> str | None:
    """Return the id of the study's segmentation that the SEG shows; None if MetScope did not make it."""
    query = (
        select(Segmentation.id)
        .join(Segmentation.series)
        .join(Series.study)
        .where(Study.study_instance_uid == study_instance_uid)
        .where(Segmentation.sop_instance_uid == sop_instance_uid, Segmentation.deleted_at.is_(None))
    )
    with reading(sessions) as session:
        return session.scalar(query)


def colours(sessions: sessionmaker[Session], segmentation_id: str) -> dict[int, str]:
    """Of its lesions, #rrggbb by number."""
    query = select(tables.Lesion.number, tables.Lesion.colour).where(
        tables.Lesion.segmentation_ref == segmentation_id
    )
    with reading(sessions) as session:
        return {row.number: row.colour for row in session.execute(query)}


def key(sessions: sessionmaker[Session], segmentation_id: str) -> str:
    """Its idempotency key. Raises: SegmentationNotFound."""
    with reading(sessions) as session:
        return _found(session.get(Segmentation, segmentation_id), segmentation_id).idempotency_key


def check_images(sessions: sessionmaker[Session], segmentation_id: str, source: Source) -> None:
    """Raise SegmentationMismatch where the images were replaced since the segmentation was made of them.

    Rows of before 0008 do not tell. Raises: SegmentationNotFound.
    """
    with reading(sessions) as session:
        recorded = _found(session.get(Segmentation, segmentation_id), segmentation_id).content_sha256
    if recorded is not None and recorded != source.content_sha256:
        raise SegmentationMismatch(
            f"The archive's images of series {source.series_instance_uid} are no longer those that "
            f"segmentation {segmentation_id} was made of. Segment the series again."
        )


def patient(sessions: sessionmaker[Session], segmentation_id: str) -> Dataset:
    """Return the patient it is recorded under, as the elements of a header. Raises: SegmentationNotFound."""
    with reading(sessions) as session:
        segmentation = _found(session.get(Segmentation, segmentation_id), segmentation_id)
        return header_of(segmentation.series.study.patient)


def refuse_superseded(sessions: sessionmaker[Session], segmentation_id: str) -> None:
    """Raises: SegmentationSuperseded where there is a newer version, SegmentationNotFound."""
    with reading(sessions) as session:
        _refuse_superseded(session, _found(session.get(Segmentation, segmentation_id), segmentation_id))


def _newer(segmentation: Segmentation) -> Select[str]:
    return _present_in(segmentation.series_ref).where(
        Segmentation.model_id == segmentation.model_id, Segmentation.version > segmentation.version
    )


def _present_in(series_ref: int) -> Select[str]:
    """Return the query for a result of the series that is neither deleted nor missing in the archive."""
    present = Segmentation.deleted_at.is_(None), Segmentation.missing_since.is_(None)
    return select(Segmentation.id).where(Segmentation.series_ref == series_ref, *present).limit(1)


def _refuse_superseded(session: Session, segmentation: Segmentation) -> None:
    if session.scalar(_newer(segmentation)) is not None:
        raise SegmentationSuperseded(f"Segmentation {segmentation.id} has a newer version.")


def _refuse_overtaken(session: Session, correction: Correction, series_ref: int) -> None:
    """Raises: SegmentationSuperseded where a correction is not of the newest version, or a first version by
    hand is of a series that has a result.
    """
    if correction.corrects is not None:
        _refuse_superseded(session, locked(session, correction.corrects))
    elif session.scalar(_present_in(series_ref)) is not None:
        raise SegmentationSuperseded("The series has got a result while the segmentation was measured.")


def refuse_other_model(document: Mapping[str, Any], served: Sequence[Mapping[str, str]]) -> None:
    """Raises: UncertaintyUnavailable where none of the models served, {id, version, sha256}, made it."""
    model = document["model"]
    if model == BY_HAND:
        raise UncertaintyUnavailable(f"Segmentation {document['id']} was drawn by hand.")
    if model not in served:
        raise UncertaintyUnavailable(
            f"Segmentation {document['id']} was made by {model['id']} {model['version']} (weights "
            f"{model['sha256'][:12]}), which is not served any more."
        )


def find_equal(sessions: sessionmaker[Session], idempotency_key: str) -> str | None:
    """Id of the newest segmentation with that key that is neither deleted nor missing in the archive."""
    with reading(sessions) as session:
        return session.scalar(_equal(idempotency_key))


def adopt(
    sessions: sessionmaker[Session],
    job_id: str,
    owner: str,
    segmentation_id: str,
    source: Source | None = None,
) -> None:
    """Give a running job an existing result, and its rows what the images' headers say now.

    source: of the images, where the job has fetched them. Raises: LeaseLost, JobNotFound,
    SegmentationNotFound, IdentityConflict.
    """
    with writing(sessions) as session:
        job = jobs.owned(session, job_id, owner)
        job.segmentation_id = locked(session, segmentation_id).id
        if source is not None:
            upsert_source(session, source, job.requested_by)


def document(sessions: sessionmaker[Session], segmentation_id: str) -> dict[str, Any]:
    """The segmentation as the API gives it (docs/api.md). Raises: SegmentationNotFound, also when deleted."""
    with reading_rows(sessions) as connection:
        found = documents(connection, ONE, {"id": segmentation_id})
    if not found:
        raise SegmentationNotFound(f"There is no segmentation {segmentation_id}.")
    return found[0]


def segmentations_of_study(sessions: sessionmaker[Session], study_instance_uid: str) -> list[dict[str, Any]]:
    """Documents, newest first; none for a study never segmented (the archive knows the others)."""
    with reading_rows(sessions) as connection:
        return documents(connection, OF_STUDY, {"study_instance_uid": study_instance_uid})


def patients(sessions: sessionmaker[Session]) -> list[dict[str, Any]]:
    """Patients with a segmentation: patient_id, issuer, name, birth_date, sex, studies (how many),
    last_study_date. Dates are ISO 8601 or None; sorted by patient_id.
    """
    with reading_rows(sessions) as connection:
        found = connection.execute(PATIENTS).all()
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
        for patient_id, issuer, name, birth_date, sex, studies, last_study_date in found
    ]


def segmented_studies(sessions: sessionmaker[Session], patient_id: str | None = None) -> list[dict[str, Any]]:
    """Return the studies with a segmentation, all or a patient's: study_instance_uid, study_date, by date.

    Dates are ISO 8601 or None. Empty for a patient never segmented.
    Raises: InvalidForm where several issuers use this patient_id.
    """
    query = (
        select(Study.patient_ref, Study.study_instance_uid, Study.study_date)
        .join(Study.patient)
        .join(Series, Series.study_ref == Study.id)
        .join(Segmentation, Segmentation.series_ref == Series.id)
        .where(Segmentation.deleted_at.is_(None))
        .distinct()
        .order_by(Study.study_date.asc().nulls_last(), Study.study_instance_uid)
    )
    if patient_id is not None:
        query = query.where(Patient.patient_id == patient_id)
    with reading_rows(sessions) as connection:
        found = connection.execute(query).all()
    issuers = len({row.patient_ref for row in found})
    if patient_id is not None and issuers > 1:
        raise InvalidForm(f"{issuers} issuers use this patient identifier.")
    return [
        {
            "study_instance_uid": row.study_instance_uid,
            "study_date": row.study_date and row.study_date.isoformat(),
        }
        for row in found
    ]


def segmented_series(
    sessions: sessionmaker[Session], study_instance_uid: str | None = None
) -> list[dict[str, str]]:
    """Return the series with a segmentation, all or a study's: series_instance_uid, study_instance_uid."""
    query = (
        select(Series.series_instance_uid, Study.study_instance_uid)
        .join(Study, Study.id == Series.study_ref)
        .where(Series.id.in_(select(Segmentation.series_ref).where(Segmentation.deleted_at.is_(None))))
        .order_by(Study.id, Series.id)
    )
    if study_instance_uid is not None:
        query = query.where(Study.study_instance_uid == study_instance_uid)
    with reading_rows(sessions) as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def lesions_of_series(
    sessions: sessionmaker[Session], series_instance_uid: str | None = None
) -> list[dict[str, Any]]:
    """Return the lesions of a series' result (``newest``), or of each series'; each has its colour too.

    Raises: InvalidForm where several studies have such a series.
    """
    query = SEGMENTATIONS.where(
        _is_newest_version(present=True), Segmentation.missing_since.is_(None)
    ).order_by(*_preference(Segmentation))
    if series_instance_uid is not None:
        query = query.where(Series.series_instance_uid == series_instance_uid)
    newest_lesions: dict[tuple[str, str], Sequence[Any]] = {}
    with reading_rows(sessions) as connection:
        for segmentation, lesions in fetch(connection, query, {}):
            uids = segmentation.study_instance_uid, segmentation.source_series_instance_uid
            newest_lesions.setdefault(uids, lesions)
    if series_instance_uid is not None and len(newest_lesions) > 1:
        raise InvalidForm(f"{len(newest_lesions)} studies have a series {series_instance_uid}.")
    return [lesion_of(row) | {"colour": row.colour} for rows in newest_lesions.values() for row in rows]


def place_of_object(sessions: sessionmaker[Session], sop_instance_uid: str) -> tuple[str, str] | None:
    """Return the UIDs of the study and series of a SEG or companion; None: MetScope did not make it."""
    seg = Segmentation.sop_instance_uid == sop_instance_uid
    companion = Companion.sop_instance_uid == sop_instance_uid
    query = (
        select(
            Study.study_instance_uid,
            case((seg, Segmentation.series_instance_uid), else_=Companion.series_instance_uid),
        )
        .select_from(Segmentation)
        .join(Series, Series.id == Segmentation.series_ref)
        .join(Study, Study.id == Series.study_ref)
        .outerjoin(Companion, and_(Companion.segmentation_ref == Segmentation.id, companion))
        .where(Segmentation.deleted_at.is_(None), or_(seg, companion))
    )
    with reading_rows(sessions) as connection:
        row = connection.execute(query).first()
    return row and (row[0], row[1])


def lesions_of_patient(
    sessions: sessionmaker[Session], patient_id: str, issuer: str | None = None
) -> list[dict[str, Any]]:
    """The patient's lesions by study date and time (undated studies last), then by number.

    Each as in the document, and colour, study_instance_uid, study_date, series_instance_uid,
    series_description, segmentation_id, model_id. One result counts per series: what a person corrected or
    drew, else the newest, of whatever model.
    issuer: needed only where several issuers use this patient_id.
    Raises: PatientNotFound; InvalidForm when the issuer is needed.
    """
    known = select(Patient.id).where(Patient.patient_id == patient_id)
    if issuer is not None:
        known = known.where(Patient.issuer == issuer)
    with reading_rows(sessions) as connection:
        refs = connection.scalars(known).all()
        if not refs:
            raise PatientNotFound("No patient with this identifier has been segmented.")
        if len(refs) > 1:
            raise InvalidForm(f"issuer: {len(refs)} issuers use this patient identifier; name one.")
        query = SEGMENTATIONS.where(Study.patient_ref == refs[0], _is_result_of_its_series()).order_by(
            Study.study_date.asc().nulls_last(),
            Study.study_time.asc().nulls_last(),
            Segmentation.created_at,
        )
        found = fetch(connection, query, {})
    return [
        lesion_of(row) | place_of(segmentation) | {"colour": row.colour}
        for segmentation, lesions in found
        for row in lesions
    ]


def delete_segmentation(sessions: sessionmaker[Session], segmentation_id: str, actor: str | None) -> None:
    """Mark it deleted, so that nothing lists it any more, and note who did. Raises: SegmentationNotFound."""
    with writing(sessions) as session:
        mark_deleted(session, locked(session, segmentation_id), actor)


def mark_deleted(session: Session, segmentation: Segmentation, actor: str | None) -> None:
    """``delete_segmentation`` of a locked one."""
    segmentation.deleted_at = current_time(session)
    session.execute(delete(Outbox).where(Outbox.segmentation_ref == segmentation.id))
    uid = segmentation.sop_instance_uid
    audit.note(session, actor, "segmentation.delete", segmentation.id, sop_instance_uid=uid)


def _lesion_row(lesion: Lesion, given_colour: str | None, now: datetime) -> tables.Lesion:
    fields = lesion.to_dict()
    return tables.Lesion(
        **{name: fields[name] for name in IDENTITY},
        colour=given_colour or colour(lesion.number).hex,
        measurements=[tables.Measurement(**{name: fields[name] for name in MEASURED}, created_at=now)],
    )


def locked(session: Session, segmentation_id: str) -> Segmentation:
    """The segmentation, locked until the transaction ends.

    Raises: SegmentationNotFound, also when it is deleted.
    """
    return _found(session.get(Segmentation, segmentation_id, with_for_update=True), segmentation_id)


def _found(segmentation: Segmentation | None, segmentation_id: str) -> Segmentation:
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


def _is_newest_version(
    of: type[Segmentation] = Segmentation, *, present: bool = False
) -> ColumnElement[bool]:
    """Return the condition that there is no newer version. present: none that the archive has, either."""
    other = aliased(Segmentation)
    newest = select(func.max(other.version)).where(
        other.series_ref == of.series_ref,
        other.model_id == of.model_id,
        other.deleted_at.is_(None),
    )
    if present:
        newest = newest.where(other.missing_since.is_(None))
    return of.version == newest.scalar_subquery()


def _is_result_of_its_series() -> ColumnElement[bool]:
    """Return the condition that it is what its series counts as, of all results of whatever model."""
    other = aliased(Segmentation)
    first = (
        select(other.id)
        .where(
            other.series_ref == Segmentation.series_ref,
            other.deleted_at.is_(None),
            _is_newest_version(other),
        )
        .order_by(*_preference(other))
        .limit(1)
    )
    return Segmentation.id == first.scalar_subquery()


def _preference(of: type[Segmentation]) -> tuple[ColumnElement[Any], ...]:
    """Return the order in which results count: what a person corrected or drew first, then the newest."""
    by_a_person = of.corrects.is_not(None) | of.corrected_by.is_not(None)
    return by_a_person.desc(), of.created_at.desc(), of.version.desc()
