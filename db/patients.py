"""Patients, studies and series that have results, and the lesions of a patient."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from db.database import reading_rows
from db.documents import SEGMENTATIONS, fetch, iso_date, lesion_in_place
from db.segmentations import is_current_result
from db.tables import Patient, Segmentation, Series, Study
from errors import InvalidForm, PatientNotFound
from schemas.results import PatientAnswer, PatientLesion

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
class SegmentedStudy:
    """A study with a segmentation. study_date: ISO 8601."""

    study_instance_uid: str
    study_date: str | None


@dataclass(frozen=True)
class SegmentedSeries:
    """A series with a segmentation."""

    series_instance_uid: str
    study_instance_uid: str


def patients(sessions: sessionmaker[Session]) -> list[PatientAnswer]:
    """Return the patients with a segmentation, by patient_id."""
    with reading_rows(sessions) as connection:
        rows = connection.execute(PATIENTS).all()
    return [
        PatientAnswer(
            patient_id=patient_id,
            issuer=issuer or None,
            name=name,
            birth_date=iso_date(birth_date),
            sex=sex,
            studies=studies,
            last_study_date=iso_date(last_study_date),
        )
        for patient_id, issuer, name, birth_date, sex, studies, last_study_date in rows
    ]


def segmented_studies(sessions: sessionmaker[Session], patient_id: str | None = None) -> list[SegmentedStudy]:
    """Return the studies with a segmentation, all or a patient's, by date.

    Raises: InvalidForm if several issuers use this patient_id.
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
        rows = connection.execute(query).all()
    issuers = len({row.patient_ref for row in rows})
    if patient_id is not None and issuers > 1:
        raise InvalidForm(f"{issuers} issuers use this patient identifier.")
    return [SegmentedStudy(row.study_instance_uid, iso_date(row.study_date)) for row in rows]


def segmented_series(
    sessions: sessionmaker[Session], study_instance_uid: str | None = None
) -> list[SegmentedSeries]:
    """Return the series with a segmentation, all or a study's."""
    query = (
        select(Series.series_instance_uid, Study.study_instance_uid)
        .join(Study, Study.id == Series.study_ref)
        .where(Series.id.in_(select(Segmentation.series_ref).where(Segmentation.deleted_at.is_(None))))
        .order_by(Study.id, Series.id)
    )
    if study_instance_uid is not None:
        query = query.where(Study.study_instance_uid == study_instance_uid)
    with reading_rows(sessions) as connection:
        return [SegmentedSeries(*row) for row in connection.execute(query)]


def lesions_of_patient(
    sessions: sessionmaker[Session], patient_id: str, issuer: str | None = None
) -> list[PatientLesion]:
    """Return the patient's lesions by study date and time (undated studies last), then by number.

    One result counts per series, by ``is_current_result``.
    issuer: needed only if several issuers use this patient_id.
    Raises: PatientNotFound; InvalidForm when the issuer is needed.
    """
    refs_query = select(Patient.id).where(Patient.patient_id == patient_id)
    if issuer is not None:
        refs_query = refs_query.where(Patient.issuer == issuer)
    with reading_rows(sessions) as connection:
        refs = connection.scalars(refs_query).all()
        if not refs:
            raise PatientNotFound("No patient with this identifier has been segmented.")
        if len(refs) > 1:
            raise InvalidForm(f"issuer: {len(refs)} issuers use this patient identifier; name one.")
        query = SEGMENTATIONS.where(Study.patient_ref == refs[0], is_current_result()).order_by(
            Study.study_date.asc().nulls_last(),
            Study.study_time.asc().nulls_last(),
            Segmentation.created_at,
        )
        rows = fetch(connection, query, {})
    return [lesion_in_place(lesion, segmentation) for segmentation, lesions in rows for lesion in lesions]
