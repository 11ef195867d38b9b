"""The work of a job, by the kind of its task; ``perform`` selects it.

correction.py    lesions renamed, deleted, redrawn or restored
edits.py         the edits of a version's lesions
versions.py      recorded versions and drawings, fetched from the archive
drawings.py      drawings that the viewer stored to be measured, and their deletion
structure_set.py an RT Structure Set added to a SEG
uncertainty.py   an uncertainty map added to a SEG

A segmentation itself is in segmentation.py.
"""

from typing import assert_never

from context import JobRun
from schemas.tasks import (
    CorrectTask,
    MeasureTask,
    RestoreTask,
    SegmentTask,
    StructureSetTask,
    Task,
    UncertaintyTask,
)
from segmentation import Request, segment_series
from tasks.correction import correct, measure_drawing, restore
from tasks.structure_set import add_structure_set
from tasks.uncertainty import add_uncertainty_map


def needs_model(task: Task) -> bool:
    """Tell whether a job with this task needs its model loaded."""
    return isinstance(task, SegmentTask | UncertaintyTask)


def perform(run: JobRun) -> str:
    """Perform the job's task, record the result and return the id of its segmentation.

    Raises: InputRefused, ArchiveError, ModelError, RequestError, LeaseLost, JobCancelled; then nothing is
    recorded.
    """
    match run.job.task:
        case SegmentTask(inputs=inputs):
            job = run.job
            request = Request(job.study_instance_uid, job.series_instance_uid, job.force, inputs)
            return segment_series(request, run.services, run.stages.report, run.lease)
        case CorrectTask() as task:
            return correct(task, run)
        case MeasureTask() as task:
            return measure_drawing(task, run)
        case RestoreTask() as task:
            return restore(task, run)
        case StructureSetTask() as task:
            return add_structure_set(task, run)
        case UncertaintyTask() as task:
            return add_uncertainty_map(task, run)
        case unknown:
            assert_never(unknown)
