"""Objects that wait for the archive, and the presence there of the SEGs that were stored."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import current_time, reading, writing
from db.segmentations import locked
from db.tables import Companion, Outbox, Segmentation, Series, Study


@dataclass(frozen=True)
class StoredSeg:
    """A SEG that the archive has confirmed."""

    segmentation_id: str
    study_instance_uid: str
    sop_instance_uid: str


def pending(sessions: sessionmaker[Session], segmentation_id: str) -> dict[str, bytes]:
    """Return the segmentation's DICOM files that the archive has not confirmed, by UID, the SEG first."""
    waiting = (
        select(Outbox.sop_instance_uid, Outbox.encoded)
        .outerjoin(Companion, Companion.sop_instance_uid == Outbox.sop_instance_uid)
        .where(Outbox.segmentation_ref == segmentation_id)
        .order_by(Companion.modality.is_not(None), Companion.modality.desc())
    )
    with reading(sessions) as session:
        return {row.sop_instance_uid: row.encoded for row in session.execute(waiting)}


def count(session: Session) -> int:
    """Return the number of objects that wait for the archive."""
    return session.scalar(select(func.count()).select_from(Outbox)) or 0


def mark_stored(sessions: sessionmaker[Session], segmentation_id: str, uids: Collection[str]) -> None:
    """Record that the archive confirmed the objects with these SOP Instance UIDs; they leave the outbox.

    Raises: SegmentationNotFound.
    """
    with writing(sessions) as session:
        now = current_time(session)
        segmentation = locked(session, segmentation_id)
        if segmentation.sop_instance_uid in uids:
            segmentation.stored_at = segmentation.stored_at or now
        companions = Companion.sop_instance_uid.in_(uids), Companion.stored_at.is_(None)
        session.execute(update(Companion).where(*companions).values(stored_at=now))
        session.execute(delete(Outbox).where(Outbox.sop_instance_uid.in_(uids)))


def give_up(sessions: sessionmaker[Session], segmentation_id: str, uid: str, attempts: int) -> bool:
    """Drop a companion after that many failed attempts to store it; False: too few yet, or it is the SEG.

    Raises: SegmentationNotFound.
    """
    with writing(sessions) as session:
        segmentation = locked(session, segmentation_id)
        companion = session.get(Companion, uid)
        if companion is None or segmentation.store_attempts + 1 < attempts:
            return False
        session.execute(delete(Outbox).where(Outbox.sop_instance_uid == uid))
        session.delete(companion)
        audit.note(session, None, "companion.refused", segmentation_id, modality=companion.modality)
        return True


def store_failed(sessions: sessionmaker[Session], segmentation_id: str) -> int:
    """Count a failed attempt to store and return their number. Raises: SegmentationNotFound."""
    with writing(sessions) as session:
        segmentation = locked(session, segmentation_id)
        segmentation.store_attempts += 1
        return segmentation.store_attempts


def stored(sessions: sessionmaker[Session], segmentation_id: str) -> StoredSeg | None:
    """Return the segmentation's SEG in the archive; None if it has no SEG, or the SEG still waits."""
    with reading(sessions) as session:
        row = session.execute(_stored_segs().where(Segmentation.id == segmentation_id)).one_or_none()
        return _stored_seg(row) if row is not None else None


def not_checked_since(sessions: sessionmaker[Session], time: datetime, limit: int) -> list[StoredSeg]:
    """Return stored SEGs that the archive was last asked about before that time, oldest first."""
    last_check = func.coalesce(Segmentation.checked_at, Segmentation.stored_at)
    with reading(sessions) as session:
        query = _stored_segs().where(last_check < time).order_by(last_check).limit(limit)
        return [_stored_seg(row) for row in session.execute(query)]


def _stored_segs() -> Select[str, str, str | None]:
    return (
        select(Segmentation.id, Study.study_instance_uid, Segmentation.sop_instance_uid)
        .join(Segmentation.series)
        .join(Series.study)
        .where(Segmentation.stored_at.is_not(None), Segmentation.deleted_at.is_(None))
        .where(Segmentation.sop_instance_uid.is_not(None))
    )


def _stored_seg(row: Row[str, str, str | None]) -> StoredSeg:
    segmentation_id, study_instance_uid, sop_instance_uid = row
    return StoredSeg(segmentation_id, study_instance_uid, str(sop_instance_uid))


def note_presence(sessions: sessionmaker[Session], segmentation_id: str, present: bool | None) -> None:
    """Record whether the archive still has a stored SEG; None: it could not say.

    Raises: SegmentationNotFound.
    """
    with writing(sessions) as session:
        now = current_time(session)
        segmentation = locked(session, segmentation_id)
        segmentation.checked_at = now
        if present:
            segmentation.missing_since = None
        elif present is False and segmentation.missing_since is None:
            segmentation.missing_since = now
            audit.note(session, None, "segmentation.missing", segmentation_id)


def count_missing(session: Session) -> int:
    """Return the number of stored SEGs that the archive has lost or was told to delete."""
    missing = select(func.count()).where(
        Segmentation.missing_since.is_not(None), Segmentation.deleted_at.is_(None)
    )
    return session.scalar(missing) or 0
