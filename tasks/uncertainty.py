"""The job that adds a map of the model's uncertainty to a SEG."""

from collections.abc import Sequence
from functools import partial

from pydicom import Dataset

from context import JobRun, ModelServices
from db import recording, segmentations
from db.numbering import result_index_in_study
from errors import UncertaintyUnavailable
from findings import edition_of, publish, uncertainty_map
from imaging import parametric_map
from imaging.stack import to_stack
from schemas.results import SegmentationAnswer
from schemas.tasks import UncertaintyTask
from segmentation import Request, fetch, idempotency_key, source_of_fetched
from tasks.versions import companion_of, is_available
from unetr.predict import Predictor
from unetr.served import reference_to
from unetr.uncertainty import explain


def add_uncertainty_map(task: UncertaintyTask, run: JobRun) -> str:
    """Compute the uncertainty map of a segmentation and record it; return the segmentation's id.

    A segmentation that already has a map keeps it, unless the archive has lost it. Raises:
    SegmentationNotFound, UncertaintyUnavailable, InputRefused, ArchiveError, ModelError, LeaseLost,
    JobCancelled; then nothing is recorded.
    """
    segmentation_id, services, lease, stages = task.segmentation_id, run.services, run.lease, run.stages
    sessions, spec, predictor = services.sessions, services.spec, services.predictor
    document = segmentations.document(sessions, segmentation_id)
    recorded = companion_of(document, parametric_map.MODALITY)
    if recorded and is_available(recorded, document.study_instance_uid, services.archive):
        recording.adopt(sessions, lease.job_id, lease.owner, segmentation_id)
        return segmentation_id
    segmentations.require_served_model(document, [reference_to(spec)])
    if not isinstance(predictor, Predictor):
        raise TypeError("only a Predictor can tell how sure it is")
    with stages("fetch"):
        inputs = _inputs(document, services)
    with stages("read"):
        stack, *others = [to_stack(instances) for instances in inputs]
    with stages("predict"):
        further = [other.volume for other in others]
        entropy = explain(predictor, stack.volume, partial(stages.report, "predict"), others=further).entropy
    with stages("encode"):
        edition = edition_of(spec, document.version, result_index_in_study(sessions, segmentation_id))
        new = publish(uncertainty_map(stack, entropy, spec, edition), stack.headers[0])
    lost = recorded.sop_instance_uid if recorded else None
    recording.add_companion(sessions, segmentation_id, new, lease.job_id, lease.owner, lost)
    return segmentation_id


def _inputs(document: SegmentationAnswer, services: ModelServices) -> Sequence[Sequence[Dataset]]:
    """Fetch the instances of each input that the segmentation was made of.

    The document names only the first input's series. Raises: UncertaintyUnavailable if other series would be
    chosen now for the other inputs, SegmentationMismatch if the images have been replaced since,
    IdentityConflict.
    """
    spec, study_uid, series_uid = services.spec, document.study_instance_uid, document.series_instance_uid
    if len(spec.inputs) == 1:
        inputs = [services.archive.retrieve_series(study_uid, series_uid)]
        source = source_of_fetched(inputs, services)
    else:
        _, inputs = fetch(Request(study_uid, series_uid), services.archive, spec)
        source = source_of_fetched(inputs, services)
        key = idempotency_key(inputs, source, spec.digest)
        if key != segmentations.key(services.sessions, document.id):
            raise UncertaintyUnavailable(
                f"Segmentation {document.id} was not created from the images that MetScope would choose now."
            )
    segmentations.check_images(services.sessions, document.id, source)
    return inputs
