"""Objects of a segmentation that is recorded in a test, and a task of each kind."""

from db.recording import NewObject
from schemas.tasks import (
    CorrectTask,
    MeasureTask,
    RestoreTask,
    SegmentTask,
    StructureSetTask,
    UncertaintyTask,
)

TASKS = [
    SegmentTask(inputs={"FLAIR": "1.3"}),
    CorrectTask(segmentation_id="s-1", rename={2: "pons"}, delete=(1,)),
    MeasureTask(sop_instance_uid="1.2.9", corrects="s-1"),
    RestoreTask(segmentation_id="s-1", corrects="s-2"),
    StructureSetTask(segmentation_id="s-1"),
    UncertaintyTask(segmentation_id="s-1"),
]


def seg_object(uid: str, encoded: bytes = b"a DICOM file") -> NewObject:
    """A SEG with that SOP Instance UID; nothing reads the file."""
    return NewObject("SEG", uid, f"{uid}.1", encoded)
