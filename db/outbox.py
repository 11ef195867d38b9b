"""SEG objects on their way into the archive, and whether those that arrived are still there."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Row, Select, delete, func, select
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import reading, writing
from db.measurements import locked
from db.tables import Outbox, Segmentation, Series, Study


@dataclass(frozen=True)
class Stored:
    """A SEG that the archive has confirmed."""

    segmentation_id: str
    study_instance_uid: str
    sop_instance_uid: str


def pending(sessions: sessionmaker[Session], segmentation_id: str) -> bytes | None:
    """The segmentation's SEG, a DICOM file; None where the archive has it, or there is none."""
    with reading(sessions) as session:
        return session.scalar(select(Outbox.encoded).where(Outbox.segmentation_ref == segmentation_id))


def count(session: Session) -> int:
    """How many SEG objects wait."""
    return session.scalar(select(func.count()).select_from(Outbox)) or 0


def mark_stored(sessions: sessionmaker[Session], segmentation_id: str) -> None:
    """The archive has confirmed the SEG: it leaves the outbox. Raises: SegmentationNotFound."""
    with writing(sessions) as session:
        segmentation = locked(session, segmentation_id)
        segmentation.stored_at = segmentation.stored_at or datetime.now(UTC)
        session.execute(delete(Outbox).where(Outbox.segmentation_ref == segmentation_id))


def store_failed(sessions: sessionmaker[Session], segmentation_id: str) -> int:
    """Count a failed attempt to store; how many there are now. Raises: SegmentationNotFound."""
    with writing(sessions) as session:
        segmentation = locked(session, segmentation_id)
        segmentation.store_attempts += 1
        return segmentation.store_attempts


def stored(sessions: sessionmaker[Session], segmentation_id: str) -> Stored | None:
    """The segmentation's SEG in the archive; None where it has none, or it waits."""
    with reading(sessions) as session:
        row = session.execute(_stored().where(Segmentation.id == segmentation_id)).one_or_none()
        return _of(row) if row is not None else None


def not_checked_since(sessions: sessionmaker[Session], then: datetime, limit: int) -> list[Stored]:
    """Stored segmentations whose presence in the archive was last confirmed before that, oldest first."""
    last = func.coalesce(Segmentation.checked_at, Segmentation.stored_at)
    with reading(sessions) as session:
        return [_of(row) for row in session.execute(_stored().where(last < then).order_by(last).limit(limit))]


def _stored() -> Select[str, str, str | None]:
    return (
        select(Segmentation.id, Study.study_instance_uid, Segmentation.sop_instance_uid)
        .join(Segmentation.series)
        .join(Series.study)
        .where(Segmentation.stored_at.is_not(None), Segmentation.deleted_at.is_(None))
        .where(Segmentation.sop_instance_uid.is_not(None))
    )


def _of(row: Row[str, str, str | None]) -> Stored:
    segmentation_id, study_instance_uid, sop_instance_uid = row
    return Stored(segmentation_id, study_instance_uid, str(sop_instance_uid))


def note_presence(sessions: sessionmaker[Session], segmentation_id: str, present: bool) -> None:
    """What the archive answered when it was asked for a stored SEG. Raises: SegmentationNotFound."""
    now = datetime.now(UTC)
    with writing(sessions) as session:
        segmentation = locked(session, segmentation_id)
        segmentation.checked_at = now
        if present:
            segmentation.missing_since = None
        elif segmentation.missing_since is None:
            segmentation.missing_since = now
            audit.note(session, None, "segmentation.missing", segmentation_id)


def count_missing(session: Session) -> int:
    """How many stored SEG objects the archive has lost or was told to delete."""
    missing = select(func.count()).where(
        Segmentation.missing_since.is_not(None), Segmentation.deleted_at.is_(None)
    )
    return session.scalar(missing) or 0
