"""Patient, study and series: read from a DICOM header, written to their tables.

A study stays with the patient that it was recorded under. It moves to another patient only if its images
prove that the archive has corrected the PatientID: the segmented images are still the same. Other images
under known UIDs are refused, and patients are never merged.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time

from pydicom import Dataset
from pydicom.valuerep import DA, TM
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import insert_for, reading
from db.tables import Patient, Segmentation, Series, Study, StudyDeletion
from errors import IdentityConflict, StudyNotFound
from imaging.identity import PatientKey, patient_of, same_patient

NO_PATIENT_ID = "metscope:study"


@dataclass(frozen=True)
class Source:
    """The segmented series with its study and patient. issuer: (0010,0021), empty if the header has none.

    contents: ``content_digest`` by SeriesInstanceUID, of those of the study's series that were just fetched.
    """

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
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def patient(self) -> PatientKey:
        return PatientKey(self.patient_id, self.issuer)

    @property
    def content_sha256(self) -> str | None:
        return self.contents.get(self.series_instance_uid)


def source_of(header: Dataset, contents: Mapping[str, str] | None = None) -> Source:
    """Read the header of any instance of the series; an absent, empty or malformed attribute becomes None.

    Without a PatientID the study stands for its patient (issuer NO_PATIENT_ID): nothing proves that two of
    these studies show the same person, and a follow-up must not mix two persons.
    """
    study_instance_uid = str(header.StudyInstanceUID)
    patient_id, issuer = patient_of(header)
    return Source(
        patient_id=patient_id or study_instance_uid,
        issuer=issuer if patient_id else NO_PATIENT_ID,
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
        contents=contents or {},
    )


def header_of(patient: Patient) -> Dataset:
    """Return the header elements of a recorded patient; PatientID is empty if the study stands for one."""
    is_named = patient.issuer != NO_PATIENT_ID
    header = Dataset()
    header.PatientID, header.PatientName = patient.patient_id if is_named else "", patient.name or ""
    header.PatientBirthDate = f"{patient.birth_date:%Y%m%d}" if patient.birth_date else ""
    header.PatientSex = patient.sex or ""
    if is_named and patient.issuer:
        header.IssuerOfPatientID = patient.issuer
    return header


def upsert_source(session: Session, source: Source, actor: str | None = None) -> int:
    """Write patient, study and series; return the primary key of the series, whose row stays locked.

    actor: on whose behalf a study moves to another patient. Raises: IdentityConflict, StudyNotFound.
    """
    require_kept(session, source.study_instance_uid)
    patient_ref = _patient_ref(session, source, source.patient)
    study_ref = _study_ref(session, source, patient_ref, actor)
    return _upsert(
        session,
        Series,
        {"study_ref": study_ref, "series_instance_uid": source.series_instance_uid},
        {"description": source.series_description, "modality": source.modality},
    )


def _patient_ref(session: Session, source: Source, patient: PatientKey) -> int:
    return _upsert(
        session,
        Patient,
        patient._asdict(),
        {"name": source.patient_name, "birth_date": source.birth_date, "sex": source.sex},
    )


def _study_ref(session: Session, source: Source, patient_ref: int, actor: str | None) -> int:
    described = {
        "study_date": source.study_date,
        "study_time": source.study_time,
        "description": source.study_description,
    }
    key = {"study_instance_uid": source.study_instance_uid}
    new = insert_for(session, Study).values(**key, patient_ref=patient_ref).on_conflict_do_nothing()
    session.execute(new)
    # Locked before the comparison: of two concurrent recordings, the second sees the first one's patient.
    lock = select(Study).where(Study.study_instance_uid == source.study_instance_uid).with_for_update()
    study = session.scalars(lock, execution_options={"populate_existing": True}).one()
    if study.patient_ref != patient_ref:
        recorded = PatientKey(study.patient.patient_id, study.patient.issuer)
        if not same_patient(recorded, source.patient):
            require_correction(session, source)
            audit.note(session, actor, "study.patient", source.study_instance_uid)
            study.patient_ref = patient_ref
        elif source.issuer:
            study.patient_ref = patient_ref
        else:
            # This header does not name the issuer, but an earlier one did.
            _patient_ref(session, source, recorded)
    for name, value in described.items():
        if value is not None:
            setattr(study, name, value)
    session.flush()
    return study.id


def require_kept(session: Session, study_instance_uid: str) -> None:
    """Raise StudyNotFound if the study is being deleted: a result recorded now would reappear."""
    if session.get(StudyDeletion, study_instance_uid) is not None:
        raise StudyNotFound(f"Study {study_instance_uid} is being deleted.")


def require_correction(session: Session, source: Source) -> None:
    """Raise IdentityConflict if a study with results is recorded under another patient, unless the images
    just fetched are those that were segmented: then the archive has corrected the PatientID.
    """
    recorded = _contents_under_another_patient(session, source)
    fetched = [uid for uid in recorded if uid in source.contents]
    same_uids = [uid for uid in fetched if source.contents[uid] in recorded[uid]]
    if recorded and (not same_uids or len(same_uids) < len(fetched)):
        raise IdentityConflict(
            f"Study {source.study_instance_uid} is recorded under another patient, and its images are not "
            "those that were segmented."
        )


def unproven_series(session: Session, source: Source) -> list[str]:
    """Return the series that must still prove that the study's PatientID was corrected: those that were
    segmented but not just fetched. Empty if the study has no results under another patient.
    """
    return sorted(_contents_under_another_patient(session, source).keys() - source.contents.keys())


def _contents_under_another_patient(session: Session, source: Source) -> dict[str, set[str | None]]:
    """Return the digests of the segmented images by series; empty under the source's own patient."""
    query = (
        select(Patient.patient_id, Patient.issuer, Series.series_instance_uid, Segmentation.content_sha256)
        .join(Study, Study.patient_ref == Patient.id)
        .join(Series, Series.study_ref == Study.id)
        .join(Segmentation, Segmentation.series_ref == Series.id)
        .where(Study.study_instance_uid == source.study_instance_uid, Segmentation.deleted_at.is_(None))
    )
    recorded: dict[str, set[str | None]] = defaultdict(set)
    for patient_id, issuer, series_uid, content_sha256 in session.execute(query):
        if not same_patient(PatientKey(patient_id, issuer), source.patient):
            recorded[series_uid].add(content_sha256)
    return recorded


def series_to_prove(sessions: sessionmaker[Session], source: Source) -> list[str]:
    """Return the study's other series that can prove that its PatientID was corrected."""
    with reading(sessions) as session:
        return unproven_series(session, source)


def check_patient(sessions: sessionmaker[Session], source: Source) -> None:
    """Raise IdentityConflict or StudyNotFound where ``db.recording`` would, before anything is computed."""
    with reading(sessions) as session:
        require_kept(session, source.study_instance_uid)
        require_correction(session, source)


def _upsert(
    session: Session, table: type[Patient | Study | Series], key: dict[str, object], values: dict[str, object]
) -> int:
    """Insert or update a row by key; an attribute that this header lacks keeps its earlier value."""
    new_values = {name: value for name, value in values.items() if value is not None}
    insertion = insert_for(session, table).values(**key, **new_values)
    return session.scalars(
        insertion.on_conflict_do_update(index_elements=list(key), set_=key | new_values).returning(table.id)
    ).one()


def _text(header: Dataset, keyword: str) -> str | None:
    value = header.get(keyword)
    # Some scanners pad with NUL, which PostgreSQL refuses in text.
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
