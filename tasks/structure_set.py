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
from tasks.versions import fetch_version


def add_structure_set(task: StructureSetTask, run: JobRun) -> str:
    """Record the lesions of a segmentation also as contours; return the segmentation's id.

    Raises: LesionNotFound without lesions; InputRefused, ArchiveError, InstanceNotFound,
    SegmentationNotFound, LeaseLost, JobCancelled; then nothing is recorded.
    """
    segmentation_id = task.segmentation_id
    images, version = fetch_version(segmentation_id, run)
    document, encoded = version.document, version.encoded
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
            result_index=result_index_in_study(run.connections.sessions, segmentation_id),
            subject=subject_of(spec_of(version, run.connections)),
            algorithm=algorithm,
        )
        structure_set = structure_set_of(result, encoded, edition)
    lease, companion = run.lease, publish(structure_set, images.stack.headers[0])
    recording.add_companion(run.connections.sessions, segmentation_id, companion, lease.job_id, lease.owner)
    return segmentation_id
