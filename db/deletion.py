"""Deletion of segmentations and studies, from the archive and from the records, so that no job restores them.

A segmentation is marked deleted before its objects are deleted, and a study is entered as being deleted: from
then on no job records anything of it. If the archive fails, the mark is taken back, but not once an object
of the segmentation is gone: its document would claim what the archive no longer has. Where the mark is left,
also by a process that dies in between, the same request completes the deletion.
"""

from dataclasses import dataclass

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session, sessionmaker

from db import audit, jobs, segmentations
from db.database import current_time, insert_for, writing
from db.tables import ACTIVE_STATES, Companion, Job, Outbox, Segmentation, Series, Study, StudyDeletion
from errors import SegmentationNotFound, SegmentationNotStored, StudyNotFound


@dataclass(frozen=True)
class StoredObjects:
    """The objects of a segmentation in the archive: the SEG, then its companions.

    may_be_gone: whether an earlier request marked the segmentation and may have deleted some of them.
    """

    study_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    may_be_gone: bool


def begin(sessions: sessionmaker[Session], segmentation_id: str, actor: str | None) -> StoredObjects:
    """Mark a segmentation deleted and return the objects to delete in the archive.

    Raises: SegmentationNotFound; SegmentationNotStored if one of its objects still waits for the archive.
    """
    with writing(sessions) as session:
        segmentation = session.get(Segmentation, segmentation_id, with_for_update=True)
        if segmentation is None or (segmentation.deleted_at and not _is_stored(session, segmentation)):
            raise SegmentationNotFound(f"There is no segmentation {segmentation_id}.")
        if session.scalar(select(exists().where(Outbox.segmentation_ref == segmentation_id))):
            raise SegmentationNotStored(f"Segmentation {segmentation_id} is still waiting for the archive.")
        may_be_gone = segmentation.deleted_at is not None
        if not may_be_gone:
            segmentations.mark_deleted(session, segmentation, actor)
        companions = select(Companion.sop_instance_uid).where(Companion.segmentation_ref == segmentation_id)
        uids = (segmentation.sop_instance_uid, *session.scalars(companions))
        study_uid = segmentation.series.study.study_instance_uid
        return StoredObjects(study_uid, tuple(filter(None, uids)), may_be_gone)


def finish(sessions: sessionmaker[Session], segmentation_id: str) -> None:
    """Record that the archive has no object of a deleted segmentation left."""
    segmentation = update(Segmentation).where(Segmentation.id == segmentation_id)
    companions = update(Companion).where(Companion.segmentation_ref == segmentation_id)
    with writing(sessions) as session:
        session.execute(segmentation.values(deleted_at=current_time(session), stored_at=None))
        session.execute(companions.values(stored_at=None))


def _is_stored(session: Session, segmentation: Segmentation) -> bool:
    """Return whether the archive has its SEG or a companion; without lesions there are only companions."""
    companion = exists().where(
        Companion.segmentation_ref == segmentation.id, Companion.stored_at.is_not(None)
    )
    return segmentation.stored_at is not None or bool(session.scalar(select(companion)))


def undo(sessions: sessionmaker[Session], segmentation_id: str, actor: str | None) -> None:
    """Take the mark back, because the archive deleted no object of the segmentation."""
    with writing(sessions) as session:
        session.get_one(Segmentation, segmentation_id, with_for_update=True).deleted_at = None
        audit.note(session, actor, "segmentation.restore", segmentation_id)


def begin_study(sessions: sessionmaker[Session], study_instance_uid: str, actor: str | None) -> None:
    """Enter a study as being deleted.

    Raises: SegmentationNotStored if one of its jobs is active, or an object of it waits for the archive.
    """
    with writing(sessions) as session:
        entry = insert_for(session, StudyDeletion).values(
            study_instance_uid=study_instance_uid, requested_by=actor, created_at=current_time(session)
        )
        session.execute(entry.on_conflict_do_nothing())
        # Waits for a job whose result is being recorded: its row is locked.
        active = session.scalars(_active(study_instance_uid).with_for_update()).first()
        if active is not None:
            raise SegmentationNotStored(f"Job {active.id} of the study is {active.state}.")
        waiting = session.scalar(
            select(Outbox.segmentation_ref)
            .join(Segmentation, Segmentation.id == Outbox.segmentation_ref)
            .join(Segmentation.series)
            .join(Series.study)
            .where(Study.study_instance_uid == study_instance_uid)
            .limit(1)
        )
        if waiting is not None:
            raise SegmentationNotStored(f"Segmentation {waiting} is still waiting for the archive.")


def finish_study(sessions: sessionmaker[Session], study_instance_uid: str, actor: str | None) -> None:
    """Mark the segmentations of a study deleted, and end the jobs that may have read its images."""
    deleted = StudyNotFound(f"Study {study_instance_uid} was deleted while the job ran.")
    recorded = (
        select(Segmentation)
        .join(Segmentation.series)
        .join(Series.study)
        .where(Study.study_instance_uid == study_instance_uid, Segmentation.deleted_at.is_(None))
        .with_for_update(of=Segmentation)
    )
    with writing(sessions) as session:
        for job in session.scalars(_active(study_instance_uid).with_for_update()):
            jobs.end_as_failed(session, job, deleted)
        for segmentation in session.scalars(recorded):
            segmentations.mark_deleted(session, segmentation, actor)
            segmentation.stored_at = None
        _forget(session, study_instance_uid)
        audit.note(session, actor, "study.delete", study_instance_uid)


def undo_study(sessions: sessionmaker[Session], study_instance_uid: str) -> None:
    """Take the entry back, because the archive did not delete the study."""
    with writing(sessions) as session:
        _forget(session, study_instance_uid)


def _active(study_instance_uid: str) -> Select[Job]:
    return (
        select(Job)
        .where(Job.study_instance_uid == study_instance_uid, Job.state.in_(ACTIVE_STATES))
        .order_by(Job.id)
    )


def _forget(session: Session, study_instance_uid: str) -> None:
    if (entry := session.get(StudyDeletion, study_instance_uid)) is not None:
        session.delete(entry)
