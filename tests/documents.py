"""Documents of segmentations as the API answers them, read from the database."""

from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from db import patients, segmentations
from imaging.seg import colour
from lesions.measure import Lesion
from schemas.results import LesionAnswer


def document_of(sessions: sessionmaker[Session], segmentation_id: str) -> dict[str, Any]:
    """Return the document of a segmentation."""
    return segmentations.document(sessions, segmentation_id).model_dump(mode="json")


def documents_of_study(sessions: sessionmaker[Session], study_instance_uid: str) -> list[dict[str, Any]]:
    """Return the documents of a study's segmentations, newest first."""
    documents = segmentations.segmentations_of_study(sessions, study_instance_uid)
    return [document.model_dump(mode="json") for document in documents]


def lesions_of_patient(
    sessions: sessionmaker[Session], patient_id: str, issuer: str | None = None
) -> list[dict[str, Any]]:
    """Return a patient's lesions."""
    lesions = patients.lesions_of_patient(sessions, patient_id, issuer)
    return [lesion.model_dump(mode="json") for lesion in lesions]


def answer_of(lesion: Lesion) -> dict[str, Any]:
    """Return a measured lesion as the document of its segmentation has it, in the colour of its number."""
    return LesionAnswer.of(lesion).model_dump(mode="json") | {"colour": colour(lesion.number).hex}
