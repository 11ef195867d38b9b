"""The routes that change or extend a segmentation: lesions renamed, deleted or redrawn, a structure set, an
uncertainty map.
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

    Answers 200 if the job ended within wait_s, otherwise 202. The previous version is kept.
    """
    renamed = {one.number: one.name for one in body.rename}
    return answer_with(submit_correction(path.segmentation_id, renamed, body.delete), body.wait_s)


def submit_correction(segmentation_id: str, rename: Mapping[int, str], delete: Sequence[int]) -> Job:
    """Submit a correction job. rename: new names by lesion number.

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
    """Restore an earlier version: a job that stores its lesions as a new version

    The versions in between are kept. If nothing differs, the job's result is the newest version.
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
    """Measure a SEG that another program drew or edited and stored in the archive: a job

    Lesions that share voxels with those of the newest version keep their names.
    The job's result is a new version, or the newest one if nothing has changed.
    """
    job = submit_measurement(path.study_instance_uid, body.sop_instance_uid, body.corrects)
    return answer_with(job, body.wait_s)


def submit_measurement(study_instance_uid: str, sop_instance_uid: str, corrects: str | None) -> Job:
    """Submit a job that measures a SEG in the archive.

    corrects: the segmentation that was edited; None: the newest of the SEG's series. The job fails if that
    segmentation has a newer version; its drawing is deleted after the next job that succeeds.
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
    """Store the lesions also as an RT Structure Set: a job

    The job's result is the segmentation; its companions name the structure set. Each version has its own.
    """
    return answer_with(submit_structure_set(path.segmentation_id), body.wait_s)


def submit_structure_set(segmentation_id: str) -> Job:
    """Submit a job that stores the lesions as an RT Structure Set.

    Raises: SegmentationNotFound; LesionNotFound if there are no lesions.
    """
    document = segmentations.document(context().sessions, segmentation_id)
    if not document["lesions"]:
        raise LesionNotFound(f"Segmentation {segmentation_id} has no lesions.")
    return _submit(document, StructureSetTask(segmentation_id=segmentation_id))


@routes.post(
    "/segmentations/<segmentation_id>/uncertainty",
    responses={200: JobAnswer, 202: JobAnswer},
)
def make_uncertainty_map(path: SegmentationPath, body: WaitForm) -> Response:
    """Store the model's uncertainty in each voxel as a Parametric Map: a job

    The job's result is the segmentation; its companions name the map, of modality OT. Each version has its
    own.
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
