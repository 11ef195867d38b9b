"""The routes that change or extend a segmentation: lesions renamed, deleted or redrawn, a structure set, an
uncertainty map.
"""

from flask import Response

from routes.jobs import answer_with
from routes.shared import blueprint, context, submission
from schemas.common import StudyPath, WaitForm
from schemas.corrections import CorrectionForm, MeasurementForm
from schemas.jobs import JobAnswer
from schemas.results import SegmentationPath
from unetr.served import reference_to

routes = blueprint("corrections")


@routes.post(
    "/segmentations/<segmentation_id>/corrections",
    responses={200: JobAnswer, 202: JobAnswer},
)
def correct_segmentation(path: SegmentationPath, body: CorrectionForm) -> Response:
    """Rename or delete lesions: a job that stores a new version of the segmentation

    Answers 200 if the job ended within wait_s, otherwise 202. The previous version is kept.
    """
    names = {renaming.number: renaming.name for renaming in body.rename}
    return answer_with(submission().correct(path.segmentation_id, names, body.delete), body.wait_s)


@routes.post(
    "/segmentations/<segmentation_id>/restore",
    responses={200: JobAnswer, 202: JobAnswer},
)
def restore_segmentation(path: SegmentationPath, body: WaitForm) -> Response:
    """Restore an earlier version: a job that stores its lesions as a new version

    The versions in between are kept. If nothing differs, the job's result is the newest version.
    """
    return answer_with(submission().restore(path.segmentation_id), body.wait_s)


@routes.post(
    "/measurements/<study_instance_uid>",
    responses={200: JobAnswer, 202: JobAnswer},
)
def measure_segmentation(path: StudyPath, body: MeasurementForm) -> Response:
    """Measure a SEG that another program drew or edited and stored in the archive: a job

    Lesions that share voxels with those of the newest version keep their names.
    The job's result is a new version, or the newest one if nothing has changed.
    """
    job = submission().measure(path.study_instance_uid, body.sop_instance_uid, body.corrects)
    return answer_with(job, body.wait_s)


@routes.post(
    "/segmentations/<segmentation_id>/rtstruct",
    responses={200: JobAnswer, 202: JobAnswer},
)
def make_structure_set(path: SegmentationPath, body: WaitForm) -> Response:
    """Store the lesions also as an RT Structure Set: a job

    The job's result is the segmentation; its companions name the structure set. Each version has its own.
    """
    return answer_with(submission().add_structure_set(path.segmentation_id), body.wait_s)


@routes.post(
    "/segmentations/<segmentation_id>/uncertainty",
    responses={200: JobAnswer, 202: JobAnswer},
)
def make_uncertainty_map(path: SegmentationPath, body: WaitForm) -> Response:
    """Store the model's uncertainty in each voxel as a Parametric Map: a job

    The job's result is the segmentation; its companions name the map, of modality OT. Each version has its
    own.
    """
    served = [reference_to(spec) for spec in context().models.values()]
    job = submission().add_uncertainty_map(path.segmentation_id, served)
    return answer_with(job, body.wait_s)
