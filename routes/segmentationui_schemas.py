"""What SegmentationUI's front-end sends and reads; the names are its own and Orthanc's."""

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
        description="Of the SEG or structure set that shows it, or of the images that were segmented"
    )
    roi_number: Annotated[int, Field(ge=1)] = Field(description="Of the lesion there")


class RoiRenaming(Roi):
    new_name: Name


class DicomForm(Form):
    """DICOM files and ZIP archives of them."""

    files: list[FileStorage] = Field(alias="files[]", description="The field may be repeated")


class OrthancStudyPath(Form):
    orthanc_id: Text = Field(description="One of /getAllStudies")


class StudiesPath(Form):
    study_instance_uids: Annotated[str, Field(pattern=UIDS_PATTERN)] = Field(
        description="One StudyInstanceUID (0020,000D), or several with commas between them"
    )


class ObjectPath(Form):
    sop_instance_uid: Uid = Field(description="ID of an object that /tools/lookup found")


class LookupBody(RawModel):
    """A SOPInstanceUID (0008,0018)."""

    mimetypes: list[str] = ["text/plain"]  # noqa: RUF012 - the base class has it so


class EtudesQuery(Query):
    patient_id: Text | None = Field(None, alias="idPatient", description="PatientID (0010,0020); all without")


class SeriesQuery(Query):
    study_instance_uid: Uid | None = Field(
        None, alias="idEtude", description="StudyInstanceUID (0020,000D); all without"
    )


class MetastasesQuery(Query):
    series_instance_uid: Uid | None = Field(
        None, alias="idSeries", description="SeriesInstanceUID (0020,000E); all without"
    )


class FoundObject(Answer):
    """As Orthanc describes an instance, under an ID of MetScope's: the SOPInstanceUID."""

    ID: str
    Path: str
    Type: Literal["Instance"]


class LookupAnswer(RootModel[list[FoundObject]]):
    """The object, where MetScope made it; else nothing."""


class SuccessAnswer(Answer):
    """What was done."""

    success: str


class OrthancIdsAnswer(RootModel[list[str]]):
    """Orthanc's identifiers of all studies, as its GET /studies gives them."""


class OrthancStudyAnswer(Answer):
    """A study in Orthanc's shape, without what DICOMweb does not tell. Attributes that it lacks are empty."""

    ID: str
    Type: Literal["Study"]
    MainDicomTags: dict[str, str]
    PatientMainDicomTags: dict[str, str]


class FollowupPatient(Answer):
    """id: PatientID. date: of birth."""

    id: str
    name: str | None
    date: str | None
    sexe: str | None


class FollowupPatientsAnswer(RootModel[list[FollowupPatient]]):
    """Patients with results."""


class FollowupEtude(Answer):
    """id_study: StudyInstanceUID."""

    id_study: str
    date: str | None


class FollowupEtudesAnswer(RootModel[list[FollowupEtude]]):
    """The patient's studies with results, by date."""


class FollowupSerie(Answer):
    series_instance_uid: str
    study_instance_uid: str


class FollowupSeriesAnswer(RootModel[list[FollowupSerie]]):
    """The study's series that were segmented."""


class FollowupMetastase(Answer):
    """id: number of the lesion. diametre: the long axis, mm. volume: cm3.

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
    """The lesions of the series' newest segmentation."""
