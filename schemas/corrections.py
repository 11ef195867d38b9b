"""The forms for corrections of a segmentation."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from schemas.common import MAX_BATCH_STUDIES, Form, Name, Text, Uid, WaitS


class Renaming(Form):
    """A lesion and its new name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    number: int = Field(ge=1, description="Number of the lesion")
    name: Name


class CorrectionForm(Form):
    """Lesions to rename and false positives to delete."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rename: list[Renaming] = Field([], max_length=MAX_BATCH_STUDIES)
    delete: list[Annotated[int, Field(ge=1)]] = Field(
        [], max_length=MAX_BATCH_STUDIES, description="Numbers of lesions"
    )
    wait_s: WaitS = None

    @model_validator(mode="after")
    def _require_change(self) -> Self:
        renamed = [renaming.number for renaming in self.rename]
        if not renamed and not self.delete:
            raise ValueError("specify at least one lesion to rename or delete")
        if len({*renamed, *self.delete}) < len(renamed) + len(self.delete):
            raise ValueError("name each lesion once")
        return self


class MeasurementForm(Form):
    """A SEG in the archive that a person drew or edited."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sop_instance_uid: Uid = Field(description="SOPInstanceUID (0008,0018) of the SEG")
    corrects: Text | None = Field(
        None, description="The segmentation that was edited; null: the newest of the SEG's series, if any"
    )
    wait_s: WaitS = None
