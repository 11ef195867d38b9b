"""The work of a job, by the kind of its task: a file for each kind that needs more than a few lines."""

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
from tasks.correction import correct, measure, restore
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
            return measure(task, run)
        case RestoreTask() as task:
            return restore(task, run)
        case StructureSetTask() as task:
            return add_structure_set(task, run)
        case UncertaintyTask() as task:
            return add_uncertainty_map(task, run)
        case unknown:
            assert_never(unknown)
