"""What a worker does for a job, by the kind of its task: a file for each that is more than a few lines."""

from typing import assert_never

from context import JobRun
from db.tasks import (
    CorrectTask,
    MeasureTask,
    RestoreTask,
    SegmentTask,
    StructureSetTask,
    UncertaintyTask,
)
from segmentation import Request, segment_series
from tasks.correction import correct, measure, restore
from tasks.structure_set import add_structure_set
from tasks.uncertainty import add_uncertainty_map


def perform(run: JobRun) -> str:
    """Do what the job's task says and record it; returns the id of the segmentation that it ends in.

    Raises: InputRefused, ArchiveError, ModelError, RequestError, LeaseLost, JobCancelled; nothing is recorded
    then.
    """
    match run.job.task:
        case SegmentTask(inputs=inputs):
            job = run.job
            request = Request(job.study_instance_uid, job.series_instance_uid, job.force, inputs)
            return segment_series(request, run.model(), run.stages.report, run.lease)
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
