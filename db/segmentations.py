"""Recorded segmentations: their newest versions, their documents for the API, and their deletion."""

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from sqlalchemy import ColumnElement, Select, and_, bindparam, case, delete, func, or_, select
from sqlalchemy.orm import Session, aliased, sessionmaker

from db import audit, tables
from db.database import current_time, reading, reading_rows, writing
from db.documents import SEGMENTATIONS, documents, fetch, lesion_in_place
from db.source import Source, header_of
from db.tables import Companion, Outbox, Segmentation, Series, Study
from errors import (
    InvalidForm,
    SegmentationMismatch,
    SegmentationNotFound,
    SegmentationSuperseded,
    UncertaintyUnavailable,
)
from schemas.results import ModelReference, PatientLesion, SegmentationAnswer

# Stands for the model of a segmentation that was drawn by hand, not by correcting a model's.
BY_HAND = ModelReference(id="by-hand", version="", sha256="")
DOCUMENT_BY_ID = SEGMENTATIONS.where(Segmentation.id == bindparam("id"))
DOCUMENTS_OF_STUDY = SEGMENTATIONS.where(
    Study.study_instance_uid == bindparam("study_instance_uid")
).order_by(Segmentation.created_at.desc(), Segmentation.version.desc())


def current_result(
    sessions: sessionmaker[Session], study_instance_uid: str, series_instance_uid: str
) -> str | None:
    """Return the id of the series' result, by ``is_current_result``; None if the series has none."""
    query = (
        select(Segmentation.id)
        .join(Segmentation.series)
        .join(Series.study)
        .where(Study.study_instance_uid == study_instance_uid)
        .where(Series.series_instance_uid == series_instance_uid, is_current_result())
    )
    with reading(sessions) as session:
        return session.scalar(query)


def newest_version(sessions: sessionmaker[Session], segmentation_id: str) -> str:
    """Return the id of the newest version of a segmentation: its own if there is no newer one.

    Raises: SegmentationNotFound.
    """
    with reading(sessions) as session:
        segmentation = _require_found(session.get(Segmentation, segmentation_id), segmentation_id)
        return (
            session.scalar(_newer_versions(segmentation).order_by(Segmentation.version.desc()))
            or segmentation_id
        )


def of_seg(sessions: sessionmaker[Session], study_instance_uid: str, sop_instance_uid: str) -> str | None:
    """Return the id of the study's segmentation that the SEG shows; None if MetScope did not create it."""
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
    """Return the colours of the segmentation's lesions, #rrggbb by number."""
    query = select(tables.LesionRow.number, tables.LesionRow.colour).where(
        tables.LesionRow.segmentation_ref == segmentation_id
    )
    with reading(sessions) as session:
        return {row.number: row.colour for row in session.execute(query)}


def key(sessions: sessionmaker[Session], segmentation_id: str) -> str:
    """Return the segmentation's idempotency key. Raises: SegmentationNotFound."""
    with reading(sessions) as session:
        return _require_found(session.get(Segmentation, segmentation_id), segmentation_id).idempotency_key


def check_images(sessions: sessionmaker[Session], segmentation_id: str, source: Source) -> None:
    """Raise SegmentationMismatch if the series' images were replaced after they were segmented.

    Rows from before migration 0008 are not checked: they have no digest. Raises: SegmentationNotFound.
    """
    with reading(sessions) as session:
        recorded = _require_found(session.get(Segmentation, segmentation_id), segmentation_id).content_sha256
    if recorded is not None and recorded != source.content_sha256:
        raise SegmentationMismatch(
            f"The archive's images of series {source.series_instance_uid} have changed since "
            f"segmentation {segmentation_id} was created. Segment the series again."
        )


def patient(sessions: sessionmaker[Session], segmentation_id: str) -> Dataset:
    """Return the segmentation's recorded patient, as header elements. Raises: SegmentationNotFound."""
    with reading(sessions) as session:
        segmentation = _require_found(session.get(Segmentation, segmentation_id), segmentation_id)
        return header_of(segmentation.series.study.patient)


def require_newest_version(sessions: sessionmaker[Session], segmentation_id: str) -> None:
    """Check that there is no newer version. Raises: SegmentationSuperseded, SegmentationNotFound."""
    with reading(sessions) as session:
        require_not_superseded(
            session, _require_found(session.get(Segmentation, segmentation_id), segmentation_id)
        )


def _newer_versions(segmentation: Segmentation) -> Select[str]:
    return select_available_results(segmentation.series_ref).where(
        Segmentation.model_id == segmentation.model_id, Segmentation.version > segmentation.version
    )


def select_available_results(series_ref: int) -> Select[str]:
    """Return the query for any result of the series that is neither deleted nor missing in the archive."""
    conditions = Segmentation.deleted_at.is_(None), Segmentation.missing_since.is_(None)
    return select(Segmentation.id).where(Segmentation.series_ref == series_ref, *conditions).limit(1)


def require_not_superseded(session: Session, segmentation: Segmentation) -> None:
    if session.scalar(_newer_versions(segmentation)) is not None:
        raise SegmentationSuperseded(f"Segmentation {segmentation.id} has a newer version.")


def require_served_model(document: SegmentationAnswer, served: Sequence[ModelReference]) -> None:
    """Check that one of the served models made the document. Raises: UncertaintyUnavailable."""
    model = document.model
    if model == BY_HAND:
        raise UncertaintyUnavailable(f"Segmentation {document.id} was drawn by hand.")
    if model not in served:
        raise UncertaintyUnavailable(
            f"Segmentation {document.id} was created by {model.id} {model.version} (weights "
            f"{model.sha256[:12]}), which is no longer served."
        )


def find_equal(sessions: sessionmaker[Session], idempotency_key: str) -> str | None:
    """Return the id of the newest segmentation with that key, neither deleted nor missing in the archive."""
    with reading(sessions) as session:
        return session.scalar(equal_to(idempotency_key))


def document(sessions: sessionmaker[Session], segmentation_id: str) -> SegmentationAnswer:
    """Return the segmentation's document. Raises: SegmentationNotFound, also if deleted."""
    with reading_rows(sessions) as connection:
        answers = documents(connection, DOCUMENT_BY_ID, {"id": segmentation_id})
    if not answers:
        raise SegmentationNotFound(f"There is no segmentation {segmentation_id}.")
    return answers[0]


def segmentations_of_study(
    sessions: sessionmaker[Session], study_instance_uid: str
) -> list[SegmentationAnswer]:
    """Return the documents, newest first; empty for a study without results, or one that does not exist."""
    with reading_rows(sessions) as connection:
        return documents(connection, DOCUMENTS_OF_STUDY, {"study_instance_uid": study_instance_uid})


def lesions_of_series(
    sessions: sessionmaker[Session], series_instance_uid: str | None = None
) -> list[PatientLesion]:
    """Return the lesions of the series' result, or of every series', by ``is_current_result``.

    Raises: InvalidForm if several studies have a series with this UID.
    """
    query = SEGMENTATIONS.where(is_current_result()).order_by(*_preference(Segmentation))
    if series_instance_uid is not None:
        query = query.where(Series.series_instance_uid == series_instance_uid)
    with reading_rows(sessions) as connection:
        results = fetch(connection, query, {})
    if series_instance_uid is not None and len(results) > 1:
        raise InvalidForm(f"{len(results)} studies have a series {series_instance_uid}.")
    return [lesion_in_place(lesion, segmentation) for segmentation, lesions in results for lesion in lesions]


def uids_of_object(sessions: sessionmaker[Session], sop_instance_uid: str) -> tuple[str, str] | None:
    """Return the study and series UIDs of a SEG or companion; None if MetScope did not create it."""
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


def delete_segmentation(sessions: sessionmaker[Session], segmentation_id: str, actor: str | None) -> None:
    """Mark it deleted, so that it is no longer listed, and note the actor. Raises: SegmentationNotFound."""
    with writing(sessions) as session:
        mark_deleted(session, locked(session, segmentation_id), actor)


def mark_deleted(session: Session, segmentation: Segmentation, actor: str | None) -> None:
    """Do ``delete_segmentation`` for a locked segmentation."""
    segmentation.deleted_at = current_time(session)
    session.execute(delete(Outbox).where(Outbox.segmentation_ref == segmentation.id))
    uid = segmentation.sop_instance_uid
    audit.note(session, actor, "segmentation.delete", segmentation.id, sop_instance_uid=uid)


def locked(session: Session, segmentation_id: str) -> Segmentation:
    """Return the segmentation, locked until the transaction ends.

    Raises: SegmentationNotFound, also if it is deleted.
    """
    return _require_found(session.get(Segmentation, segmentation_id, with_for_update=True), segmentation_id)


def _require_found(segmentation: Segmentation | None, segmentation_id: str) -> Segmentation:
    if segmentation is None or segmentation.deleted_at is not None:
        raise SegmentationNotFound(f"There is no segmentation {segmentation_id}.")
    return segmentation


def equal_to(idempotency_key: str) -> Select[str]:
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


def _is_newest_version(of: type[Segmentation]) -> ColumnElement[bool]:
    """Return the condition that no newer version exists, apart from those missing in the archive."""
    other = aliased(Segmentation)
    newest = select(func.max(other.version)).where(
        other.series_ref == of.series_ref,
        other.model_id == of.model_id,
        other.deleted_at.is_(None),
        other.missing_since.is_(None),
    )
    return of.version == newest.scalar_subquery()


def is_current_result() -> ColumnElement[bool]:
    """Return the condition that it is the result of its series: the last that a person corrected or drew,
    otherwise the newest.

    Only the newest version of each model counts, and none that is missing in the archive.
    """
    other = aliased(Segmentation)
    result = (
        select(other.id)
        .where(
            other.series_ref == Segmentation.series_ref,
            other.deleted_at.is_(None),
            other.missing_since.is_(None),
            _is_newest_version(other),
        )
        .order_by(*_preference(other))
        .limit(1)
    )
    return Segmentation.id == result.scalar_subquery()


def _preference(of: type[Segmentation]) -> tuple[ColumnElement[Any], ...]:
    """Return the order of precedence: results that a person corrected or drew first, then the newest."""
    by_a_person = of.corrects.is_not(None) | of.corrected_by.is_not(None)
    return by_a_person.desc(), of.created_at.desc(), of.version.desc()
