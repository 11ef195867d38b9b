"""The calls of SegmentationUI's front-end, on the same use cases as the other routes.

The front-end reads `success`, a sentence, or `error`, which has the form of all errors of the API.
A call that starts a job answers when the job has ended.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flask import Response, g, request
from pydicom import Dataset

from db import deletion, patients, segmentations
from db.tables import ACTIVE_STATES, Job, JobState
from errors import (
    JobCancelled,
    JobUnfinished,
    LesionNotFound,
    MetScopeError,
    SegmentationNotFound,
    SegmentationSuperseded,
    StudyNotFound,
    error_from_code,
)
from imaging.labelled import labelled_series
from orthanc import part10
from routes import segmentationui_schemas as shapes
from routes.jobs import wait_for_end
from routes.results import ALL
from routes.shared import answer, blueprint, context, note_read, submission
from routes.uploads import StoredInstance, store_files
from schemas.common import StudyPath
from schemas.jobs import SegmentationForm
from schemas.results import PatientLesion, SegmentationAnswer

# nginx gives up after an hour.
MAX_WAIT_S = 3000.0
# The attributes that Orthanc lists for a study and for its patient.
STUDY_TAGS = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
)  # fmt: skip
PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")

routes = blueprint("segmentationui", "/segmentationui")


@routes.post("/segmentation/<study_instance_uid>", responses={200: shapes.SuccessAnswer})
def segment_and_wait(path: StudyPath) -> Response:
    """Segment a study with the default model

    The lesions are stored also as an RT Structure Set, the only object in which the front-end renames and
    deletes lesions.
    """
    job = submission().segment(
        path.study_instance_uid, context().model(), SegmentationForm.model_validate({})
    )
    (segmentation_id,) = _results([job])
    document = segmentations.document(context().sessions, segmentation_id)
    if document.lesions:
        _results([submission().add_structure_set(segmentation_id)])
    return _success(f"The study has been segmented; lesions: {len(document.lesions)}.")


@routes.post("/rename-roi", responses={200: shapes.SuccessAnswer})
def rename_roi(body: shapes.RoiRenaming) -> Response:
    """Rename a lesion and store the result as the next version of the segmentation"""
    segmentation_id, number = _newest_version(body)
    _results([submission().correct(segmentation_id, {number: body.new_name}, [])])
    return _success("The lesion has been renamed.")


@routes.post("/delete-roi", responses={200: shapes.SuccessAnswer})
def delete_roi(body: shapes.Roi) -> Response:
    """Delete a lesion and store the result as the next version of the segmentation"""
    segmentation_id, number = _newest_version(body)
    _results([submission().correct(segmentation_id, {}, [number])])
    return _success("The lesion has been deleted.")


def _newest_version(roi: shapes.Roi) -> tuple[str, int]:
    """Return the newest version of the segmentation that the front-end shows, and the lesion's number in it.

    After a change the front-end still shows the old object, with the old numbers. A version whose SEG is
    missing in the archive cannot be changed and does not count.
    Raises: SegmentationNotFound, LesionNotFound; SegmentationSuperseded if the number means different lesions
    in the versions that belong to the series.
    """
    versions = segmentations.segmentations_of_study(context().sessions, roi.study_instance_uid)
    possible = [version for version in versions if roi.serie_instance_uid in _series(version)]
    if not possible:
        raise SegmentationNotFound(f"The study has no segmentation in series {roi.serie_instance_uid}.")
    lesions = [lesion for version in possible for lesion in version.lesions]
    tracked = {lesion.tracking_uid for lesion in lesions if lesion.number == roi.roi_number}
    if len(tracked) > 1:
        raise SegmentationSuperseded(f"Number {roi.roi_number} is a different lesion in another version.")
    present = (version for version in versions if version.segmentation.missing_since is None)
    newest = next((v for v in present if _origin(v) == _origin(possible[0])), possible[0])
    number = next((lesion.number for lesion in newest.lesions if lesion.tracking_uid in tracked), None)
    if number is None:
        raise LesionNotFound(
            f"Segmentation {newest.id} no longer has the lesion that was number {roi.roi_number}."
        )
    return newest.id, number


def _series(document: SegmentationAnswer) -> set[str | None]:
    """Return the UIDs of the source series and of the series that hold the SEG and its companions."""
    companions = {companion.series_instance_uid for companion in document.companions}
    return {document.series_instance_uid, document.segmentation.series_instance_uid, *companions}


def _origin(document: SegmentationAnswer) -> tuple[str, str]:
    """Return the source series and model id, which all versions of a segmentation share."""
    return document.series_instance_uid, document.model.id


@routes.post("/uploadDicom", responses={200: shapes.SuccessAnswer})
def upload_dicom(form: shapes.DicomForm) -> Response:
    """Store DICOM files, and ZIP archives of them, in the archive; measure SEGs and RT Structure Sets

    All files are read before the first is stored. The answer counts the SEGs and structure sets that are not
    measured because their series has a result, possibly from another file of the upload.
    """
    stored = store_files(form.files)
    drawings = [drawing for drawing in stored if drawing.modality in ("SEG", "RTSTRUCT")]
    drawings_by_series: dict[tuple[str, str | None], StoredInstance] = {}
    for drawing in drawings:
        series_uid = _labelled_series(drawing)
        # If the series has a result, this may be an older version, so it must not correct that result.
        # Of several objects of one series, the second would correct the first.
        if series_uid is None or not segmentations.current_result(
            context().sessions, drawing.study_instance_uid, series_uid
        ):
            drawings_by_series.setdefault((drawing.study_instance_uid, series_uid), drawing)
    ask = submission()
    jobs = [ask.measure(d.study_instance_uid, d.sop_instance_uid) for d in drawings_by_series.values()]
    _results(jobs)
    counts = [f"Stored: {len(stored)}", f"measured: {len(drawings_by_series)}"]
    if unmeasured_count := len(drawings) - len(drawings_by_series):
        counts.append(f"not measured, because their series have a result: {unmeasured_count}")
    return _success("; ".join(counts) + ".")


def _labelled_series(drawing: StoredInstance) -> str | None:
    """Return the UID of the series that a SEG or structure set was drawn on; None if it does not say."""
    with context().asking_archive() as archive:
        study = archive.series_headers(drawing.study_instance_uid)
    headers = (header for series in study for header in series)
    header = next(header for header in headers if header.SOPInstanceUID == drawing.sop_instance_uid)
    return labelled_series(header, study)


def _results(submitted: Sequence[Job]) -> list[str]:
    """Wait for the jobs and return the ids of their segmentations.

    Raises: the error that a job failed with, JobCancelled, JobUnfinished.
    """
    return [_result(wait_for_end(job, MAX_WAIT_S)) for job in submitted]


def _result(job: Job) -> str:
    if job.state in ACTIVE_STATES:
        raise JobUnfinished(f"Job {job.id} is {job.state}.")
    if job.state == JobState.CANCELLED:
        raise JobCancelled(f"Job {job.id} was cancelled.")
    if job.state == JobState.FAILED:
        raise error_from_code(str(job.error_code), str(job.error_message))
    return str(job.segmentation_id)


def _success(sentence: str) -> Response:
    return answer(shapes.SuccessAnswer(success=sentence))


@routes.get("/getAllStudies", responses={200: shapes.OrthancIdsAnswer})
def get_all_studies() -> Response:
    """List Orthanc's identifiers of the studies in the archive"""
    with context().asking_archive() as archive:
        studies = archive.search_studies()
    return answer(shapes.OrthancIdsAnswer([_orthanc_id(study) for study in studies]))


@routes.get("/getStudy/<orthanc_id>", responses={200: shapes.OrthancStudyAnswer})
def get_study(path: shapes.OrthancStudyPath) -> Response:
    """Get a study of the archive, as Orthanc describes it"""
    with context().asking_archive() as archive:
        studies = archive.search_studies()
    study = next((study for study in studies if _orthanc_id(study) == path.orthanc_id), None)
    if study is None:
        raise StudyNotFound(f"The archive has no study {path.orthanc_id}.")
    note_read("study", str(study.StudyInstanceUID))
    return answer(
        shapes.OrthancStudyAnswer(
            ID=path.orthanc_id,
            Type="Study",
            MainDicomTags=_texts(study, STUDY_TAGS),
            PatientMainDicomTags=_texts(study, PATIENT_TAGS),
        )
    )


def _orthanc_id(study: Dataset) -> str:
    """Return the study's identifier as Orthanc computes it, whatever the archive is."""
    digest = hashlib.sha1(
        f"{study.get('PatientID') or ''}|{study.StudyInstanceUID}".encode(), usedforsecurity=False
    ).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, len(digest), 8))


def _texts(dataset: Dataset, keywords: Sequence[str]) -> dict[str, str]:
    return {keyword: str(dataset.get(keyword) or "") for keyword in keywords}


@routes.delete("/delete-study/<study_instance_uids>", responses={200: shapes.SuccessAnswer})
def delete_study(path: shapes.StudiesPath) -> Response:
    """Delete studies in the archive, and their segmentations

    No study is deleted if one of them has an unfinished job or a result that waits for the archive. Each is
    marked as being deleted first, so that no job records a result for it. If the archive fails, the mark is
    removed and the request may be repeated.
    """
    uids = list(dict.fromkeys(path.study_instance_uids.split(",")))
    with context().asking_archive() as archive, _being_deleted(uids) as entered:
        for uid in uids:
            archive.delete_study(uid)
            deletion.finish_study(context().sessions, uid, g.actor)
            entered.remove(uid)
    return _success("The study has been deleted." if len(uids) == 1 else "The studies have been deleted.")


@contextmanager
def _being_deleted(study_uids: Sequence[str]) -> Iterator[list[str]]:
    """Mark studies as being deleted; on an error, unmark those that are still in the yielded list."""
    entered: list[str] = []
    try:
        for uid in study_uids:
            deletion.begin_study(context().sessions, uid, g.actor)
            entered.append(uid)
        yield entered
    except MetScopeError:
        for uid in entered:
            deletion.undo_study(context().sessions, uid)
        raise


@routes.post("/tools/lookup", responses={200: shapes.LookupAnswer})
def look_up(raw: shapes.LookupBody) -> Response:
    """Find an object that MetScope made by its SOPInstanceUID, as Orthanc finds an instance

    The front-end uses it to download a structure set. A reader's token is enough.
    """
    uid = request.get_data(as_text=True).strip()
    if segmentations.uids_of_object(context().sessions, uid) is None:
        return answer(shapes.LookupAnswer([]))
    instance = shapes.FoundObject(ID=uid, Path=f"/instances/{uid}", Type="Instance")
    return answer(shapes.LookupAnswer([instance]))


@routes.get(
    "/instances/<sop_instance_uid>/file",
    responses={200: {"content": {"application/dicom": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_object(path: shapes.ObjectPath) -> Response:
    """Download an object that MetScope made, as the archive has it"""
    uid = path.sop_instance_uid
    place = segmentations.uids_of_object(context().sessions, uid)
    if place is None:
        raise SegmentationNotFound(f"MetScope did not create object {uid}.")
    with context().asking_archive() as archive:
        instances = archive.retrieve_series(*place)
    instance = next((instance for instance in instances if instance.SOPInstanceUID == uid), None)
    if instance is None:
        raise SegmentationNotFound(f"The archive has no object {uid}.")
    note_read("object", uid, study_instance_uid=place[0])
    return Response(part10.encode(instance), content_type="application/dicom")


@routes.get("/followup-patients", responses={200: shapes.FollowupPatientsAnswer})
def list_followup_patients() -> Response:
    """List the patients with results"""
    answers = [
        shapes.FollowupPatient(
            id=patient.patient_id, name=patient.name, date=patient.birth_date, sexe=patient.sex
        )
        for patient in patients.patients(context().sessions)
    ]
    note_read("patients", ALL)
    return answer(shapes.FollowupPatientsAnswer(answers))


@routes.get("/followup-etudes", responses={200: shapes.FollowupEtudesAnswer})
def list_followup_etudes(query: shapes.EtudesQuery) -> Response:
    """List the studies with results, of all patients or of one, by date"""
    studies = patients.segmented_studies(context().sessions, query.patient_id)
    note_read("studies", *([study.study_instance_uid for study in studies] if query.patient_id else [ALL]))
    answers = [
        shapes.FollowupEtude(id_study=study.study_instance_uid, date=study.study_date) for study in studies
    ]
    return answer(shapes.FollowupEtudesAnswer(answers))


@routes.get("/followup-series", responses={200: shapes.FollowupSeriesAnswer})
def list_followup_series(query: shapes.SeriesQuery) -> Response:
    """List the segmented series, of all studies or of one"""
    answers = [
        shapes.FollowupSerie.model_validate(row, from_attributes=True)
        for row in patients.segmented_series(context().sessions, query.study_instance_uid)
    ]
    note_read("studies", query.study_instance_uid or ALL)
    return answer(shapes.FollowupSeriesAnswer(answers))


@routes.get("/followup-metastases", responses={200: shapes.FollowupMetastasesAnswer})
def list_followup_metastases(query: shapes.MetastasesQuery) -> Response:
    """List the lesions of the newest segmentation of one series, or of every series"""
    lesions = segmentations.lesions_of_series(context().sessions, query.series_instance_uid)
    note_read("lesions", query.series_instance_uid or ALL)
    return answer(shapes.FollowupMetastasesAnswer([_metastase(lesion) for lesion in lesions]))


def _metastase(lesion: PatientLesion) -> shapes.FollowupMetastase:
    red, green, blue = bytes.fromhex(lesion.colour.removeprefix("#"))
    return shapes.FollowupMetastase(
        id=lesion.number,
        nom_metastase=lesion.name,
        diametre=lesion.long_axis_mm,
        volume=lesion.volume_ml,
        slice_debut=lesion.bounding_box.first[0],
        slice_fin=lesion.bounding_box.last[0],
        color=f"[{red} {green} {blue}]",
    )
