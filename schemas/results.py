"""The forms and answers for candidates, segmentations, patients and models."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field

from lesions.measure import Lesion
from schemas.common import (
    ML_DECIMALS,
    Answer,
    Axis,
    Confidence,
    Form,
    Index,
    Ml,
    Mm,
    Point,
    Probability,
    Query,
    Text,
)

Change = Literal["drawn", "redrawn", "renamed", "deleted", "restored"]


class SegmentationPath(Form):
    """The id of a segmentation."""

    segmentation_id: Text


class PatientPath(Form):
    """The id of a patient."""

    patient_id: Text = Field(description="PatientID (0010,0020)")


class PatientQuery(Query):
    """The issuer of a patient's id."""

    issuer: Text | None = Field(
        None,
        description="IssuerOfPatientID, if several patients share the id; empty for one without an issuer",
    )


# A text of a header, which is empty if the header has none.
Known = Annotated[str | None, BeforeValidator(lambda text: text or None)]


class CandidateAnswer(Answer):
    """A series of the study, with its score as a candidate for segmentation."""

    series_instance_uid: str
    description: Known
    modality: Known
    score: float
    reasons: list[str]
    refused: str | None = Field(description="Code of the reason why MetScope does not choose this series")
    message: str | None
    selectable: bool = Field(description="Whether a request may name this series, with a warning if refused")
    warnings: list[str]
    sequence: str | None = Field(
        description="T1, T1 post-contrast, T2, FLAIR, or null if the sequence is not recognised"
    )


class CandidatesAnswer(Answer):
    """The study's series, best first."""

    candidates: list[CandidateAnswer]


class SliceAnswer(Answer):
    """The slice on which a lesion's diameters were measured."""

    sop_instance_uid: str | None
    frame: int | None
    index: int | None


class PlaneAnswer(Answer):
    """The resampled plane on which the diameters lie, if that is not an acquired slice."""

    origin_lps_mm: Point
    normal_lps: Point
    spacing_mm: Mm


class BoxAnswer(Answer):
    """The first and last index of a box, both inclusive: (slice, row, column)."""

    first: Index
    last: Index


class LesionAnswer(Answer):
    """A lesion. Lengths in mm, points in mm in the patient's LPS axes."""

    number: int
    name: str
    tracking_id: str
    tracking_uid: str
    volume_ml: Ml
    voxel_count: int
    long_axis_mm: Mm
    short_axis_mm: Mm
    feret_mm: Mm
    long_axis_lps: Axis
    short_axis_lps: Axis
    slice: SliceAnswer
    measurement_plane: Literal["acquisition", "resampled_axial"]
    plane: PlaneAnswer | None
    slices_spanned: int
    centroid_lps_mm: Point
    bounding_box: BoxAnswer
    mean_probability: Probability | None
    confidence: Confidence | None = Field(
        description="Probability that it is a lesion; null if drawn by hand or not calibrated"
    )
    measurable: bool
    measurable_reason: str

    @classmethod
    def of(cls, lesion: Lesion) -> Self:
        """Return the answer for a measured lesion."""
        return cls.model_validate(lesion, from_attributes=True)


class ColouredLesion(LesionAnswer):
    """A lesion of a recorded segmentation. colour: #rrggbb, as in its SEG."""

    colour: str


def total_volume_ml(lesions: Sequence[LesionAnswer]) -> float:
    """Return the sum of the volumes that are shown, without the digits that only adding has made."""
    return round(sum(lesion.volume_ml for lesion in lesions), ML_DECIMALS)


class ModelReference(Answer):
    """The model that made a segmentation."""

    id: str
    version: str
    sha256: str


class StoredSegmentation(Answer):
    """The SEG object. stored: the archive has confirmed it. The UIDs are null if there is no lesion.

    missing_since: when the archive was first found to have lost it.
    """

    sop_instance_uid: str | None
    series_instance_uid: str | None
    stored: bool
    missing_since: datetime | None


class CompanionAnswer(Answer):
    """An object stored with the SEG: report, structure set or uncertainty map (OT).

    stored: the archive has confirmed it.
    """

    modality: Literal["SR", "RTSTRUCT", "OT"]
    sop_instance_uid: str
    series_instance_uid: str
    stored: bool


class ChangeAnswer(Answer):
    """A correction's change to a lesion. Null: the lesion was deleted, or did not exist before."""

    change: Change
    name: str | None
    tracking_uid: str
    volume_ml: float | None
    previous_name: str | None
    previous_volume_ml: float | None


class SegmentationAnswer(Answer):
    """A segmentation of a series by a model, or a person's correction, with the measurements of its lesions.

    corrects, corrected_by: for a correction, the segmentation before it and the user who made it.
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
    lesions: list[ColouredLesion]
    total_volume_ml: float
    reasons: list[str]
    warnings: list[str]
    timings_s: dict[str, float]
    research_use_only: Literal[True]


class SegmentationsAnswer(Answer):
    """Segmentations, newest first."""

    segmentations: list[SegmentationAnswer]


class PatientAnswer(Answer):
    """A patient with results."""

    patient_id: str
    issuer: str | None
    name: str | None
    birth_date: str | None
    sex: str | None
    studies: int
    last_study_date: str | None


class PatientsAnswer(Answer):
    """Patients with results, by patient_id."""

    patients: list[PatientAnswer]


class PatientLesion(ColouredLesion):
    """A lesion with its study, series and segmentation."""

    study_instance_uid: str
    study_date: str | None
    series_instance_uid: str
    series_description: str | None
    segmentation_id: str
    model_id: str


class LesionsAnswer(Answer):
    """A patient's lesions by study date, one segmentation per series: the corrected one or the newest."""

    patient_id: str
    lesions: list[PatientLesion]


class ModelAnswer(Answer):
    """A model that a request may name."""

    id: str
    title: str
    version: str
    sha256: str
    default: bool


class ModelsAnswer(Answer):
    """The models that a request may name."""

    models: list[ModelAnswer]
