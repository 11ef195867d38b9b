"""The form and answer for uploads of studies."""

from flask_openapi3.models.file import FileStorage
from pydantic import Field

from schemas.common import Answer, Form


class UploadForm(Form):
    """DICOM files and ZIP archives of them."""

    files: list[FileStorage] = Field(description="The field may be repeated")


class UploadedStudy(Answer):
    """A study and the number of its instances that were stored."""

    study_instance_uid: str
    instances: int


class UploadAnswer(Answer):
    """The studies that were stored."""

    studies: list[UploadedStudy]
