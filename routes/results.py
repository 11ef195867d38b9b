"""Candidates, segmentations, patients and models."""

from flask import Response, g, jsonify

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

# What the audit trail says was read where it was every patient's, or a list without a lesion.
ALL, NONE = "all", "none"

routes = blueprint("results")


@routes.get(
    "/studies/<study_instance_uid>/candidates",
    responses={200: CandidatesAnswer},
)
def list_candidates(path: StudyPath) -> Response:
    """The study's series, ranked, with the reasons for the rank or for a refusal"""
    with context().asking_archive() as archive:
        ranked = series.rank(archive.series_headers(path.study_instance_uid))
    note_read("study", path.study_instance_uid)
    candidates = [CandidateAnswer.model_validate(c, from_attributes=True) for c in ranked]
    return answer(CandidatesAnswer(candidates=candidates))


@routes.get("/studies/<study_instance_uid>/segmentations", responses={200: SegmentationsAnswer})
def list_segmentations(path: StudyPath) -> Response:
    """The study's segmentations, newest first; none for a study that was never segmented"""
    found = segmentations.segmentations_of_study(context().sessions, path.study_instance_uid)
    note_read("study", path.study_instance_uid)
    return jsonify({"segmentations": found})


@routes.get(
    "/segmentations/<segmentation_id>",
    responses={200: SegmentationAnswer},
)
def get_segmentation(path: SegmentationPath) -> Response:
    """A segmentation with every lesion measured"""
    document = segmentations.document(context().sessions, path.segmentation_id)
    note_read("segmentation", path.segmentation_id)
    return jsonify(document)


@routes.delete("/segmentations/<segmentation_id>", responses={204: None})
def delete_segmentation(path: SegmentationPath) -> Response:
    """Delete a segmentation: its SEG and companions in the archive, and its rows from every list

    It is marked first, so that no job adds anything to it; where the archive fails, the mark is taken back
    and the request may be repeated. A correction that is deleted leaves the version before it the newest.
    """
    sessions, segmentation_id = context().sessions, path.segmentation_id
    with context().asking_archive() as archive:
        stored = deletion.begin(sessions, segmentation_id, g.actor)
        try:
            for uid in stored.sop_instance_uids:
                archive.delete_instance(stored.study_instance_uid, uid)
        except ArchiveError:
            deletion.undo(sessions, segmentation_id, g.actor)
            raise
    deletion.finish(sessions, segmentation_id)
    return Response(status=204)


@routes.get("/patients", responses={200: PatientsAnswer})
def list_patients() -> Response:
    """The patients with results"""
    found = patients.patients(context().sessions)
    note_read("patients", ALL)
    return jsonify({"patients": found})


@routes.get(
    "/patients/<path:patient_id>/lesions",
    responses={200: LesionsAnswer},
)
def list_lesions(path: PatientPath, query: PatientQuery) -> Response:
    """A patient's lesions by study date; of each series what a person corrected, else the newest"""
    lesions = patients.lesions_of_patient(context().sessions, path.patient_id, query.issuer)
    studies = [lesion["study_instance_uid"] for lesion in lesions]
    note_read("lesions", *(studies or [NONE]))
    return jsonify({"patient_id": path.patient_id, "lesions": lesions})


@routes.get("/models", responses={200: ModelsAnswer})
def list_models() -> Response:
    """The models that a request may name"""
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
