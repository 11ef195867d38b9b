"""What a job does: a class per kind, kept as JSON in the job's row. The package ``tasks`` does it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentTask(_Task):
    """Segment a series with the job's model.

    inputs: by name the series of the model's inputs; those that are not named are chosen.
    """

    kind: Literal["segmentation"] = "segmentation"
    inputs: dict[str, str] = {}


class CorrectTask(_Task):
    """Rename and delete lesions of a segmentation.

    rename: new names by lesion number. delete: lesion numbers.
    """

    kind: Literal["correction"] = "correction"
    segmentation_id: str
    rename: dict[int, str] = {}
    delete: tuple[int, ...] = ()


class MeasureTask(_Task):
    """Measure a SEG or a structure set that is in the archive.

    corrects: the id of the segmentation that it is the next version of; None: of the newest of its series.
    """

    kind: Literal["measurement"] = "measurement"
    sop_instance_uid: str
    corrects: str | None = None


class RestoreTask(_Task):
    """Make an earlier version the newest again. corrects: the id of the newest version."""

    kind: Literal["restoration"] = "restoration"
    segmentation_id: str
    corrects: str


class StructureSetTask(_Task):
    """Store an RT Structure Set beside the SEG of a segmentation."""

    kind: Literal["rtstruct"] = "rtstruct"
    segmentation_id: str


class UncertaintyTask(_Task):
    """Store a map of the model's uncertainty beside the SEG of a segmentation."""

    kind: Literal["uncertainty"] = "uncertainty"
    segmentation_id: str


Task = SegmentTask | CorrectTask | MeasureTask | RestoreTask | StructureSetTask | UncertaintyTask
TASKS: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])
# Of a job that leaves the choice of every series to its model.
SEGMENT = SegmentTask()
