"""Patient, study and series: read from a DICOM header, written to their tables."""

from dataclasses import dataclass
from datetime import date, time
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DA, TM
from sqlalchemy.orm import Session

from db.database import insert_for
from db.tables import Patient, Series, Study

NO_PATIENT_ID = "metscope:study"


@dataclass(frozen=True)
class Source:
    """What was segmented. issuer: (0010,0021), empty where the header has none."""

    patient_id: str
    issuer: str
    patient_name: str | None
    birth_date: date | None
    sex: str | None
    study_instance_uid: str
    study_date: date | None
    study_time: time | None
    study_description: str | None
    series_instance_uid: str
    series_description: str | None
    modality: str | None


def source_of(header: Dataset) -> Source:
    """From the header of any instance of the series; an absent, empty or malformed attribute is None.

    Without a PatientID the study stands for its patient (issuer NO_PATIENT_ID): nothing says that two
    such studies show the same person, and a follow-up must not mix two.
    """
    study_instance_uid = str(header.StudyInstanceUID)
    patient_id = _text(header, "PatientID")
    return Source(
        patient_id=patient_id or study_instance_uid,
        issuer=(_text(header, "IssuerOfPatientID") or "") if patient_id else NO_PATIENT_ID,
        patient_name=_text(header, "PatientName"),
        birth_date=_date(header, "PatientBirthDate"),
        sex=_text(header, "PatientSex"),
        study_instance_uid=study_instance_uid,
        study_date=_date(header, "StudyDate"),
        study_time=_time(header, "StudyTime"),
        study_description=_text(header, "StudyDescription"),
        series_instance_uid=str(header.SeriesInstanceUID),
        series_description=_text(header, "SeriesDescription"),
        modality=_text(header, "Modality"),
    )


def upsert_source(session: Session, source: Source) -> int:
    """Write patient, study and series; the primary key of the series, whose row stays locked."""
    patient_ref = _upsert(
        session,
        Patient,
        {"patient_id": source.patient_id, "issuer": source.issuer},
        {"name": source.patient_name, "birth_date": source.birth_date, "sex": source.sex},
    )
    study_ref = _upsert(
        session,
        Study,
        {"study_instance_uid": source.study_instance_uid},
        {
            "patient_ref": patient_ref,
            "study_date": source.study_date,
            "study_time": source.study_time,
            "description": source.study_description,
        },
    )
    return _upsert(
        session,
        Series,
        {"series_instance_uid": source.series_instance_uid},
        {"study_ref": study_ref, "description": source.series_description, "modality": source.modality},
    )


def _upsert(
    session: Session, table: type[Patient | Study | Series], key: dict[str, Any], values: dict[str, Any]
) -> int:
    """Insert or update by key; an attribute that this header lacks keeps its earlier value."""
    known = {name: value for name, value in values.items() if value is not None}
    insertion = insert_for(session, table).values(**key, **known)
    return session.scalars(
        insertion.on_conflict_do_update(index_elements=list(key), set_=key | known).returning(table.id)
    ).one()


def _text(header: Dataset, keyword: str) -> str | None:
    value = header.get(keyword)
    # Some scanners pad with NUL, which PostgreSQL refuses inside a text.
    return (str(value).replace("\x00", "").strip() or None) if value is not None else None


def _date(header: Dataset, keyword: str) -> date | None:
    try:
        value = DA(_text(header, keyword))
    except ValueError:
        return None
    return date(value.year, value.month, value.day) if value else None


def _time(header: Dataset, keyword: str) -> time | None:
    try:
        value = TM(_text(header, keyword))
    except ValueError:
        return None
    return time(value.hour, value.minute, value.second, value.microsecond) if value is not None else None
