"""The forms and answers of SegmentationUI's front-end, with its own names and Orthanc's."""

from typing import Annotated, Literal

from flask_openapi3.models import RawModel
from flask_openapi3.models.file import FileStorage
from pydantic import Field, RootModel

from schemas.common import Answer, Form, Name, Query, Text, Uid

UIDS_PATTERN = r"^[0-9]+(\.[0-9]+)*(,[0-9]+(\.[0-9]+)*)*$"


class Roi(Form):
    """A lesion that the front-end shows."""

    study_instance_uid: Uid
    serie_instance_uid: Uid = Field(
        description="Series of the SEG or structure set that shows the lesion, or of the segmented images"
    )
    roi_number: Annotated[int, Field(ge=1)] = Field(description="Number of the lesion in that series")


class RoiRenaming(Roi):
    """A lesion and its new name."""

    new_name: Name


class DicomForm(Form):
    """DICOM files and ZIP archives of them."""

    files: list[FileStorage] = Field(alias="files[]", description="The field may be repeated")


class OrthancStudyPath(Form):
    """Orthanc's identifier of a study."""

    orthanc_id: Text = Field(description="An ID from /getAllStudies")


class StudiesPath(Form):
    """The UIDs of one or several studies."""

    study_instance_uids: Annotated[str, Field(pattern=UIDS_PATTERN)] = Field(
        description="One StudyInstanceUID (0020,000D), or several separated by commas"
    )


class ObjectPath(Form):
    """The UID of an object that MetScope made."""

    sop_instance_uid: Uid = Field(description="ID of an object from /tools/lookup")


class LookupBody(RawModel):
    """A SOPInstanceUID (0008,0018)."""

    mimetypes: list[str] = ["text/plain"]  # noqa: RUF012 - as in the base class


class EtudesQuery(Query):
    """The patient whose studies are listed."""

    patient_id: Text | None = Field(
        None, alias="idPatient", description="PatientID (0010,0020); default: all"
    )


class SeriesQuery(Query):
    """The study whose series are listed."""

    study_instance_uid: Uid | None = Field(
        None, alias="idEtude", description="StudyInstanceUID (0020,000D); default: all"
    )


class MetastasesQuery(Query):
    """The series whose lesions are listed."""

    series_instance_uid: Uid | None = Field(
        None, alias="idSeries", description="SeriesInstanceUID (0020,000E); default: all"
    )


class FoundObject(Answer):
    """An instance as Orthanc describes it, except that its ID is the SOPInstanceUID."""

    ID: str
    Path: str
    Type: Literal["Instance"]


class LookupAnswer(RootModel[list[FoundObject]]):
    """The object, or an empty list if MetScope did not make it."""


class SuccessAnswer(Answer):
    """A sentence that says what was done."""

    success: str


class OrthancIdsAnswer(RootModel[list[str]]):
    """Orthanc's identifiers of all studies, as its GET /studies gives them."""


class OrthancStudyAnswer(Answer):
    """A study in Orthanc's form, without the fields that DICOMweb lacks. Missing attributes are empty."""

    ID: str
    Type: Literal["Study"]
    MainDicomTags: dict[str, str]
    PatientMainDicomTags: dict[str, str]


class FollowupPatient(Answer):
    """A patient with results. id: PatientID. date: birth date."""

    id: str
    name: str | None
    date: str | None
    sexe: str | None


class FollowupPatientsAnswer(RootModel[list[FollowupPatient]]):
    """Patients with results."""


class FollowupEtude(Answer):
    """A study with results. id_study: StudyInstanceUID. date: study date."""

    id_study: str
    date: str | None


class FollowupEtudesAnswer(RootModel[list[FollowupEtude]]):
    """The studies with results, by date."""


class FollowupSerie(Answer):
    """A series that was segmented."""

    series_instance_uid: str
    study_instance_uid: str


class FollowupSeriesAnswer(RootModel[list[FollowupSerie]]):
    """The series that were segmented."""


class FollowupMetastase(Answer):
    """A lesion. id: its number. diametre: long axis, mm. volume: cm3.

    slice_debut, slice_fin: first and last slice, counted from 0. color: "[red green blue]", 0 to 255 each.
    """

    id: int
    nom_metastase: str
    diametre: float
    volume: float
    slice_debut: int
    slice_fin: int
    color: str


class FollowupMetastasesAnswer(RootModel[list[FollowupMetastase]]):
    """The lesions of the newest segmentation of each series."""
