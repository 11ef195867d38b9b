"""The calls of SegmentationUI's front-end, replayed: what it sends, and what it reads of the answers.

Its viewer shows the structure sets that are in the archive; when a lesion is renamed or deleted, it goes
on to show the one that it has.
"""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
import requests
from jsonschema import Draft202012Validator
from pydicom import dcmread

from api import create_app
from bench import rows
from bench.parts import wait_until
from db import jobs, segmentations, tokens
from db.tables import AuditEvent, JobState, Outbox, Patient, Role
from imaging import rtstruct, seg
from imaging.derived import Edition
from imaging.stack import to_stack
from lesions.measure import measure
from orthanc import part10
from routes.shared import WAITING_REQUESTS
from settings import Settings
from tests import fake_pacs
from tests.documents import documents_of_study, lesions_of_patient
from tests.site import VOXEL_ML, Site
from unetr.synthesis.phantom import SeriesOptions, to_instances
from worker import check_presence

JSON = {"Content-Type": "application/json"}


class FrontEndSite(Site):
    """A site that serves SegmentationUI, with a worker in a thread that finds what is bright."""

    def __init__(self, folder, **settings):
        super().__init__(folder, segmentationui_api=True, **settings)
        self.context = self.app.extensions["metscope"]
        secret = tokens.create(self.sessions, "admin", Role.ADMIN, "test")
        self.headers = {"Authorization": f"Bearer {secret}"}
        self._stopped = threading.Event()
        self._worker = threading.Thread(target=self._work)

    def work(self):
        self._worker.start()

    def stop(self):
        self._stopped.set()
        if self._worker.is_alive():
            self._worker.join()

    def _work(self):
        while not self._stopped.wait(0.02):
            for job in jobs.list_jobs(self.sessions, state="queued"):
                self.runner.run(job.id)

    def ask(self, method, path, status=200, **options):
        """The answer, held against the OpenAPI document."""
        headers = self.headers | options.pop("headers", {})
        answer = self.app.test_client().open(
            f"/segmentationui{path}", method=method, headers=headers, **options
        )
        assert answer.status_code == status, answer.text
        document = self.app.api_doc
        for template, item in document["paths"].items():
            if re.fullmatch(
                re.sub(r"{[^}]+}", "[^/]+", template), f"/segmentationui{path}".partition("?")[0]
            ):
                responses = item[method.lower()]["responses"]
        schema = responses.get(str(status), responses["default"])["content"]["application/json"]["schema"]
        Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json)
        return answer.json

    def segment(self, study):
        assert self.ask("POST", f"/segmentation/{study}", headers=JSON)["success"]
        return self.newest(study)

    def newest(self, study):
        return documents_of_study(self.sessions, study)[0]

    def names(self, study):
        return [lesion["name"] for lesion in self.newest(study)["lesions"]]


@pytest.fixture
def idle(tmp_path) -> Iterator[FrontEndSite]:
    """A site whose worker does nothing yet."""
    site = FrontEndSite(tmp_path)
    yield site
    site.stop()


@pytest.fixture
def site(idle) -> FrontEndSite:
    idle.work()
    return idle


def structure_set(document):
    """The series that the front-end finds its lesions in."""
    (companion,) = [entry for entry in document["companions"] if entry["modality"] == "RTSTRUCT"]
    return companion["series_instance_uid"]


def modalities(site, study):
    return sorted(series[0].Modality for series in site.archive.series_headers(study))


def test_segmentation_answers_when_the_lesions_are_in_the_archive_as_a_structure_set(site):
    study = rows.add_study(site.settings, 1)
    document = site.segment(study)
    assert len(document["lesions"]) == rows.LESIONS
    assert modalities(site, study) == ["MR", "RTSTRUCT", "SEG", "SR"]
    # Asked again it has nothing to add.
    assert site.segment(study) == document
    assert modalities(site, study) == ["MR", "RTSTRUCT", "SEG", "SR"]


def test_segmentation_stores_a_structure_set_again_that_the_archive_has_lost(site):
    study = rows.add_study(site.settings, 1)
    lost = site.segment(study)["companions"][1]
    site.archive.delete_instance(study, lost["sop_instance_uid"])
    made = site.segment(study)["companions"][1]
    assert modalities(site, study) == ["MR", "RTSTRUCT", "SEG", "SR"]
    assert made["sop_instance_uid"] != lost["sop_instance_uid"]


def test_a_segmentation_that_fails_has_the_status_and_the_sentence_of_its_error(site):
    failed = site.ask("POST", "/segmentation/1.2.3", 404, headers=JSON)
    assert "success" not in failed
    assert failed["error"] == {
        "code": "study_not_found",
        "message": "The archive has no study 1.2.3. Check that the study has been sent to the archive.",
        "details": {},
    }


def test_a_segmentation_that_somebody_cancels_says_so(idle):
    with ThreadPoolExecutor() as pool:
        future = pool.submit(idle.ask, "POST", "/segmentation/1.2.3", 409, headers=JSON)
        wait_until(lambda: jobs.list_jobs(idle.sessions), "the job")
        jobs.cancel(idle.sessions, jobs.list_jobs(idle.sessions)[0].id, "somebody")
        assert future.result()["error"]["code"] == "job_cancelled"


def test_a_call_that_cannot_wait_goes_on_where_it_is_asked_again(idle):
    study = rows.add_study(idle.settings, 1)
    for _ in range(WAITING_REQUESTS):
        idle.context.waiting.acquire()
    unfinished = idle.ask("POST", f"/segmentation/{study}", 504, headers=JSON)
    assert unfinished["error"]["code"] == "job_unfinished"
    idle.context.waiting.release()
    idle.work()
    assert len(idle.segment(study)["lesions"]) == rows.LESIONS
    assert [job.state for job in jobs.list_jobs(idle.sessions)] == [JobState.DONE] * 2


def test_rename_roi_renames_the_lesion_in_whatever_series_shows_it(site):
    study = rows.add_study(site.settings, 1)
    document = site.segment(study)
    shown = {
        1: structure_set(document),
        2: document["segmentation"]["series_instance_uid"],
        "3": document["series_instance_uid"],
    }
    for number, series in shown.items():
        body = {
            "serie_instance_uid": series,
            "study_instance_uid": study,
            "roi_number": number,
            "new_name": f"lesion {number}",
        }
        assert site.ask("POST", "/rename-roi", json=body)["success"]
    assert site.names(study) == ["lesion 1", "lesion 2", "lesion 3", "Metastasis 4", "Metastasis 5"]
    assert site.newest(study)["corrected_by"] == "admin"
    (shows,) = site.archive.retrieve_series(study, structure_set(site.newest(study)))
    assert [roi.ROIName for roi in shows.StructureSetROISequence] == site.names(study)


def test_delete_roi_means_the_lesion_that_the_front_end_shows_under_that_number(site):
    study = rows.add_study(site.settings, 1)
    shown = structure_set(site.segment(study))
    body = {"serie_instance_uid": shown, "study_instance_uid": study}
    # After the first one the others have moved up, but not where the front-end shows them.
    for number in (1, 2, 4):
        assert site.ask("POST", "/delete-roi", json=body | {"roi_number": number})["success"]
    assert site.names(study) == ["Metastasis 3", "Metastasis 5"]
    answer = site.ask("POST", "/delete-roi", 404, json=body | {"roi_number": 4})
    assert answer["error"]["code"] == "lesion_not_found"
    assert "no longer has the lesion that was number 4." in answer["error"]["message"]
    elsewhere = site.ask(
        "POST", "/delete-roi", 404, json=body | {"serie_instance_uid": "1.2", "roi_number": 1}
    )
    assert elsewhere["error"]["code"] == "segmentation_not_found"


def test_delete_roi_refuses_a_number_that_is_another_lesion_in_another_version(site):
    study = rows.add_study(site.settings, 1)
    images = site.segment(study)["series_instance_uid"]
    body = {"serie_instance_uid": images, "study_instance_uid": study}
    assert site.ask("POST", "/delete-roi", json=body | {"roi_number": 1})["success"]
    refused = site.ask("POST", "/delete-roi", 409, json=body | {"roi_number": 2})
    assert refused["error"]["code"] == "segmentation_superseded"
    assert site.names(study) == [f"Metastasis {number}" for number in (2, 3, 4, 5)]


def drawn_on(images):
    """Return a SEG of two lesions by hand."""
    labels = np.zeros(rows.SHAPE, np.uint8)
    labels[5:8, 10:14, 4:8], labels[2:4, 20:24, 16:24] = 1, 2
    return fake_pacs.hand_drawn_seg(images, labels, ["frontal", "pons"])


def test_upload_dicom_stores_the_files_and_measures_a_segmentation_among_them(site):
    images = to_instances(rows.image(2), SeriesOptions(enhanced="shared", patient_id="4711"))
    study, series = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)
    files = [(BytesIO(part10.encode(instance)), "1.dcm") for instance in (*images, drawn_on(images))]
    assert site.ask("POST", "/uploadDicom", data={"files[]": files})["success"]
    assert modalities(site, study).count("MR") == 1
    listed_lesions = site.ask("GET", f"/followup-metastases?idSeries={series}")
    volumes = [3 * 4 * 4 * VOXEL_ML, 2 * 4 * 8 * VOXEL_ML]
    assert sorted(lesion["volume"] for lesion in listed_lesions) == pytest.approx(volumes)
    refused = site.ask("POST", "/uploadDicom", 422, data={"files[]": [(BytesIO(b"text"), "1.dcm")]})
    assert refused["error"]["code"] == "upload_refused"


def test_of_two_segmentations_of_one_series_in_an_upload_one_is_measured_and_the_answer_says_so(site):
    images = to_instances(rows.image(2), SeriesOptions(enhanced="shared", patient_id="4713"))
    study, shape = str(images[0].StudyInstanceUID), to_stack(images).volume.spatial_shape
    first, second = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    first[5:8, 10:14, 4:8], second[2:4, 20:24, 16:24] = 1, 1
    segs = [
        fake_pacs.hand_drawn_seg(images, labels, [name])
        for labels, name in ((first, "frontal"), (second, "pons"))
    ]
    files = [(BytesIO(part10.encode(instance)), "1.dcm") for instance in (*images, *segs)]
    answer = site.ask("POST", "/uploadDicom", data={"files[]": files})
    assert answer["success"] == "Stored: 3; measured: 1; not measured, because their series have a result: 1."
    (document,) = documents_of_study(site.sessions, study)
    assert (document["version"], [lesion["name"] for lesion in document["lesions"]]) == (1, ["frontal"])
    assert all(site.archive.has_instance(study, dataset.SOPInstanceUID) for dataset in segs)
    # Nor is it where the series has had a result for long.
    second_upload = [(BytesIO(part10.encode(segs[1])), "1.dcm")]
    answer = site.ask("POST", "/uploadDicom", data={"files[]": second_upload})
    assert answer["success"] == "Stored: 1; measured: 0; not measured, because their series have a result: 1."


def contoured_on(images):
    """The same two lesions as a structure set of MetScope's, and what it says of them."""
    stack = to_stack(images)
    labels, segments = seg.read(drawn_on(images), stack)
    lesions = measure(labels, stack.slices)
    tracked = [
        replace(
            segment, number=lesion.number, tracking_id=lesion.tracking_id, tracking_uid=lesion.tracking_uid
        )
        for segment, lesion in zip(segments, lesions, strict=True)
    ]
    encoded = seg.write(stack, labels, tracked, Edition())
    named = [replace(lesion, name=segment.name) for lesion, segment in zip(lesions, tracked, strict=True)]
    return rtstruct.write(stack, encoded, labels, named, Edition()), named


def test_upload_dicom_measures_a_structure_set_like_a_segmentation(site):
    images = to_instances(rows.image(2), SeriesOptions(enhanced="shared", patient_id="4712"))
    series = str(images[0].SeriesInstanceUID)
    structures, lesions = contoured_on(images)
    files = [(BytesIO(part10.encode(instance)), "1.dcm") for instance in (*images, structures)]
    answer = site.ask("POST", "/uploadDicom", data={"files[]": files})
    assert answer["success"] == "Stored: 2; measured: 1."
    entries = site.ask("GET", f"/followup-metastases?idSeries={series}")
    volumes = {entry["nom_metastase"]: entry["volume"] for entry in entries}
    assert volumes == pytest.approx({"frontal": 3 * 4 * 4 * VOXEL_ML, "pons": 2 * 4 * 8 * VOXEL_ML})
    lesion_rows = lesions_of_patient(site.sessions, "4712")
    identities = {(row["name"], row["tracking_id"], row["tracking_uid"]) for row in lesion_rows}
    assert identities == {(lesion.name, lesion.tracking_id, lesion.tracking_uid) for lesion in lesions}


def test_an_uploaded_segmentation_that_cannot_be_measured_says_why(site):
    dataset = drawn_on(to_instances(rows.image(2), SeriesOptions(enhanced="shared")))
    files = [(BytesIO(part10.encode(dataset)), "seg.dcm")]
    failed = site.ask("POST", "/uploadDicom", 422, data={"files[]": files})
    assert failed["error"]["code"] == "segmentation_mismatch"
    assert site.archive.has_instance(dataset.StudyInstanceUID, dataset.SOPInstanceUID)


def test_the_pacs_s_studies_are_listed_by_orthanc_s_ids_and_described_as_by_orthanc(tmp_path, orthanc):
    site = FrontEndSite(tmp_path, **orthanc.access)
    for patient_id in ("4711", "Mü|ller", " 12 ", ""):
        (instance,) = fake_pacs.tiny_series(1)
        instance.SpecificCharacterSet, instance.PatientID = "ISO_IR 192", patient_id
        site.archive.store([instance])

        def by_orthanc():
            return requests.get(
                f"{orthanc.rest_url}/studies?expand", auth=orthanc.authentication, timeout=30
            ).json()

        (study_entry,) = [
            study
            for study in by_orthanc()
            if study["MainDicomTags"]["StudyInstanceUID"] == instance.StudyInstanceUID
        ]
        assert study_entry["ID"] in site.ask("GET", "/getAllStudies")
        described = site.ask("GET", f"/getStudy/{study_entry['ID']}")
        assert described == {name: study_entry[name] for name in described}
        assert site.ask("DELETE", f"/delete-study/{instance.StudyInstanceUID}")["success"]
        assert study_entry["ID"] not in {study["ID"] for study in by_orthanc()}
        assert site.ask("GET", f"/getStudy/{study_entry['ID']}", 404)["error"]["code"] == "study_not_found"


def test_delete_study_deletes_the_study_and_its_measurements_and_no_other(site):
    kept, gone = rows.add_study(site.settings, 1), rows.add_study(site.settings, 2)
    for study in (kept, gone):
        site.segment(study)
    for _ in range(2):
        assert site.ask("DELETE", f"/delete-study/{gone}")["success"]
    assert {study.StudyInstanceUID for study in site.archive.search_studies()} == {kept}
    assert [patient["id"] for patient in site.ask("GET", "/followup-patients")] == ["BENCH-1"]
    assert documents_of_study(site.sessions, gone) == []
    with site.sessions() as session:
        trail = [(event.actor, event.action) for event in session.query(AuditEvent).order_by(AuditEvent.id)]
    assert [entry for entry in trail if "delete" in entry[1]] == [
        ("admin", "segmentation.delete"),
        ("admin", "study.delete"),
        ("admin", "study.delete"),
    ]


def test_delete_study_takes_the_rows_that_the_front_end_has_open(site):
    kept, *gone = (rows.add_study(site.settings, number) for number in (1, 2, 3))
    for study in (kept, *gone):
        site.segment(study)
    assert site.ask("DELETE", f"/delete-study/{','.join(gone)}")["success"]
    assert {study.StudyInstanceUID for study in site.archive.search_studies()} == {kept}
    assert [documents_of_study(site.sessions, study) for study in gone] == [[], []]
    with site.sessions() as session:
        trail = session.query(AuditEvent).filter(AuditEvent.action == "study.delete")
        assert [event.subject for event in trail.order_by(AuditEvent.id)] == gone
    for wrong in (f"{kept},", f",{kept}", f"{kept},,{kept}", f"{kept},x"):
        assert site.ask("DELETE", f"/delete-study/{wrong}", 422)["error"]["code"] == "invalid_form"
    assert site.newest(kept)


def test_of_several_studies_none_is_deleted_where_one_has_a_result_on_its_way(site):
    studies = [rows.add_study(site.settings, number) for number in (1, 2)]
    documents = [site.segment(study) for study in studies]
    with site.sessions.begin() as session:
        session.add(Outbox(sop_instance_uid="1.2.3", segmentation_ref=documents[1]["id"], encoded=b""))
    site.ask("DELETE", f"/delete-study/{','.join(studies)}", 409)
    assert [site.newest(study) for study in studies] == documents
    assert len(site.archive.search_studies()) == 2


def test_a_reader_downloads_the_structure_set_and_no_other_object(site):
    study = rows.add_study(site.settings, 1)
    document = site.segment(study)
    secret = tokens.create(site.sessions, "reader", Role.READER, "test")
    text = {"Content-Type": "text/plain", "Authorization": f"Bearer {secret}"}
    objects = [document["segmentation"], *document["companions"]]
    assert len(objects) == 3
    for companion in objects:
        (match,) = site.ask("POST", "/tools/lookup", data=companion["sop_instance_uid"], headers=text)
        assert match["Type"] == "Instance"
        answer = site.app.test_client().get(f"/segmentationui{match['Path']}/file", headers=text)
        assert answer.status_code == 200
        assert answer.content_type == "application/dicom"
        (stored,) = site.archive.retrieve_series(study, companion["series_instance_uid"])
        assert dcmread(BytesIO(answer.data)) == stored
    (images,) = site.archive.retrieve_series(study, document["series_instance_uid"])
    for identifier in (images.SOPInstanceUID, study, "", "nonsense"):
        assert site.ask("POST", "/tools/lookup", data=identifier, headers=text) == []
    refused = site.ask("GET", f"/instances/{images.SOPInstanceUID}/file", 404, headers=text)
    assert refused["error"]["code"] == "segmentation_not_found"
    site.ask("DELETE", f"/delete-study/{study}")
    assert site.ask("POST", "/tools/lookup", data=objects[0]["sop_instance_uid"], headers=text) == []


def test_an_object_that_the_archive_has_lost_is_not_found_although_its_series_is_there(site):
    study = rows.add_study(site.settings, 1)
    body = {"serie_instance_uid": structure_set(site.segment(study)), "study_instance_uid": study}
    versions = []
    for name in ("pons", "left pons"):
        assert site.ask("POST", "/rename-roi", json=body | {"roi_number": 1, "new_name": name})["success"]
        versions.append(site.newest(study)["segmentation"])
    lost, kept = versions
    assert lost["series_instance_uid"] == kept["series_instance_uid"]
    site.archive.delete_instance(study, lost["sop_instance_uid"])
    refused = site.ask("GET", f"/instances/{lost['sop_instance_uid']}/file", 404)
    assert refused["error"]["code"] == "segmentation_not_found"
    path = f"/segmentationui/instances/{kept['sop_instance_uid']}/file"
    assert site.app.test_client().get(path, headers=site.headers).status_code == 200


def test_a_study_is_described_by_the_id_under_which_it_is_listed_and_by_no_other(idle):
    study = rows.add_study(idle.settings, 1)
    (listed,) = idle.ask("GET", "/getAllStudies")
    assert idle.ask("GET", f"/getStudy/{listed}")["MainDicomTags"]["StudyInstanceUID"] == study
    assert idle.ask("GET", f"/getStudy/{study}", 404)["error"]["code"] == "study_not_found"


def test_the_follow_up_without_parameters_lists_all(site):
    studies = [rows.add_study(site.settings, number) for number in (1, 2)]
    documents = [site.segment(study) for study in studies]
    # Only the newest version of a series counts.
    body = {"serie_instance_uid": structure_set(documents[0]), "study_instance_uid": studies[0]}
    site.ask("POST", "/delete-roi", json=body | {"roi_number": 1})
    assert {row["id_study"] for row in site.ask("GET", "/followup-etudes")} == set(studies)
    assert {
        (row["study_instance_uid"], row["series_instance_uid"]) for row in site.ask("GET", "/followup-series")
    } == {
        (study, document["series_instance_uid"]) for study, document in zip(studies, documents, strict=True)
    }
    listed = site.ask("GET", "/followup-metastases")
    assert len(listed) == 2 * rows.LESIONS - 1
    by_series = [
        site.ask("GET", f"/followup-metastases?idSeries={document['series_instance_uid']}")
        for document in documents
    ]
    assert sorted(map(str, listed)) == sorted(map(str, by_series[0] + by_series[1]))


def test_a_version_whose_seg_the_archive_has_lost_counts_nowhere_and_the_one_before_does(site):
    study = rows.add_study(site.settings, 1)
    first = site.segment(study)
    shown = {"serie_instance_uid": structure_set(first), "study_instance_uid": study}
    site.ask("POST", "/delete-roi", json=shown | {"roi_number": 1})
    second = site.newest(study)

    def listed():
        """The segmentations that the patient's lesions are of, and the number of lesions in the follow-up."""
        lesions = site.app.test_client().get("/patients/BENCH-1/lesions", headers=site.headers).json
        series = site.ask("GET", f"/followup-metastases?idSeries={first['series_instance_uid']}")
        assert series == site.ask("GET", "/followup-metastases")
        assert len(series) == len(lesions["lesions"])
        return {lesion["segmentation_id"] for lesion in lesions["lesions"]}, len(series)

    def lose(document):
        site.archive.delete_instance(study, document["segmentation"]["sop_instance_uid"])
        check_presence(site.sessions, site.archive, datetime.now(UTC))

    assert listed() == ({second["id"]}, rows.LESIONS - 1)
    lose(second)
    assert listed() == ({first["id"]}, rows.LESIONS)
    # What is asked for next is about the version that counts, too.
    site.segment(study)
    assert listed() == ({first["id"]}, rows.LESIONS)
    site.ask("POST", "/rename-roi", json=shown | {"roi_number": 2, "new_name": "pons"})
    third = site.newest(study)
    assert third["corrects"] == first["id"]
    assert listed() == ({third["id"]}, rows.LESIONS)
    lose(third)
    lose(first)
    assert listed() == (set(), 0)


def test_a_study_with_a_result_on_its_way_into_the_archive_is_not_deleted(site):
    study = rows.add_study(site.settings, 1)
    document = site.segment(study)
    with site.sessions.begin() as session:
        session.add(Outbox(sop_instance_uid="1.2.3", segmentation_ref=document["id"], encoded=b""))
    refused = site.ask("DELETE", f"/delete-study/{study}", 409)
    assert refused["error"]["code"] == "segmentation_not_stored"
    assert site.newest(study) == document
    assert site.archive.search_studies(StudyInstanceUID=study)


def test_the_follow_up_leads_from_the_patient_to_the_lesions(site):
    study = rows.add_study(site.settings, 1)
    document = site.segment(study)
    (patient,) = site.ask("GET", "/followup-patients")
    header = site.archive.search_studies()[0]
    assert patient["id"] == "BENCH-1"
    assert (patient["name"], patient["sexe"]) == (str(header.PatientName), header.PatientSex)
    assert patient["date"].replace("-", "") == header.PatientBirthDate
    (etude,) = site.ask("GET", f"/followup-etudes?idPatient={patient['id']}")
    assert etude["id_study"] == study
    assert etude["date"].replace("-", "") == header.StudyDate
    (serie,) = site.ask("GET", f"/followup-series?idEtude={etude['id_study']}")
    assert serie["series_instance_uid"] == document["series_instance_uid"]
    entries = site.ask("GET", f"/followup-metastases?idSeries={serie['series_instance_uid']}")
    assert [entry["nom_metastase"] for entry in entries] == site.names(study)
    assert len({entry["id"] for entry in entries}) == rows.LESIONS
    for entry, lesion in zip(entries, document["lesions"], strict=True):
        assert (entry["diametre"], entry["volume"]) == (lesion["long_axis_mm"], lesion["volume_ml"])
        assert (entry["slice_debut"], entry["slice_fin"]) == (5, 7)
    # As the front-end makes a colour of it.
    numbers = [re.sub(r"[\[\]]", "", entry["color"]).strip().split() for entry in entries]
    as_hex = ["#" + "".join(f"{int(number):02x}" for number in three) for three in numbers]
    assert as_hex == list(segmentations.colours(site.sessions, document["id"]).values())


def test_the_follow_up_shows_what_a_person_corrected_although_another_model_ran_later(site):
    study = rows.add_study(site.settings, 1)
    document = site.segment(study)
    renaming = {
        "study_instance_uid": study, "serie_instance_uid": structure_set(document), "roi_number": 1,
        "new_name": "left frontal",
    }  # fmt: skip
    site.ask("POST", "/rename-roi", json=renaming)
    job = jobs.submit(site.sessions, study, "metscope-compact")
    wait_until(lambda: jobs.get(site.sessions, job.id).state == JobState.DONE, "the other model's result")
    assert site.newest(study)["model"]["id"] == "metscope-compact"
    shown = site.ask("GET", f"/followup-metastases?idSeries={document['series_instance_uid']}")
    assert shown[0]["nom_metastase"] == "left frontal"


def test_of_who_has_no_results_the_follow_up_is_empty(site):
    assert site.ask("GET", "/followup-patients") == []
    assert site.ask("GET", "/followup-etudes?idPatient=nobody") == []
    assert site.ask("GET", "/followup-series?idEtude=1.2.3") == []
    assert site.ask("GET", "/followup-metastases?idSeries=1.2.3") == []
    refused = site.ask("GET", "/followup-etudes?patient=4711", 422)
    assert refused["error"]["details"]["fields"][0]["field"] == "patient"


def test_two_persons_with_one_identifier_are_not_mixed(site):
    for number in (1, 2):
        site.segment(rows.add_study(site.settings, number))
    with site.sessions.begin() as session:
        for issuer, patient in enumerate(session.query(Patient)):
            patient.patient_id, patient.issuer = "4711", str(issuer)
    refused = site.ask("GET", "/followup-etudes?idPatient=4711", 422)
    assert refused["error"]["code"] == "invalid_form"


def test_without_the_setting_there_is_none_of_it(tmp_path):
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off"))
    assert app.test_client().get("/segmentationui/followup-patients").status_code == 404
