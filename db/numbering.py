"""The numbers of a patient's next result. They are free when they are chosen, and must still be free when the
result is recorded.
"""

from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, sessionmaker

from db.database import reading
from db.source import Source
from db.tables import LesionRow, Patient, Segmentation, Series, Study


class NumberingOutdated(Exception):
    """Raised when another result of the patient was recorded after the numbers were chosen: choose again."""


@dataclass(frozen=True)
class Numbering:
    """The numbers for a next result, and the tracking ids that it must not use for new lesions.

    version: of the next result of the series by the model. result_index: number of results that the study
    has had.
    tracking_ids: of every lesion in any result of the patient, by any model, in any version.
    """

    version: int = 1
    result_index: int = 0
    tracking_ids: frozenset[str] = frozenset()


def next_numbering(sessions: sessionmaker[Session], source: Source, model_id: str) -> Numbering:
    """Return the numbering for a result of the source that is not recorded yet."""
    with reading(sessions) as session:
        return numbering_in(session, source, model_id)


def numbering_in(session: Session, source: Source, model_id: str) -> Numbering:
    """Return the numbering in a transaction; nobody else takes the numbers if it locks the patient's row."""
    results = select(func.count(), func.max(Segmentation.version)).join(Segmentation.series)
    in_study = results.join(Series.study).where(Study.study_instance_uid == source.study_instance_uid)
    of_model = in_study.where(
        Series.series_instance_uid == source.series_instance_uid, Segmentation.model_id == model_id
    )
    # The study may still be recorded under the patient that it had before its PatientID was corrected.
    of_patient = and_(Patient.patient_id == source.patient_id, Patient.issuer == source.issuer)
    tracking_ids = (
        select(LesionRow.tracking_id)
        .join(Segmentation, Segmentation.id == LesionRow.segmentation_ref)
        .join(Segmentation.series)
        .join(Series.study)
        .join(Study.patient)
        .where(or_(of_patient, Study.study_instance_uid == source.study_instance_uid))
    )
    place, _ = session.execute(in_study).one()
    _, version = session.execute(of_model).one()
    return Numbering(1 + (version or 0), place, frozenset(session.scalars(tracking_ids)))


def result_index_in_study(sessions: sessionmaker[Session], segmentation_id: str) -> int:
    """Return the number of results that the study had before this one was recorded."""
    with reading(sessions) as session:
        result = session.get_one(Segmentation, segmentation_id)
        query = (
            select(func.count())
            .select_from(Segmentation)
            .join(Segmentation.series)
            .where(Series.study_ref == result.series.study_ref, Segmentation.created_at < result.created_at)
        )
        return session.scalar(query) or 0


def first_version(sessions: sessionmaker[Session], seg_series_instance_uid: str) -> int:
    """Return the version of the first SEG in a series of SEGs."""
    query = select(func.min(Segmentation.version)).where(
        Segmentation.series_instance_uid == seg_series_instance_uid
    )
    with reading(sessions) as session:
        return session.scalars(query).one() or 1
