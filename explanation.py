"""How sure the model was of a segmentation: a map in the archive beside the SEG, by a job of its own."""

from functools import partial

from db import measurements
from db.tables import Job
from imaging import parametric_map
from imaging.stack import to_stack
from segmentation import JobLease, Report, Services, Stages, companion, uncertainty_map
from unetr.explain import explain
from unetr.predict import Predictor


def perform(job: Job, services: Services, report: Report, lease: JobLease) -> str:
    """Make the map that the job's task asks for, {"uncertainty": segmentation id}, and record it; that id.

    A segmentation that has one keeps it. ``report(stage, fraction)`` may raise JobCancelled.
    Raises: SegmentationNotFound, UncertaintyUnavailable, InputRefused, ArchiveError, ModelError, LeaseLost;
    nothing is recorded then.
    """
    segmentation_id: str = (job.task or {})["uncertainty"]
    sessions, spec, predictor = services.sessions, services.spec, services.predictor
    document = measurements.document(sessions, segmentation_id)
    if any(one["modality"] == parametric_map.MODALITY for one in document["companions"]):
        measurements.adopt(sessions, lease.job_id, lease.owner, segmentation_id)
        return segmentation_id
    served = {"id": spec.id, "version": spec.version, "sha256": spec.weights.sha256}
    measurements.refuse_other_model(document, [served])
    if not isinstance(predictor, Predictor):
        raise TypeError("only a Predictor can tell how sure it is")
    stages = Stages(report)
    with stages("fetch"):
        instances = services.archive.retrieve_series(
            document["study_instance_uid"], document["series_instance_uid"]
        )
    with stages("read"):
        stack = to_stack(instances)
    with stages("predict"):
        entropy = explain(predictor, stack.volume, partial(report, "predict")).entropy
    with stages("encode"):
        new = companion(uncertainty_map(stack, entropy, spec))
    measurements.add_companion(sessions, segmentation_id, new, lease.job_id, lease.owner)
    return segmentation_id
