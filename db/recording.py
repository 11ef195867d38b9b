"""A result goes into the database by one transaction: its rows, its objects for the archive, its job."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from db import audit, jobs, tables
from db.database import current_time, writing
from db.documents import IDENTITY, MEASURED
from db.numbering import Numbering, NumberingOutdated, numbering_in
from db.segmentations import equal_to, locked, present_in, refuse_newer
from db.source import Source, require_kept, upsert_source
from db.tables import Companion, Outbox, Segmentation
from errors import JobCancelled, SegmentationSuperseded
from imaging.seg import colour
from lesions.measure import Lesion


@dataclass(frozen=True)
class NewObject:
    """A DICOM object that goes into the archive. encoded: the file."""

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
    seg: None without lesions. companions: what is stored beside it, or in its place.
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
            equal = session.scalar(equal_to(new.idempotency_key).with_for_update())
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
        if correction.corrected_by is not None:
            action = "segmentation.restore" if correction.restores else "segmentation.correct"
            details = {"restores": correction.restores} if correction.restores else {}
            changes = len(correction.changes)
            audit.note(session, correction.corrected_by, action, segmentation.id, changes=changes, **details)
        if job is not None:
            job.segmentation_id = segmentation.id
        return segmentation.id


def add_companion(
    sessions: sessionmaker[Session], segmentation_id: str, new: NewObject, job_id: str, owner: str
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


def _refuse_overtaken(session: Session, correction: Correction, series_ref: int) -> None:
    """Raises: SegmentationSuperseded where a correction is not of the newest version, or a first version by
    hand is of a series that has a result.
    """
    if correction.corrects is not None:
        refuse_newer(session, locked(session, correction.corrects))
    elif session.scalar(present_in(series_ref)) is not None:
        raise SegmentationSuperseded("The series has got a result while the segmentation was measured.")


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


def _lesion_row(lesion: Lesion, given_colour: str | None, now: datetime) -> tables.Lesion:
    fields = lesion.to_dict()
    return tables.Lesion(
        **{name: fields[name] for name in IDENTITY},
        colour=given_colour or colour(lesion.number).hex,
        measurements=[tables.Measurement(**{name: fields[name] for name in MEASURED}, created_at=now)],
    )
