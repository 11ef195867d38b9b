"""The tasks of jobs: one class per kind, stored as JSON in the job's row. The package ``tasks`` runs them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Kind = Literal["segmentation", "correction", "measurement", "restoration", "rtstruct", "uncertainty"]


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentTask(_Task):
    """The segmentation of a series with the job's model.

    inputs: the series by name of the model's input; inputs that are not named are selected automatically.
    """

    kind: Literal["segmentation"] = "segmentation"
    inputs: dict[str, str] = {}


class CorrectTask(_Task):
    """The renaming and deletion of lesions of a segmentation.

    rename: new names by lesion number. delete: lesion numbers.
    """

    kind: Literal["correction"] = "correction"
    segmentation_id: str
    rename: dict[int, str] = {}
    delete: tuple[int, ...] = ()


class MeasureTask(_Task):
    """The measurement of a SEG or a structure set in the archive.

    corrects: the id of the segmentation that it is the next version of; None: the newest of its series.
    """

    kind: Literal["measurement"] = "measurement"
    sop_instance_uid: str
    corrects: str | None = None


class RestoreTask(_Task):
    """The restoration of an earlier version as the newest. corrects: the id of the newest version."""

    kind: Literal["restoration"] = "restoration"
    segmentation_id: str
    corrects: str


class StructureSetTask(_Task):
    """The creation of an RT Structure Set, stored with the SEG of a segmentation."""

    kind: Literal["rtstruct"] = "rtstruct"
    segmentation_id: str


class UncertaintyTask(_Task):
    """The creation of a map of the model's uncertainty, stored with the SEG of a segmentation."""

    kind: Literal["uncertainty"] = "uncertainty"
    segmentation_id: str


Task = SegmentTask | CorrectTask | MeasureTask | RestoreTask | StructureSetTask | UncertaintyTask
TASKS: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])
# A segmentation for which every input series is selected automatically.
SEGMENT = SegmentTask()
