"""The routes for candidates, segmentations, patients and models."""

from flask import Response, g

from db import deletion, patients, segmentations
from errors import ArchiveError
from imaging import series
from routes.shared import answer, blueprint, context, note_read
from schemas.common import StudyPath
from schemas.results import (
    CandidateAnswer,
    CandidatesAnswer,
    LesionsAnswer,
    ModelAnswer,
    ModelsAnswer,
    PatientPath,
    PatientQuery,
    PatientsAnswer,
    SegmentationAnswer,
    SegmentationPath,
    SegmentationsAnswer,
)

# Subjects in the audit trail where the data of all patients, or a list without lesions, was read.
ALL, NONE = "all", "none"

routes = blueprint("results")


@routes.get(
    "/studies/<study_instance_uid>/candidates",
    responses={200: CandidatesAnswer},
)
def list_candidates(path: StudyPath) -> Response:
    """Rank the series of a study, with the reasons for each rank or refusal"""
    with context().asking_archive() as archive:
        ranked = series.rank(archive.series_headers(path.study_instance_uid))
    note_read("study", path.study_instance_uid)
    candidates = [CandidateAnswer.model_validate(c, from_attributes=True) for c in ranked]
    return answer(CandidatesAnswer(candidates=candidates))


@routes.get("/studies/<study_instance_uid>/segmentations", responses={200: SegmentationsAnswer})
def list_segmentations(path: StudyPath) -> Response:
    """List the segmentations of a study, newest first; empty if it was never segmented"""
    documents = segmentations.segmentations_of_study(context().sessions, path.study_instance_uid)
    note_read("study", path.study_instance_uid)
    return answer(SegmentationsAnswer(segmentations=documents))


@routes.get(
    "/segmentations/<segmentation_id>",
    responses={200: SegmentationAnswer},
)
def get_segmentation(path: SegmentationPath) -> Response:
    """Get a segmentation with the measurements of all its lesions"""
    document = segmentations.document(context().sessions, path.segmentation_id)
    note_read("segmentation", path.segmentation_id)
    return answer(document)


@routes.delete("/segmentations/<segmentation_id>", responses={204: None})
def delete_segmentation(path: SegmentationPath) -> Response:
    """Delete a segmentation, with its SEG and companions in the archive

    It is marked as deleted first, so that no job adds to it. If the archive fails at the SEG, the mark is
    removed, and the segmentation stays. If it fails later, the segmentation stays deleted, and the same
    request deletes the rest. After a correction is deleted, the version before it is the newest.
    """
    sessions, segmentation_id = context().sessions, path.segmentation_id
    with context().asking_archive() as archive:
        stored = deletion.begin(sessions, segmentation_id, g.actor)
        may_be_gone = stored.may_be_gone
        try:
            for uid in stored.sop_instance_uids:
                archive.delete_instance(stored.study_instance_uid, uid)
                may_be_gone = True
        except ArchiveError:
            if not may_be_gone:
                deletion.undo(sessions, segmentation_id, g.actor)
            raise
    deletion.finish(sessions, segmentation_id)
    return Response(status=204)


@routes.get("/patients", responses={200: PatientsAnswer})
def list_patients() -> Response:
    """List the patients with results"""
    listed = patients.patients(context().sessions)
    note_read("patients", ALL)
    return answer(PatientsAnswer(patients=listed))


@routes.get(
    "/patients/<path:patient_id>/lesions",
    responses={200: LesionsAnswer},
)
def list_lesions(path: PatientPath, query: PatientQuery) -> Response:
    """List the lesions of a patient by study date

    One segmentation counts per series: of the newest versions of each model, the newest that a person
    corrected or drew, otherwise the newest. Those whose SEG is missing in the archive do not count.
    """
    lesions = patients.lesions_of_patient(context().sessions, path.patient_id, query.issuer)
    studies = [lesion.study_instance_uid for lesion in lesions]
    note_read("lesions", *(studies or [NONE]))
    return answer(LesionsAnswer(patient_id=path.patient_id, lesions=lesions))


@routes.get("/models", responses={200: ModelsAnswer})
def list_models() -> Response:
    """List the models that a request may name"""
    default = context().default_model
    models = [
        ModelAnswer(
            id=spec.id,
            title=spec.title,
            version=spec.version,
            sha256=spec.weights.sha256,
            default=spec.id == default.id,
        )
        for spec in context().models.values()
    ]
    return answer(ModelsAnswer(models=models))
