"""What a person makes of a segmentation: lesions renamed, deleted or redrawn, a structure set, a map of how
sure the model was.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, g

from db import jobs, segmentations
from db.tables import Job
from db.tasks import (
    CorrectTask,
    MeasureTask,
    RestoreTask,
    StructureSetTask,
    Task,
    UncertaintyTask,
)
from errors import LesionNameTaken, LesionNotFound
from routes.jobs import answer_with
from routes.shared import blueprint, context
from schemas.common import StudyPath, WaitForm
from schemas.corrections import CorrectionForm, MeasurementForm
from schemas.jobs import JobAnswer
from schemas.results import SegmentationPath

routes = blueprint("corrections")


@routes.post(
    "/segmentations/<segmentation_id>/corrections",
    responses={200: JobAnswer, 202: JobAnswer},
)
def correct_segmentation(path: SegmentationPath, body: CorrectionForm) -> Response:
    """Rename or delete lesions: a job that stores a new version of the segmentation

    200 where the job ended within wait_s, else 202. The version before stays as it is.
    """
    renamed = {one.number: one.name for one in body.rename}
    return answer_with(submit_correction(path.segmentation_id, renamed, body.delete), body.wait_s)


def submit_correction(segmentation_id: str, rename: Mapping[int, str], delete: Sequence[int]) -> Job:
    """The job. rename: names by number of the lesion.

    Raises: SegmentationNotFound, SegmentationSuperseded, LesionNotFound, LesionNameTaken.
    """
    document = segmentations.document(context().sessions, segmentation_id)
    segmentations.refuse_superseded(context().sessions, segmentation_id)
    known = {lesion["number"] for lesion in document["lesions"]}
    unknown = {*rename, *delete} - known
    if unknown:
        raise LesionNotFound(f"Segmentation {segmentation_id} has no lesion {min(unknown)}.")
    kept = [lesion for lesion in document["lesions"] if lesion["number"] not in delete]
    names = Counter(rename.get(lesion["number"], lesion["name"]).casefold() for lesion in kept)
    if taken := [name for name in rename.values() if names[name.casefold()] > 1]:
        raise LesionNameTaken(f"Another lesion is called {taken[0]!r}.")
    task = CorrectTask(
        segmentation_id=segmentation_id, rename=dict(sorted(rename.items())), delete=tuple(sorted(delete))
    )
    return _submit(document, task)


@routes.post(
    "/segmentations/<segmentation_id>/restore",
    responses={200: JobAnswer, 202: JobAnswer},
)
def restore_segmentation(path: SegmentationPath, body: WaitForm) -> Response:
    """Make an earlier version the newest again: a job that stores its lesions as a new version

    The versions in between stay as they are. The job's result is the newest version where nothing differs.
    """
    document = segmentations.document(context().sessions, path.segmentation_id)
    newest = segmentations.newest_version(context().sessions, path.segmentation_id)
    task = RestoreTask(segmentation_id=path.segmentation_id, corrects=newest)
    return answer_with(_submit(document, task), body.wait_s)


@routes.post(
    "/measurements/<study_instance_uid>",
    responses={200: JobAnswer, 202: JobAnswer},
)
def measure_segmentation(path: StudyPath, body: MeasurementForm) -> Response:
    """Measure a SEG that was drawn or edited elsewhere and saved in the archive: a job

    Lesions are matched to those of the newest version by the voxels that they share, and keep their names.
    The job's result is a new version, or the newest one where nothing has changed.
    """
    job = submit_measurement(path.study_instance_uid, body.sop_instance_uid, body.corrects)
    return answer_with(job, body.wait_s)


def submit_measurement(study_instance_uid: str, sop_instance_uid: str, corrects: str | None) -> Job:
    """The job for a SEG in the archive. corrects: a segmentation; None: the newest of the SEG's series.

    Where that has a newer version the job fails, and what was drawn goes with the next success.
    Raises: SegmentationNotFound.
    """
    document: dict[str, Any] = {"series_instance_uid": None, "model": segmentations.BY_HAND}
    if corrects is not None:
        document = segmentations.document(context().sessions, corrects)
    task = MeasureTask(sop_instance_uid=sop_instance_uid, corrects=corrects)
    return _submit({**document, "study_instance_uid": study_instance_uid}, task)


@routes.post(
    "/segmentations/<segmentation_id>/rtstruct",
    responses={200: JobAnswer, 202: JobAnswer},
)
def make_structure_set(path: SegmentationPath, body: WaitForm) -> Response:
    """Store the lesions as an RT Structure Set too: a job

    Its result is the segmentation, whose companions name the structure set. There is one for each version.
    """
    return answer_with(submit_structure_set(path.segmentation_id), body.wait_s)


def submit_structure_set(segmentation_id: str) -> Job:
    """The job. Raises: SegmentationNotFound, LesionNotFound."""
    document = segmentations.document(context().sessions, segmentation_id)
    if not document["lesions"]:
        raise LesionNotFound(f"Segmentation {segmentation_id} has no lesions.")
    return _submit(document, StructureSetTask(segmentation_id=segmentation_id))


@routes.post(
    "/segmentations/<segmentation_id>/uncertainty",
    responses={200: JobAnswer, 202: JobAnswer},
)
def make_uncertainty_map(path: SegmentationPath, body: WaitForm) -> Response:
    """Store how sure the model was, voxel by voxel, as a Parametric Map: a job

    Its result is the segmentation, whose companions name the map, of modality OT. There is one for each
    version.
    """
    document = segmentations.document(context().sessions, path.segmentation_id)
    served = [
        {"id": spec.id, "version": spec.version, "sha256": spec.weights.sha256}
        for spec in context().models.values()
    ]
    segmentations.refuse_other_model(document, served)
    return answer_with(_submit(document, UncertaintyTask(segmentation_id=path.segmentation_id)), body.wait_s)


def _submit(document: Mapping[str, Any], task: Task) -> Job:
    return jobs.submit(
        context().sessions,
        document["study_instance_uid"],
        document["model"]["id"],
        series_instance_uid=document["series_instance_uid"],
        requested_by=g.actor,
        task=task,
    )
