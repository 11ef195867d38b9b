"""Recording of a result in one transaction: its rows, its objects for the archive, its job."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from db import audit, jobs, tables
from db.database import current_time, writing
from db.documents import IDENTITY, MEASURED
from db.numbering import Numbering, NumberingOutdated, numbering_in
from db.segmentations import equal_to, locked, require_not_superseded, select_available_results
from db.source import Source, require_kept, upsert_source
from db.tables import Companion, Outbox, Segmentation
from errors import JobCancelled, SegmentationSuperseded
from imaging.seg import colour
from lesions.measure import Lesion
from schemas.results import ChangeAnswer, LesionAnswer


@dataclass(frozen=True)
class NewObject:
    """A DICOM object to store in the archive. encoded: the file."""

    modality: str
    sop_instance_uid: str
    series_instance_uid: str
    encoded: bytes


@dataclass(frozen=True)
class Correction:
    """A person's changes from one segmentation to the next.

    corrects: the segmentation before; None: the series had no result. restores: the older version whose
    lesions it takes over.
    """

    corrects: str | None
    corrected_by: str | None
    changes: Sequence[ChangeAnswer]
    restores: str | None = None


@dataclass(frozen=True)
class NewSegmentation:
    """A finished run, ready to be recorded.

    reasons: why that series was chosen. timings_s: seconds per stage.
    seg: None without lesions. companions: objects stored with the SEG, or instead of it.
    idempotency_key: equal for equal images and model.
    colours: #rrggbb by number, for lesions that do not have the colour of their number.
    correction: None for a run of a model.
    numbering: the source of its version, series numbers and tracking identifiers; None: not needed.
    """

    source: Source
    model_id: str
    model_version: str
    model_sha256: str
    reasons: Sequence[str]
    warnings: Sequence[str]
    lesions: Sequence[Lesion]
    seg: NewObject | None
    idempotency_key: str
    timings_s: Mapping[str, float]
    peak_memory_mb: float | None
    software_version: str
    companions: Sequence[NewObject] = ()
    colours: Mapping[int, str] = field(default_factory=dict)
    correction: Correction | None = None
    numbering: Numbering | None = None


def record(
    sessions: sessionmaker[Session], new: NewSegmentation, job_id: str | None = None, owner: str = ""
) -> str:
    """Write all rows of the result, the outbox entries and the job's segmentation_id in one transaction.

    job_id: the job that the owner runs; None for a run without a job. A job without force adopts an equal
    result that another job has recorded meanwhile. Returns the segmentation's id.
    Raises: LeaseLost, JobNotFound, JobCancelled, StudyNotFound, IdentityConflict, NumberingOutdated;
    SegmentationSuperseded if the corrected segmentation has a newer version, or the series, which had no
    result, has one now.
    """
    with writing(sessions) as session:
        now = current_time(session)
        job = _uncancelled(session, job_id, owner) if job_id is not None else None
        series_ref = upsert_source(session, new.source, job.requested_by if job is not None else None)
        # The upsert locks the series' row, so no other transaction can record the same images meanwhile.
        correction = new.correction or Correction(None, None, ())
        if new.correction is None and job is not None and not job.force:
            # Locked at once: a result that is deleted meanwhile does not count as equal.
            equal = session.scalar(equal_to(new.idempotency_key).with_for_update())
            if equal is not None:
                job.segmentation_id = equal
                return equal
        elif new.correction is not None:
            _require_not_overtaken(session, new.correction, series_ref)
        # The upsert locks the patient's row too, so no other result can take these numbers.
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
            changes=[change.model_dump() for change in correction.changes],
            model_id=new.model_id,
            model_version=new.model_version,
            model_sha256=new.model_sha256,
            reasons=list(new.reasons),
            warnings=list(new.warnings),
            sop_instance_uid=new.seg and new.seg.sop_instance_uid,
            series_instance_uid=new.seg and new.seg.series_instance_uid,
            store_attempts=0,
            timings_s=dict(new.timings_s),
            peak_memory_mb=new.peak_memory_mb,
            software_version=new.software_version,
            created_at=now,
            lesions=[_lesion_row(lesion, new.colours.get(lesion.number), now) for lesion in new.lesions],
        )
        session.add(segmentation)
        session.flush()
        if new.seg is not None:
            _put_into_outbox(session, segmentation, new.seg)
        for companion in new.companions:
            _add_companion(session, segmentation, companion)
        _note_correction(session, correction, segmentation.id)
        if job is not None:
            job.segmentation_id = segmentation.id
        return segmentation.id


def add_companion(
    sessions: sessionmaker[Session],
    segmentation_id: str,
    new: NewObject,
    job_id: str,
    owner: str,
    lost: str | None = None,
) -> None:
    """Write a companion's row, its outbox entry and the job's segmentation_id in one transaction.

    lost: UID of the companion that the new one replaces, because the archive no longer has it. If another job
    has added a companion of the same modality meanwhile, that one stays the only one.
    Raises: LeaseLost, JobNotFound, JobCancelled, SegmentationNotFound, StudyNotFound.
    """
    with writing(sessions) as session:
        job = _uncancelled(session, job_id, owner)
        segmentation = locked(session, segmentation_id)
        require_kept(session, segmentation.series.study.study_instance_uid)
        query = select(Companion).where(
            Companion.segmentation_ref == segmentation_id, Companion.modality == new.modality
        )
        recorded = session.scalar(query)
        if recorded is not None and recorded.sop_instance_uid == lost:
            session.delete(recorded)
            recorded = None
        if recorded is None:
            _add_companion(session, segmentation, new)
            audit.note(session, job.requested_by, "companion.add", segmentation_id, modality=new.modality)
        job.segmentation_id = segmentation_id


def adopt(
    sessions: sessionmaker[Session],
    job_id: str,
    owner: str,
    segmentation_id: str,
    source: Source | None = None,
) -> None:
    """Give a running job an existing result, and update patient, study and series from the images' headers.

    source: of the images, if the job has fetched them. Raises: LeaseLost, JobNotFound, JobCancelled,
    SegmentationNotFound, StudyNotFound, IdentityConflict.
    """
    with writing(sessions) as session:
        job = _uncancelled(session, job_id, owner)
        job.segmentation_id = locked(session, segmentation_id).id
        if source is not None:
            upsert_source(session, source, job.requested_by)


def _uncancelled(session: Session, job_id: str, owner: str) -> tables.Job:
    """Return the owner's running job, locked until its result is recorded, unless it was cancelled.

    Raises: LeaseLost, JobNotFound, JobCancelled.
    """
    job = jobs.owned(session, job_id, owner)
    if job.cancel_requested:
        raise JobCancelled(f"Job {job.id} was cancelled before its result was recorded.")
    return job


def _note_correction(session: Session, correction: Correction, segmentation_id: str) -> None:
    if correction.corrected_by is None:
        return
    action = "segmentation.restore" if correction.restores else "segmentation.correct"
    details = {"restores": correction.restores} if correction.restores else {}
    changes = len(correction.changes)
    audit.note(session, correction.corrected_by, action, segmentation_id, changes=changes, **details)


def _require_not_overtaken(session: Session, correction: Correction, series_ref: int) -> None:
    """Raise SegmentationSuperseded if a newer version than the corrected one exists, or if a first version by
    hand is of a series that has a result.
    """
    if correction.corrects is not None:
        require_not_superseded(session, locked(session, correction.corrects))
    elif session.scalar(select_available_results(series_ref)) is not None:
        raise SegmentationSuperseded(
            "Another result of the series was recorded while the segmentation was being measured."
        )


def _add_companion(session: Session, segmentation: Segmentation, new: NewObject) -> None:
    session.add(
        Companion(
            sop_instance_uid=new.sop_instance_uid,
            segmentation_ref=segmentation.id,
            modality=new.modality,
            series_instance_uid=new.series_instance_uid,
        )
    )
    _put_into_outbox(session, segmentation, new)


def _put_into_outbox(session: Session, segmentation: Segmentation, new: NewObject) -> None:
    entry = Outbox(
        sop_instance_uid=new.sop_instance_uid, segmentation_ref=segmentation.id, encoded=new.encoded
    )
    session.add(entry)


def _lesion_row(lesion: Lesion, given_colour: str | None, now: datetime) -> tables.LesionRow:
    fields = LesionAnswer.of(lesion).model_dump()
    return tables.LesionRow(
        **{name: fields[name] for name in IDENTITY},
        colour=given_colour or colour(lesion.number).hex,
        measurements=[tables.Measurement(**{name: fields[name] for name in MEASURED}, created_at=now)],
    )
