"""The job that adds an RT Structure Set to a SEG."""

from context import JobRun
from db import recording, segmentations
from db.numbering import result_index_in_study
from errors import LesionNotFound
from findings import Findings, publish, structure_set_of, subject_of
from imaging.derived import Algorithm, Edition
from schemas.tasks import StructureSetTask
from tasks.correction import measure_drawn, spec_of
from tasks.edits import as_it_is
from tasks.versions import companion_of, fetch_version, is_available


def add_structure_set(task: StructureSetTask, run: JobRun) -> str:
    """Record the lesions of a segmentation also as contours; return the segmentation's id.

    A segmentation that already has a structure set keeps it, unless the archive has lost it. Raises:
    LesionNotFound without lesions; InputRefused, ArchiveError, InstanceNotFound, SegmentationNotFound,
    LeaseLost, JobCancelled; then nothing is recorded.
    """
    segmentation_id, sessions, lease = task.segmentation_id, run.connections.sessions, run.lease
    document = segmentations.document(sessions, segmentation_id)
    recorded = companion_of(document, "RTSTRUCT")
    if recorded and is_available(recorded, document.study_instance_uid, run.connections.archive):
        recording.adopt(sessions, lease.job_id, lease.owner, segmentation_id)
        return segmentation_id
    images, version = fetch_version(segmentation_id, run)
    encoded = version.encoded
    if encoded is None:
        raise LesionNotFound(f"Segmentation {segmentation_id} has no lesions.")
    with run.stages("encode"):
        lesions = measure_drawn(images.stack, version, as_it_is(version), (), run.connections)
        model, algorithm = document.model, None
        if document.corrected_by is None and model != segmentations.BY_HAND:
            algorithm = Algorithm(model.id, model.version, model.sha256)
        result = Findings(images.stack, version.labels, lesions)
        edition = Edition(
            document.version,
            document.corrected_by,
            corrected=bool(document.changes),
            result_index=result_index_in_study(sessions, segmentation_id),
            subject=subject_of(spec_of(version, run.connections)),
            algorithm=algorithm,
        )
        structure_set = structure_set_of(result, encoded, edition)
    new = publish(structure_set, images.stack.headers[0])
    lost = recorded.sop_instance_uid if recorded else None
    recording.add_companion(sessions, segmentation_id, new, lease.job_id, lease.owner, lost)
    return segmentation_id
