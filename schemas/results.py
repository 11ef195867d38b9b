"""Candidates, segmentations, patients, models."""

from datetime import datetime
from typing import Literal

from pydantic import (
    Field,
)

from schemas.common import Answer, Axis, Form, Index, Point, Query, Text


class SegmentationPath(Form):
    segmentation_id: Text


class PatientPath(Form):
    patient_id: Text = Field(description="PatientID (0010,0020)")


class PatientQuery(Query):
    issuer: Text | None = Field(None, description="IssuerOfPatientID, where several patients share the id")


class CandidateAnswer(Answer):
    series_instance_uid: str
    description: str
    modality: str
    score: float
    reasons: list[str]
    refused: str | None = Field(description="Code of the reason why MetScope does not choose this series")
    message: str | None
    selectable: bool = Field(description="Whether a request may name this series, with a warning if refused")
    warnings: list[str]
    sequence: str | None = Field(
        description="T1, T1 post-contrast, T2, FLAIR, or null where none is recognised"
    )


class CandidatesAnswer(Answer):
    """The study's series, best first."""

    candidates: list[CandidateAnswer]


class SliceAnswer(Answer):
    sop_instance_uid: str | None
    frame: int | None
    index: int | None


class PlaneAnswer(Answer):
    """The resampled plane that the diameters lie on, where it is not an acquired slice."""

    origin_lps_mm: Point
    normal_lps: Point
    spacing_mm: float


class BoxAnswer(Answer):
    """First and last index, both inclusive: (slice, row, column)."""

    first: Index
    last: Index


class LesionAnswer(Answer):
    """One lesion. Lengths in mm, points in mm in the patient's LPS axes."""

    number: int
    name: str
    tracking_id: str
    tracking_uid: str
    volume_ml: float
    voxel_count: int
    long_axis_mm: float
    short_axis_mm: float
    feret_mm: float
    long_axis_lps: Axis
    short_axis_lps: Axis
    slice: SliceAnswer
    measurement_plane: Literal["acquisition", "resampled_axial"]
    plane: PlaneAnswer | None
    slices_spanned: int
    centroid_lps_mm: Point
    bounding_box: BoxAnswer
    mean_probability: float | None
    confidence: float | None = Field(
        ge=0, le=1, description="Probability that it is a lesion; null where drawn by hand or not calibrated"
    )
    measurable: bool
    measurable_reason: str


class ModelReference(Answer):
    id: str
    version: str
    sha256: str


class StoredSegmentation(Answer):
    """The SEG object. stored: the archive has confirmed it. Null UIDs: no lesion, so there is no object.

    missing_since: when the archive was found to have it no more.
    """

    sop_instance_uid: str | None
    series_instance_uid: str | None
    stored: bool
    missing_since: datetime | None


class CompanionAnswer(Answer):
    """An object stored beside the SEG: report, structure set, map of uncertainty (OT).

    stored: the archive has confirmed it.
    """

    modality: Literal["SR", "RTSTRUCT", "OT"]
    sop_instance_uid: str
    series_instance_uid: str
    stored: bool


class ChangeAnswer(Answer):
    """What a correction made of a lesion. Null: it is no more, or was not before."""

    change: Literal["drawn", "redrawn", "renamed", "deleted", "restored"]
    name: str | None
    tracking_uid: str
    volume_ml: float | None
    previous_name: str | None
    previous_volume_ml: float | None


class SegmentationAnswer(Answer):
    """One run of one model on one series, or a person's correction of it, with every lesion measured.

    corrects, corrected_by: of a correction, the segmentation before it and who made it.
    """

    schema_version: int
    id: str
    version: int
    created_at: datetime
    study_instance_uid: str
    study_date: str | None
    series_instance_uid: str
    model: ModelReference
    segmentation: StoredSegmentation
    companions: list[CompanionAnswer]
    corrects: str | None
    corrected_by: str | None
    changes: list[ChangeAnswer]
    lesions: list[LesionAnswer]
    total_volume_ml: float
    reasons: list[str]
    warnings: list[str]
    timings_s: dict[str, float]
    research_use_only: Literal[True]


class SegmentationsAnswer(Answer):
    """The newest first."""

    segmentations: list[SegmentationAnswer]


class PatientAnswer(Answer):
    patient_id: str
    issuer: str
    name: str | None
    birth_date: str | None
    sex: str | None
    studies: int
    last_study_date: str | None


class PatientsAnswer(Answer):
    """Patients with results, by patient_id."""

    patients: list[PatientAnswer]


class PatientLesion(LesionAnswer):
    colour: str
    study_instance_uid: str
    study_date: str | None
    series_instance_uid: str
    series_description: str | None
    segmentation_id: str
    model_id: str


class LesionsAnswer(Answer):
    """By study date. Of each series one segmentation: what a person corrected, else the newest."""

    patient_id: str
    lesions: list[PatientLesion]


class ModelAnswer(Answer):
    id: str
    title: str
    version: str
    sha256: str
    default: bool


class ModelsAnswer(Answer):
    models: list[ModelAnswer]
