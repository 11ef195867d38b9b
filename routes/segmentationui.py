"""The calls of SegmentationUI's front-end, over the same use cases as the other routes.

Where it reads `success` or `error`, the first is a sentence and the second what every error here looks like.
A call that starts a job answers when the job has ended.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Response, g, jsonify, request
from pydicom import Dataset

from db import deletion, jobs, patients, segmentations
from db.tables import ACTIVE_STATES, Job, JobState
from errors import (
    JobCancelled,
    JobUnfinished,
    LesionNotFound,
    MetScopeError,
    SegmentationNotFound,
    SegmentationSuperseded,
    StudyNotFound,
    recorded,
)
from imaging.labelled import labelled_series
from orthanc import part10
from routes import segmentationui_schemas as shapes
from routes.corrections import submit_correction, submit_measurement, submit_structure_set
from routes.jobs import wait_for_end
from routes.results import ALL
from routes.shared import answer, blueprint, context, note_read
from routes.studies import Stored, store_files
from schemas.common import StudyPath

# nginx gives up after an hour.
LONGEST_WAIT_S = 3000.0
# What Orthanc lists of a study and of its patient.
STUDY_TAGS = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
)  # fmt: skip
PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")

routes = blueprint("segmentationui", "/segmentationui")


@routes.post("/segmentation/<study_instance_uid>", responses={200: shapes.SuccessAnswer})
def segment_and_wait(path: StudyPath) -> Response:
    """Segment a study with the default model

    The lesions are stored as an RT Structure Set too: of no other object does the front-end rename or delete
    lesions.
    """
    sessions = context().sessions
    model = context().model_id(None)
    job = jobs.submit(sessions, path.study_instance_uid, model, requested_by=g.actor)
    (segmentation_id,) = _results([job])
    document = segmentations.document(sessions, segmentation_id)
    companions = {one["modality"] for one in document["companions"]}
    if document["lesions"] and "RTSTRUCT" not in companions:
        _results([submit_structure_set(segmentation_id)])
    return _success(f"The study has been segmented; lesions: {len(document['lesions'])}.")


@routes.post("/rename-roi", responses={200: shapes.SuccessAnswer})
def rename_roi(body: shapes.RoiRenaming) -> Response:
    """Rename a lesion: the next version of the segmentation is stored"""
    segmentation_id, number = _newest(body)
    _results([submit_correction(segmentation_id, {number: body.new_name}, [])])
    return _success("The lesion has been renamed.")


@routes.post("/delete-roi", responses={200: shapes.SuccessAnswer})
def delete_roi(body: shapes.Roi) -> Response:
    """Delete a lesion: the next version of the segmentation is stored, without it"""
    segmentation_id, number = _newest(body)
    _results([submit_correction(segmentation_id, {}, [number])])
    return _success("The lesion has been deleted.")


def _newest(roi: shapes.Roi) -> tuple[str, int]:
    """The newest version of the segmentation that the front-end shows, and the lesion's number in it.

    After a change the front-end goes on to show the object that it had, with its numbers.
    Raises: SegmentationNotFound, LesionNotFound; SegmentationSuperseded where the series is that of the
    images and does not tell whose number it is.
    """
    versions = segmentations.segmentations_of_study(context().sessions, roi.study_instance_uid)
    possible = [one for one in versions if roi.serie_instance_uid in _series(one)]
    if not possible:
        raise SegmentationNotFound(f"The study has no segmentation in series {roi.serie_instance_uid}.")
    lesions = [lesion for one in possible for lesion in one["lesions"]]
    tracked = {one["tracking_uid"] for one in lesions if one["number"] == roi.roi_number}
    if len(tracked) > 1:
        raise SegmentationSuperseded(f"Number {roi.roi_number} is another lesion in another version.")
    newest = next(one for one in versions if _origin(one) == _origin(possible[0]))
    number = next((one["number"] for one in newest["lesions"] if one["tracking_uid"] in tracked), None)
    if number is None:
        raise LesionNotFound(
            f"Segmentation {newest['id']} has no such lesion as number {roi.roi_number} was."
        )
    return newest["id"], number


def _series(document: Mapping[str, Any]) -> set[str | None]:
    """Where the segmentation is shown, and of what it was made."""
    objects = (document["segmentation"], *document["companions"])
    return {document["series_instance_uid"], *(one["series_instance_uid"] for one in objects)}


def _origin(document: Mapping[str, Any]) -> tuple[str, str]:
    """What the versions of a segmentation share."""
    return document["series_instance_uid"], document["model"]["id"]


@routes.post("/uploadDicom", responses={200: shapes.SuccessAnswer})
def upload_dicom(form: shapes.DicomForm) -> Response:
    """Store DICOM files, and ZIP archives of them, in the archive; SEGs and RT Structure Sets are measured

    Every file is read before the first one is stored. The answer counts those that are not measured because
    their series has a result, which may be that of another file.
    """
    stored = store_files(form.files)
    drawn = [one for one in stored if one.modality in ("SEG", "RTSTRUCT")]
    measured: dict[tuple[str, str | None], Stored] = {}
    for one in drawn:
        series_uid = _labelled_series(one)
        # One of a series that has a result may be any object, or an older version: it corrects nothing by
        # itself. Of several of one series the second would correct the first.
        if series_uid is None or not segmentations.newest(
            context().sessions, one.study_instance_uid, series_uid
        ):
            measured.setdefault((one.study_instance_uid, series_uid), one)
    _results(
        [submit_measurement(one.study_instance_uid, one.sop_instance_uid, None) for one in measured.values()]
    )
    counts = [f"Stored: {len(stored)}", f"measured: {len(measured)}"]
    if others := len(drawn) - len(measured):
        counts.append(f"not measured, as their series have a result: {others}")
    return _success("; ".join(counts) + ".")


def _labelled_series(drawn: Stored) -> str | None:
    """Return the UID of the series that a SEG or structure set is drawn on; None: it does not say."""
    with context().asking_archive() as archive:
        study = archive.series_headers(drawn.study_instance_uid)
    header = next(one for of in study for one in of if one.SOPInstanceUID == drawn.sop_instance_uid)
    return labelled_series(header, study)


def _results(submitted: Sequence[Job]) -> list[str]:
    """The segmentations that the jobs end in. Raises: what a job failed with, JobCancelled, JobUnfinished."""
    for job in submitted:
        context().announcer.tell(job.id)
    return [_result(wait_for_end(job, LONGEST_WAIT_S)) for job in submitted]


def _result(job: Job) -> str:
    if job.state in ACTIVE_STATES:
        raise JobUnfinished(f"Job {job.id} is {job.state}.")
    if job.state == JobState.CANCELLED:
        raise JobCancelled(f"Job {job.id} was cancelled.")
    if job.state == JobState.FAILED:
        raise recorded(str(job.error_code), str(job.error_message))
    return str(job.segmentation_id)


def _success(sentence: str) -> Response:
    return answer(shapes.SuccessAnswer(success=sentence))


@routes.get("/getAllStudies", responses={200: shapes.OrthancIdsAnswer})
def get_all_studies() -> Response:
    """Orthanc's identifiers of the archive's studies"""
    with context().asking_archive() as archive:
        studies = archive.search_studies()
    return jsonify([_orthanc_id(study) for study in studies])


@routes.get("/getStudy/<orthanc_id>", responses={200: shapes.OrthancStudyAnswer})
def get_study(path: shapes.OrthancStudyPath) -> Response:
    """A study of the archive, as Orthanc describes it"""
    with context().asking_archive() as archive:
        studies = archive.search_studies()
    study = next((one for one in studies if _orthanc_id(one) == path.orthanc_id), None)
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
    """As Orthanc makes it, so that an archive of another kind has it too."""
    digest = hashlib.sha1(
        f"{study.get('PatientID') or ''}|{study.StudyInstanceUID}".encode(), usedforsecurity=False
    ).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, len(digest), 8))


def _texts(dataset: Dataset, keywords: Sequence[str]) -> dict[str, str]:
    return {keyword: str(dataset.get(keyword) or "") for keyword in keywords}


@routes.delete("/delete-study/<study_instance_uids>", responses={200: shapes.SuccessAnswer})
def delete_study(path: shapes.StudiesPath) -> Response:
    """Delete studies in the archive, and their segmentations from every list

    None is deleted where one of them has a result on its way into the archive. Each is entered as being
    deleted first, so that no job records anything of it; where the archive fails, the entry is taken back and
    the request may be repeated.
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
    """Enter studies as being deleted, and take back those that still are in the list where it fails."""
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

    The front-end downloads a structure set so. A reader's token is enough.
    """
    uid = request.get_data(as_text=True).strip()
    if segmentations.place_of_object(context().sessions, uid) is None:
        return jsonify([])
    return jsonify([{"ID": uid, "Path": f"/instances/{uid}", "Type": "Instance"}])


@routes.get(
    "/instances/<sop_instance_uid>/file",
    responses={200: {"content": {"application/dicom": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_object(path: shapes.ObjectPath) -> Response:
    """The file of an object that MetScope made, as the archive has it"""
    uid = path.sop_instance_uid
    place = segmentations.place_of_object(context().sessions, uid)
    if place is None:
        raise SegmentationNotFound(f"MetScope made no object {uid}.")
    with context().asking_archive() as archive:
        instances = archive.retrieve_series(*place)
    instance = next((one for one in instances if one.SOPInstanceUID == uid), None)
    if instance is None:
        raise SegmentationNotFound(f"The archive has no object {uid}.")
    note_read("object", uid, study_instance_uid=place[0])
    return Response(part10.encode(instance), content_type="application/dicom")


@routes.get("/followup-patients", responses={200: shapes.FollowupPatientsAnswer})
def list_followup_patients() -> Response:
    """The patients with results"""
    found = patients.patients(context().sessions)
    note_read("patients", ALL)
    return jsonify(
        [
            {"id": one["patient_id"], "name": one["name"], "date": one["birth_date"], "sexe": one["sex"]}
            for one in found
        ]
    )


@routes.get("/followup-etudes", responses={200: shapes.FollowupEtudesAnswer})
def list_followup_etudes(query: shapes.EtudesQuery) -> Response:
    """The studies with results, all or a patient's, by date"""
    studies = patients.segmented_studies(context().sessions, query.patient_id)
    note_read("studies", *([one["study_instance_uid"] for one in studies] if query.patient_id else [ALL]))
    return jsonify([{"id_study": one["study_instance_uid"], "date": one["study_date"]} for one in studies])


@routes.get("/followup-series", responses={200: shapes.FollowupSeriesAnswer})
def list_followup_series(query: shapes.SeriesQuery) -> Response:
    """The series that were segmented, all or a study's"""
    found = patients.segmented_series(context().sessions, query.study_instance_uid)
    note_read("studies", query.study_instance_uid or ALL)
    return jsonify(found)


@routes.get("/followup-metastases", responses={200: shapes.FollowupMetastasesAnswer})
def list_followup_metastases(query: shapes.MetastasesQuery) -> Response:
    """The lesions of the newest segmentation of a series, or of every series"""
    lesions = segmentations.lesions_of_series(context().sessions, query.series_instance_uid)
    note_read("lesions", query.series_instance_uid or ALL)
    return jsonify([_metastase(lesion) for lesion in lesions])


def _metastase(lesion: Mapping[str, Any]) -> dict[str, Any]:
    red, green, blue = bytes.fromhex(lesion["colour"].removeprefix("#"))
    box = lesion["bounding_box"]
    return {
        "id": lesion["number"],
        "nom_metastase": lesion["name"],
        "diametre": lesion["long_axis_mm"],
        "volume": lesion["volume_ml"],
        "slice_debut": box["first"][0],
        "slice_fin": box["last"][0],
        "color": f"[{red} {green} {blue}]",
    }
