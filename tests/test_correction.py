"""What a person makes of a segmentation becomes its next version, by a job, whole or not at all."""

import re
import shutil
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import highdicom as hd
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

import tasks
from api import create_app
from bench import rows
from context import Connections, JobRun, LeaseKey, Stages
from db import jobs, outbox, segmentations
from db.tables import AuditEvent, Segmentation
from errors import DeletionUnavailable
from imaging import seg
from imaging.stack import to_stack
from orthanc.archive import open_archive
from orthanc.folder import FolderArchive
from schemas.tasks import SEGMENT, CorrectTask, MeasureTask, RestoreTask, StructureSetTask
from settings import Settings
from tests import fake_pacs
from tests.documents import document_of, documents_of_study, lesions_of_patient
from tests.site import VOXEL_ML, Site
from unetr.synthesis.phantom import SeriesOptions, to_instances

MODELS = Settings(_env_file=None).models_dir
# One that tells how probable it is that a lesion is one.
MODEL = "metscope-unet"
LESION_VOXELS = 3 * 4 * 4
KINDS = hd.seg.SegmentationTypeValues


class CorrectionSite(Site):
    """A site with one study of five equal lesions that has been segmented."""

    def __init__(self, folder, **settings):
        super().__init__(folder, model_path=MODELS / f"{MODEL}.safetensors", **settings)
        self.study = rows.add_study(self.settings, 1)
        self.first = self.run(SEGMENT).segmentation_id

    def run(self, task, by="dr"):
        return self.run_job(self.submit(self.study, requested_by=by, task=task))

    def correct(self, rename=None, delete=(), of=None):
        return self.run(
            CorrectTask(segmentation_id=of or self.first, rename=rename or {}, delete=list(delete))
        )

    def measure(self, dataset, corrects=None):
        """A SEG that somebody saved in the archive."""
        self.archive.store([dataset])
        return self.run(MeasureTask(sop_instance_uid=str(dataset.SOPInstanceUID), corrects=corrects))

    def document(self, segmentation_id):
        return document_of(self.sessions, segmentation_id)

    def stack(self):
        series = self.document(self.first)["series_instance_uid"]
        return to_stack(self.archive.retrieve_series(self.study, series))

    def retrieve(self, sop_instance_uid):
        """As it is in the archive."""
        headers = [header for series in self.archive.series_headers(self.study) for header in series]
        (series,) = {str(h.SeriesInstanceUID) for h in headers if h.SOPInstanceUID == sop_instance_uid}
        instances = self.archive.retrieve_series(self.study, series)
        return next(instance for instance in instances if instance.SOPInstanceUID == sop_instance_uid)

    def series(self, modality):
        """The archive's series of that modality, by their numbers, each with its instances by theirs."""
        series = [
            headers for headers in self.archive.series_headers(self.study) if headers[0].Modality == modality
        ]
        in_order = [sorted(headers, key=lambda header: header.InstanceNumber) for headers in series]
        return sorted(in_order, key=lambda headers: headers[0].SeriesNumber)

    def labels(self, segmentation_id):
        """Of the SEG in the archive."""
        uid = self.document(segmentation_id)["segmentation"]["sop_instance_uid"]
        return seg.read(self.retrieve(uid), self.stack())[0].array

    def saved_by_a_viewer(self, labels, names, kind=KINDS.BINARY, syntax=ExplicitVRLittleEndian, label=None):
        """Without tracking identifiers, as viewers save what was edited. names: by segment number."""
        stack = self.stack()
        described = [
            hd.seg.SegmentDescription(
                segment_number=number, segment_label=names[number], algorithm_type="MANUAL",
                segmented_property_category=hd.sr.CodedConcept("85756007", "SCT", "Tissue"),
                segmented_property_type=hd.sr.CodedConcept("85756007", "SCT", "Tissue"),
            )
            for number in sorted(names)
        ]  # fmt: skip
        return hd.seg.Segmentation(
            source_images=stack.headers, pixel_array=stack.volume.with_array(labels.astype(np.uint8)),
            segmentation_type=kind, segment_descriptions=described, series_instance_uid=hd.UID(),
            series_number=3, sop_instance_uid=hd.UID(), instance_number=1, manufacturer="A viewer",
            manufacturer_model_name="x", software_versions="1", device_serial_number="1",
            transfer_syntax_uid=syntax, content_label=label,
        )  # fmt: skip


@pytest.fixture
def place(tmp_path):
    return CorrectionSite(tmp_path)


def by_name(document):
    return {lesion["name"]: lesion for lesion in document["lesions"]}


def changes(document):
    return [(change["change"], change["previous_name"], change["name"]) for change in document["changes"]]


def test_a_renamed_lesion_is_called_so_in_rows_seg_and_report_and_is_measured_the_same(place):
    job = place.correct(rename={2: "left frontal"})
    assert (job.state, job.error_code) == ("done", None)
    before, after = place.document(place.first), place.document(job.segmentation_id)
    assert (after["version"], after["corrects"], after["corrected_by"]) == (2, place.first, "dr")
    assert changes(after) == [("renamed", "Metastasis 2", "left frontal")]
    assert [lesion | {"name": ""} for lesion in after["lesions"]] == [
        lesion | {"name": ""} for lesion in before["lesions"]
    ]
    assert after["model"] == before["model"]
    stored = place.retrieve(after["segmentation"]["sop_instance_uid"])
    assert [item.SegmentLabel for item in stored.SegmentSequence][1] == "left frontal"
    assert {item.SegmentAlgorithmType for item in stored.SegmentSequence} == {"AUTOMATIC"}
    (report,) = after["companions"]
    assert (report["modality"], report["stored"]) == ("SR", True)
    (evidence,) = [
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for study in place.retrieve(report["sop_instance_uid"]).CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        if series.ReferencedSOPSequence[0].ReferencedSOPClassUID == stored.SOPClassUID
    ]
    assert evidence == stored.SOPInstanceUID
    assert place.document(place.first) == before


def test_a_deleted_lesion_is_gone_and_the_others_keep_name_identity_place_and_colour(place):
    job = place.correct(delete=[1, 3])
    before, after = place.document(place.first), place.document(job.segmentation_id)
    kept = [lesion for lesion in before["lesions"] if lesion["number"] not in {1, 3}]
    assert [lesion | {"number": 0} for lesion in after["lesions"]] == [
        lesion | {"number": 0} for lesion in kept
    ]
    assert [lesion["number"] for lesion in after["lesions"]] == [1, 2, 3]
    assert changes(after) == [("deleted", "Metastasis 1", None), ("deleted", "Metastasis 3", None)]
    earlier, labels = place.labels(place.first), place.labels(job.segmentation_id)
    np.testing.assert_array_equal(labels > 0, np.isin(earlier, [2, 4, 5]))
    patient = lesions_of_patient(place.sessions, "BENCH-1")
    assert [lesion["colour"] for lesion in patient] == [seg.PALETTE[number - 1] for number in (2, 4, 5)]
    stored = place.retrieve(after["segmentation"]["sop_instance_uid"])
    shown = [tuple(item.RecommendedDisplayCIELabValue) for item in stored.SegmentSequence]
    assert shown == [seg.colour(number).cielab for number in (2, 4, 5)]


def test_the_last_lesion_deleted_leaves_a_version_without_a_seg(place):
    job = place.correct(delete=[1, 2, 3, 4, 5])
    assert job.state == "done"
    document = place.document(job.segmentation_id)
    assert (document["lesions"], document["segmentation"]["sop_instance_uid"]) == ([], None)
    assert outbox.pending(place.sessions, job.segmentation_id) == {}
    # Drawing goes on from there.
    labels = np.zeros(rows.SHAPE, np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    drawing_job = place.measure(place.saved_by_a_viewer(labels, {1: "Segment 1"}))
    assert changes(place.document(drawing_job.segmentation_id)) == [("drawn", None, "Metastasis 6")]


def test_an_earlier_version_comes_back_as_the_next_one_with_every_name_voxel_and_number(place):
    renamed = place.correct(rename={2: "left frontal"}).segmentation_id
    deleted = place.correct(delete=[1, 3], of=renamed).segmentation_id
    job = place.run(RestoreTask(segmentation_id=place.first, corrects=deleted), by="dr two")
    assert (job.state, job.error_code) == ("done", None)
    first, restored = place.document(place.first), place.document(job.segmentation_id)
    assert (restored["version"], restored["corrects"], restored["corrected_by"]) == (4, deleted, "dr two")
    assert restored["lesions"] == first["lesions"]
    assert sorted(changes(restored), key=str) == [
        ("renamed", "left frontal", "Metastasis 2"),
        ("restored", None, "Metastasis 1"),
        ("restored", None, "Metastasis 3"),
    ]
    np.testing.assert_array_equal(place.labels(job.segmentation_id), place.labels(place.first))
    assert segmentations.colours(place.sessions, job.segmentation_id) == segmentations.colours(
        place.sessions, place.first
    )
    stored = place.retrieve(restored["segmentation"]["sop_instance_uid"])
    assert {item.SegmentAlgorithmType for item in stored.SegmentSequence} == {"AUTOMATIC"}
    with place.sessions() as session:
        (event,) = session.query(AuditEvent).filter_by(action="segmentation.restore")
    assert (event.actor, event.subject, event.details["restores"]) == ("dr two", restored["id"], place.first)


def test_lesions_that_were_all_deleted_come_back_and_the_newest_version_stays_as_it_is(place):
    deleted = place.correct(delete=[1, 2, 3, 4, 5]).segmentation_id
    restored = place.run(RestoreTask(segmentation_id=place.first, corrects=deleted)).segmentation_id
    assert place.document(restored)["lesions"] == place.document(place.first)["lesions"]
    job = place.run(RestoreTask(segmentation_id=restored, corrects=restored))
    assert (job.state, job.segmentation_id) == ("done", restored)
    superseded = place.run(RestoreTask(segmentation_id=place.first, corrects=deleted))
    assert superseded.error_code == "segmentation_superseded"


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        (KINDS.BINARY, ExplicitVRLittleEndian),
        (KINDS.LABELMAP, RLELossless),
        (KINDS.LABELMAP, ExplicitVRLittleEndian),
    ],
)
def test_an_edited_seg_is_measured_again_and_its_lesions_are_who_they_were(place, kind, syntax):
    before = place.document(place.first)
    labels = place.labels(place.first)
    # The first erased, the second enlarged, a new one drawn.
    labels[labels == 1] = 0
    slices, rows_, columns = (slice(a.min(), a.max() + 1) for a in np.nonzero(labels == 2))
    labels[slices.start - 2 : slices.stop, rows_, columns] = 2
    labels[1:3, 25:29, 50:56] = 6
    names = {n: f"Metastasis {n}" for n in range(1, 6)} | {6: "Segment 6"}
    drawn_names = {number: name for number, name in names.items() if (labels == number).any()}
    renumbered = np.searchsorted(sorted(drawn_names), labels) + 1
    renumbered[labels == 0] = 0
    numbered = {new: drawn_names[old] for new, old in enumerate(sorted(drawn_names), start=1)}
    job = place.measure(place.saved_by_a_viewer(renumbered, numbered, kind, syntax), place.first)
    assert (job.state, job.error_code) == ("done", None)
    after = place.document(job.segmentation_id)
    old_lesions, new_lesions = by_name(before), by_name(after)
    assert set(new_lesions) == {
        "Metastasis 2",
        "Metastasis 3",
        "Metastasis 4",
        "Metastasis 5",
        "Metastasis 6",
    }
    for name in set(new_lesions) - {"Metastasis 6"}:
        assert (new_lesions[name]["tracking_id"], new_lesions[name]["tracking_uid"]) == (
            old_lesions[name]["tracking_id"],
            old_lesions[name]["tracking_uid"],
        )
    assert new_lesions["Metastasis 2"]["volume_ml"] == pytest.approx(VOXEL_ML * (LESION_VOXELS + 2 * 4 * 4))
    assert new_lesions["Metastasis 6"]["volume_ml"] == pytest.approx(VOXEL_ML * 2 * 4 * 6)
    assert new_lesions["Metastasis 6"]["tracking_id"] == "BM-6"
    for name in ("Metastasis 3", "Metastasis 4", "Metastasis 5"):
        assert new_lesions[name] | {"number": 0} == old_lesions[name] | {"number": 0}
    for field in ("mean_probability", "confidence"):
        assert old_lesions["Metastasis 3"][field] is not None
        assert [new_lesions[name][field] for name in ("Metastasis 2", "Metastasis 6")] == [None, None]
    assert sorted(after["changes"], key=lambda change: change["change"]) == [
        {"change": "deleted", "tracking_uid": old_lesions["Metastasis 1"]["tracking_uid"], "name": None,
         "volume_ml": None, "previous_name": "Metastasis 1",
         "previous_volume_ml": old_lesions["Metastasis 1"]["volume_ml"]},
        {"change": "drawn", "tracking_uid": new_lesions["Metastasis 6"]["tracking_uid"],
         "name": "Metastasis 6", "volume_ml": new_lesions["Metastasis 6"]["volume_ml"],
         "previous_name": None, "previous_volume_ml": None},
        {"change": "redrawn", "tracking_uid": new_lesions["Metastasis 2"]["tracking_uid"],
         "name": "Metastasis 2", "volume_ml": new_lesions["Metastasis 2"]["volume_ml"],
         "previous_name": "Metastasis 2", "previous_volume_ml": old_lesions["Metastasis 2"]["volume_ml"]},
    ]  # fmt: skip
    np.testing.assert_array_equal(place.labels(job.segmentation_id) > 0, labels > 0)
    stored = place.retrieve(after["segmentation"]["sop_instance_uid"])
    algorithm_types = {item.SegmentLabel: item.SegmentAlgorithmType for item in stored.SegmentSequence}
    assert [algorithm_types[f"Metastasis {n}"] for n in (2, 3, 6)] == ["SEMIAUTOMATIC", "AUTOMATIC", "MANUAL"]
    history = documents_of_study(place.sessions, place.study)
    assert [(version["version"], version["corrected_by"]) for version in history] == [(2, "dr"), (1, None)]


def test_a_seg_saved_as_it_was_changes_nothing(place):
    names = {number: f"Metastasis {number}" for number in range(1, 6)}
    job = place.measure(place.saved_by_a_viewer(place.labels(place.first), names))
    assert (job.state, job.segmentation_id) == ("done", place.first)
    assert len(documents_of_study(place.sessions, place.study)) == 1


def test_an_older_version_of_metscope_s_own_undoes_nothing(place):
    second = place.correct(delete=[1]).segmentation_id
    uid = place.document(place.first)["segmentation"]["sop_instance_uid"]
    job = place.run(MeasureTask(sop_instance_uid=uid, corrects=None))
    assert (job.state, job.segmentation_id) == ("done", place.first)
    series = place.document(place.first)["series_instance_uid"]
    assert segmentations.current_result(place.sessions, place.study, series) == second


def test_a_correction_keeps_what_the_result_was_warned_of(place):
    warned = ["Contrast is not proven."]
    with place.sessions.begin() as session:
        session.get_one(Segmentation, place.first).warnings = warned
    assert place.document(place.correct(delete=[1]).segmentation_id)["warnings"] == warned


def test_a_version_that_the_archive_has_lost_does_not_stop_the_one_before(place):
    second = place.correct(delete=[1]).segmentation_id
    stored = place.document(second)["segmentation"]
    place.archive.delete_instance(place.study, stored["sop_instance_uid"])
    lost = place.correct(delete=[2], of=second)
    assert (lost.state, lost.error_code) == ("failed", "series_not_found")
    outbox.note_presence(place.sessions, second, present=False)
    assert place.correct(delete=[2]).state == "done"


def test_what_is_drawn_over_a_part_of_a_lesion_is_not_called_like_it(place):
    labels = place.labels(place.first)
    slices, rows_, columns = (slice(a.min(), a.max() + 1) for a in np.nonzero(labels == 1))
    labels[slices, rows_, columns.start : columns.stop - 1] = 6
    names = {number: f"Metastasis {number}" for number in range(1, 6)} | {6: "Segment 6"}
    document = place.document(place.measure(place.saved_by_a_viewer(labels, names)).segmentation_id)
    names = [lesion["name"] for lesion in document["lesions"]]
    assert sorted(names) == [f"Metastasis {number}" for number in range(1, 7)]


def test_a_lesion_named_in_the_viewer_is_called_so(place):
    names = {number: f"Metastasis {number}" for number in range(1, 6)} | {4: "pons"}
    job = place.measure(place.saved_by_a_viewer(place.labels(place.first), names))
    assert changes(place.document(job.segmentation_id)) == [("renamed", "Metastasis 4", "pons")]


def test_a_seg_of_a_study_that_was_never_segmented_is_by_hand(place):
    segmentations.delete_segmentation(place.sessions, place.first, "admin")
    labels = np.zeros(rows.SHAPE, np.uint8)
    labels[5:8, 10:14, 4:8], labels[5:8, 10:14, 16:24] = 1, 2
    stack = to_stack(
        place.archive.retrieve_series(
            place.study,
            next(
                str(headers[0].SeriesInstanceUID)
                for headers in place.archive.series_headers(place.study)
                if headers[0].Modality == "MR"
            ),
        )
    )
    place.stack = lambda: stack
    job = place.measure(place.saved_by_a_viewer(labels, {1: "first", 2: "second"}))
    assert (job.state, job.error_code) == ("done", None)
    document = place.document(job.segmentation_id)
    assert (document["model"]["id"], document["corrects"], document["corrected_by"]) == (
        "by-hand",
        None,
        "dr",
    )
    assert [lesion["volume_ml"] for lesion in document["lesions"]] == pytest.approx([0.768, 0.384])
    assert [lesion["name"] for lesion in document["lesions"]] == ["second", "first"]
    assert document["segmentation"]["stored"] is True


def test_only_the_newest_version_is_corrected(place):
    second = place.correct(rename={1: "pons"}).segmentation_id
    late = place.correct(delete=[2])
    assert (late.state, late.error_code) == ("failed", "segmentation_superseded")
    assert place.correct(delete=[2], of=second).state == "done"
    assert [document["version"] for document in documents_of_study(place.sessions, place.study)] == [
        3,
        2,
        1,
    ]


def test_a_request_for_a_correction_that_cannot_be_made_is_refused_at_once(place):
    client = create_app(place.settings.model_copy(update={"auth": "off"})).test_client()
    path = f"/segmentations/{place.first}/corrections"
    before = len(jobs.list_jobs(place.sessions))
    for body, status, code, sentence in (
        ({"delete": [6]}, 404, "lesion_not_found", "has no lesion 6."),
        ({"rename": [{"number": 9, "name": "pons"}], "delete": [8, 1]}, 404, "lesion_not_found", "lesion 8."),
        ({"rename": [{"number": 1, "name": "METASTASIS 2"}]}, 409, "lesion_name_taken", "'METASTASIS 2'"),
        (
            {"rename": [{"number": 1, "name": "Pons"}, {"number": 2, "name": "pons"}]},
            409, "lesion_name_taken", "'Pons'",
        ),
    ):  # fmt: skip
        refused = client.post(path, json=body)
        assert (refused.status_code, refused.json["error"]["code"]) == (status, code)
        assert sentence in refused.json["error"]["message"]
    assert len(jobs.list_jobs(place.sessions)) == before
    for body in (
        {"rename": [{"number": 1, "name": "METASTASIS 1"}]},
        {"rename": [{"number": 1, "name": "Metastasis 2"}], "delete": [2]},
        {"rename": [{"number": 1, "name": "Metastasis 2"}, {"number": 2, "name": "Metastasis 1"}]},
        {"delete": [1, 2, 3, 4, 5]},
    ):
        assert client.post(path, json=body).status_code == 202


@pytest.mark.parametrize(
    "name",
    [
        "a\x85b",
        "\x9b31mred",
        "a\u2028b",
        "a\u2029b",
        "\u200b",
        "\u202e",
        "a\u202eb",
        "a\u2066b",
        "\u3164",
        "\ufe0f",
    ],
)
def test_a_lesion_gets_no_name_that_shows_nothing_or_spoils_the_text_around_it(place, name):
    client = create_app(place.settings.model_copy(update={"auth": "off"})).test_client()
    path = f"/segmentations/{place.first}/corrections"
    refused = client.post(path, json={"rename": [{"number": 1, "name": name}]})
    assert (refused.status_code, refused.json["error"]["code"]) == (422, "invalid_form")
    assert "rename.0.name: " in refused.json["error"]["message"]
    assert len(jobs.list_jobs(place.sessions)) == 1


def test_lesions_have_names_of_any_script(place):
    names = ["جبهي أيمن", "מצח ימין\u200f", "می\u200cشود", "左前頭葉", "👩\u200d⚕️"]
    renamed = place.correct(rename=dict(enumerate(names, start=1)))
    document = place.document(renamed.segmentation_id)
    encoded = place.retrieve(document["segmentation"]["sop_instance_uid"])
    assert [lesion["name"] for lesion in document["lesions"]] == names
    assert [segment.SegmentLabel for segment in encoded.SegmentSequence] == names


def test_a_request_to_correct_an_older_version_or_to_contour_no_lesions_is_refused_at_once(place):
    client = create_app(place.settings.model_copy(update={"auth": "off"})).test_client()
    emptied = place.correct(delete=[1, 2, 3, 4, 5]).segmentation_id
    before = len(jobs.list_jobs(place.sessions))
    late = client.post(f"/segmentations/{place.first}/corrections", json={"delete": [1]})
    assert (late.status_code, late.json["error"]["code"]) == (409, "segmentation_superseded")
    nothing = client.post(f"/segmentations/{emptied}/rtstruct", json={})
    assert (nothing.status_code, nothing.json["error"]["code"]) == (404, "lesion_not_found")
    assert len(jobs.list_jobs(place.sessions)) == before
    assert client.post(f"/segmentations/{place.first}/rtstruct", json={}).status_code == 202


def test_of_two_corrections_at_once_one_is_made_and_the_other_refused(place):
    tasks = [CorrectTask(segmentation_id=place.first, rename={}, delete=[number]) for number in (1, 2)]
    job_ids = [jobs.submit(place.sessions, place.study, MODEL, task=task).id for task in tasks]
    runners = [rows.threshold_runner(place.settings) for _ in job_ids]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda runner, job_id: runner.run(job_id), runners, job_ids))
    ended = [jobs.get(place.sessions, job_id) for job_id in job_ids]
    assert sorted((job.state, job.error_code) for job in ended) == [
        ("done", None),
        ("failed", "segmentation_superseded"),
    ]
    history = documents_of_study(place.sessions, place.study)
    assert [(version["version"], len(version["lesions"])) for version in history] == [(2, 4), (1, 5)]
    assert sum(len(series) for series in place.series("SEG")) == 2


def test_of_two_first_segs_of_a_series_at_once_one_is_measured_and_the_other_refused(tmp_path, monkeypatch):
    settings = Settings(_env_file=None, data_dir=tmp_path)
    images = to_instances(rows.image(2), SeriesOptions(enhanced="shared", patient_id="4711"))
    study, series = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)
    shape = to_stack(images).volume.spatial_shape
    first, second = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    first[5:8, 10:14, 4:8], second[2:4, 20:24, 16:24] = 1, 1
    segs = [
        fake_pacs.hand_drawn_seg(images, labels, [name])
        for labels, name in ((first, "frontal"), (second, "pons"))
    ]
    open_archive(settings).store([*images, *segs])
    overtaken, second_runner = (rows.threshold_runner(settings) for _ in range(2))
    slow, quick = (
        jobs.submit(
            second_runner.sessions,
            study,
            "by-hand",
            task=MeasureTask(sop_instance_uid=str(dataset.SOPInstanceUID), corrects=None),
        )
        for dataset in segs
    )
    retrieve_series = FolderArchive.retrieve_series

    def retrieve_meanwhile(archive, study_uid, series_uid):
        """By now the slow job knows that the series has no result."""
        if series_uid == series:
            monkeypatch.undo()
            second_runner.run(quick.id)
        return retrieve_series(archive, study_uid, series_uid)

    monkeypatch.setattr(FolderArchive, "retrieve_series", retrieve_meanwhile)
    overtaken.run(slow.id)
    ended = [jobs.get(second_runner.sessions, job.id) for job in (slow, quick)]
    assert [(job.state, job.error_code) for job in ended] == [
        ("failed", "segmentation_superseded"),
        ("done", None),
    ]
    (document,) = documents_of_study(second_runner.sessions, study)
    assert [lesion["name"] for lesion in document["lesions"]] == ["pons"]
    assert open_archive(settings).has_instance(study, segs[0].SOPInstanceUID)


def test_an_object_that_is_not_there_or_no_seg_is_refused_and_nothing_recorded(place):
    (image,) = [
        h for headers in place.archive.series_headers(place.study) for h in headers if h.Modality == "MR"
    ]
    wrong = {"1.2.3.4": "instance_not_found", str(image.SOPInstanceUID): "segmentation_mismatch"}
    for uid, code in wrong.items():
        job = place.run(MeasureTask(sop_instance_uid=uid, corrects=None))
        assert (job.state, job.error_code) == ("failed", code)
    assert len(documents_of_study(place.sessions, place.study)) == 1


def test_a_structure_set_is_made_once_and_follows_a_correction(place):
    for _ in range(2):
        job = place.run(StructureSetTask(segmentation_id=place.first))
        assert (job.state, job.error_code, job.segmentation_id) == ("done", None, place.first)
    assert [companion["modality"] for companion in place.document(place.first)["companions"]] == [
        "SR",
        "RTSTRUCT",
    ]
    corrected = place.document(place.correct(rename={1: "pons"}, delete=[2]).segmentation_id)
    (structure_set,) = [
        companion for companion in corrected["companions"] if companion["modality"] == "RTSTRUCT"
    ]
    structures = place.retrieve(structure_set["sop_instance_uid"])
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == [
        "pons", "Metastasis 3", "Metastasis 4", "Metastasis 5",
    ]  # fmt: skip
    colours = [bytes(roi.ROIDisplayColor).hex() for roi in structures.ROIContourSequence]
    assert colours == [seg.PALETTE[number - 1].removeprefix("#") for number in (1, 3, 4, 5)]


def test_a_structure_set_that_was_deleted_in_the_archive_is_made_again_when_asked(place):
    def structure_set():
        assert place.run(StructureSetTask(segmentation_id=place.first)).state == "done"
        companions = place.document(place.first)["companions"]
        assert [companion["modality"] for companion in companions] == ["SR", "RTSTRUCT"]
        return companions[1]

    lost = structure_set()
    place.archive.delete_instance(place.study, lost["sop_instance_uid"])
    made = structure_set()
    assert (made["stored"], made["sop_instance_uid"] != lost["sop_instance_uid"]) == (True, True)
    structures = place.retrieve(made["sop_instance_uid"])
    assert len(structures.StructureSetROISequence) == rows.LESIONS
    assert structure_set() == made


def test_dciodvfy_finds_no_error_in_what_a_correction_stores(place, tmp_path):
    place.run(StructureSetTask(segmentation_id=place.first))
    labels = place.labels(place.first)
    labels[labels == 1] = 0
    labels[1:3, 25:29, 50:56] = 1
    names = {number: f"Metastasis {number}" for number in range(1, 6)}
    document = place.document(place.measure(place.saved_by_a_viewer(labels, names)).segmentation_id)
    uids = [document["segmentation"]["sop_instance_uid"]]
    uids += [companion["sop_instance_uid"] for companion in document["companions"]]
    assert len(uids) == 3
    for uid in uids:
        place.retrieve(uid).save_as(tmp_path / "checked.dcm")
        checked = subprocess.run(
            ["dciodvfy", str(tmp_path / "checked.dcm")], capture_output=True, text=True, check=False
        )
        assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


def test_no_report_is_stored_where_the_setting_says_so(tmp_path):
    place = CorrectionSite(tmp_path, store_sr=False)
    assert place.document(place.first)["companions"] == []
    assert place.document(place.correct(delete=[1]).segmentation_id)["companions"] == []


def test_who_deletes_every_lesion_leaves_a_report_that_says_so_and_may_restore_them(tmp_path):
    place = CorrectionSite(tmp_path, report_no_lesion=True)
    (before,) = place.document(place.first)["companions"]
    # A rename begins a series that later changes of the same person go on in.
    renamed = place.correct(rename={1: "pons"}).segmentation_id
    emptied = place.document(place.correct(delete=[1, 2, 3, 4, 5], of=renamed).segmentation_id)
    (companion,) = emptied["companions"]
    assert (companion["modality"], companion["stored"]) == ("SR", True)
    report = place.retrieve(companion["sop_instance_uid"])
    assert report.SeriesDescription == "Brain metastases, none found, version 3 by dr, research use only"
    (named,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    (predecessor,) = place.document(renamed)["companions"]
    assert named.ReferencedSOPInstanceUID == predecessor["sop_instance_uid"]
    restored = place.run(RestoreTask(segmentation_id=place.first, corrects=emptied["id"]))
    assert (restored.state, restored.error_code) == ("done", None)
    assert len(place.document(restored.segmentation_id)["lesions"]) == 5
    assert len(place.series("SR")) == 4
    assert place.document(place.first)["companions"] == [before]


def test_a_correction_that_was_recorded_is_stored_after_its_worker_vanished(place):
    task = CorrectTask(segmentation_id=place.first, rename={}, delete=[1])
    job_id = jobs.submit(place.sessions, place.study, MODEL, task=task).id
    gone = LeaseKey(job_id, "gone")
    job = jobs.claim(place.sessions, job_id, gone.owner, 0.001, 3)
    connections = Connections(place.archive, place.sessions, place.settings)
    run = JobRun(job, connections, gone, Stages(lambda stage, fraction: None))
    recorded = tasks.perform(run)
    assert place.document(recorded)["segmentation"]["stored"] is False
    place.runner.run(job_id)
    job = jobs.get(place.sessions, job_id)
    assert (job.state, job.segmentation_id) == ("done", recorded)
    assert place.document(recorded)["segmentation"]["stored"] is True
    assert [companion["stored"] for companion in place.document(recorded)["companions"]] == [True]
    assert len(documents_of_study(place.sessions, place.study)) == 2


def redraw(place, segmentation_id, number, label=None):
    """A viewer's SEG of the version, in which a lesion has grown."""
    lesions = place.document(segmentation_id)["lesions"]
    labels = place.labels(segmentation_id)
    slices, rows_, columns = (slice(a.min(), a.max() + 1) for a in np.nonzero(labels == number))
    labels[slices.start - 2 : slices.stop, rows_, columns] = number
    return place.saved_by_a_viewer(
        labels, {lesion["number"]: lesion["name"] for lesion in lesions}, label=label
    )


def test_names_and_deletions_of_one_person_share_a_series_and_each_series_says_what_it_is(place):
    renamed = place.correct(rename={1: "pons"}).segmentation_id
    for number in (2, 3):
        renamed = place.correct(rename={str(number): f"name {number}"}, of=renamed).segmentation_id
    deleted = place.correct(delete=[5], of=renamed).segmentation_id
    redrawn_id = place.measure(redraw(place, deleted, 1)).segmentation_id
    task = CorrectTask(segmentation_id=redrawn_id, rename={1: "pons, left"}, delete=[])
    by_another = place.run(task, by="a.colleague").segmentation_id
    ours = [series for series in place.series("SEG") if series[0].Manufacturer == "MetScope"]
    assert [[item.InstanceNumber for item in series] for series in ours] == [[1], [2, 3, 4, 5], [6], [7]]
    assert [series[0].SeriesDescription for series in ours] == [
        "Brain metastases, AI segmentation, research use only",
        "Brain metastases, version 2+ by dr, research use only",
        "Brain metastases, version 6+ by dr, research use only",
        "Brain metastases, version 7+ by a.colleague, research use only",
    ]
    assert [str(series[0].get("ContentCreatorName") or "") for series in ours] == [
        "", "dr", "dr", "a.colleague",
    ]  # fmt: skip
    assert [item.ContentDescription for item in ours[1]][1:] == [
        f"Brain metastases, version {number} by dr; research use only" for number in (3, 4, 5)
    ]
    reports = place.series("SR")
    assert [[item.InstanceNumber for item in series] for series in reports] == [[1], [2, 3, 4, 5], [6], [7]]
    numbers = [series[0].SeriesNumber for series in (*ours, *reports)]
    assert len(set(numbers)) == len(numbers)
    # What DICOM lets a series have only once.
    for series in (*ours, *reports):
        for keyword in (
            "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "Manufacturer",
            "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "FrameOfReferenceUID",
        ):  # fmt: skip
            assert len({str(header.get(keyword)) for header in series}) == 1, keyword
        assert series[0].SeriesDate
    begun = [series[0].SeriesDate + series[0].SeriesTime for series in ours]
    assert begun == sorted(begun)
    assert place.document(by_another)["version"] == 7


def test_a_version_refers_to_the_one_before_in_seg_and_report(place):
    second = place.document(place.correct(rename={1: "pons"}).segmentation_id)
    first = place.document(place.first)
    encoded = place.retrieve(second["segmentation"]["sop_instance_uid"])
    (source,) = encoded.SourceInstanceSequence
    assert source.ReferencedSOPInstanceUID == first["segmentation"]["sop_instance_uid"]
    # A viewer looks here for the images that the SEG lies on.
    (images,) = encoded.ReferencedSeriesSequence
    assert images.SeriesInstanceUID == first["series_instance_uid"]
    report = place.retrieve(second["companions"][0]["sop_instance_uid"])
    (study,) = report.PredecessorDocumentsSequence
    (referenced,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    before = place.retrieve(first["companions"][0]["sop_instance_uid"])
    assert (referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID) == (
        before.SOPClassUID,
        before.SOPInstanceUID,
    )
    names = [str(item.get("PersonName")) for item in report.ContentSequence if item.ValueType == "PNAME"]
    assert names == ["dr^"]


def test_a_long_name_of_an_editor_is_shortened_in_the_description_only(place):
    editor = "someone.with-a.very.long.name@radiology.example.org"
    task = CorrectTask(segmentation_id=place.first, rename={1: "pons"}, delete=[])
    document = place.document(place.run(task, by=editor).segmentation_id)
    encoded = place.retrieve(document["segmentation"]["sop_instance_uid"])
    assert len(encoded.SeriesDescription) <= 64
    assert "version 2+ by someone" in encoded.SeriesDescription
    assert encoded.ContentCreatorName == editor


@pytest.mark.parametrize(
    ("editor", "described", "person"),
    [
        ("HOSP\\ann", " by HOSP ann, research", "HOSP ann"),
        ("Ann=Bob^C", " by Ann=Bob^C, research", "Ann Bob C"),
        # Of a token that was made before control characters were refused.
        ("a\nb\tc\x1b[1m", " by a b c [1m, research", "a b c [1m"),
        ("\\", ", research", ""),
    ],
)
def test_the_name_of_an_editor_is_written_without_what_dicom_takes_for_something_else(
    place, editor, described, person
):
    task = CorrectTask(segmentation_id=place.first, rename={1: "pons"}, delete=[])
    corrected = place.run(task, by=editor).segmentation_id
    place.run(StructureSetTask(segmentation_id=corrected), by=editor)
    document = place.document(corrected)
    assert document["corrected_by"] == editor
    encoded, report, structures = (
        place.retrieve(entry["sop_instance_uid"])
        for entry in (document["segmentation"], *document["companions"])
    )
    for dataset, version in ((encoded, "2+"), (report, "2+"), (structures, "2")):
        assert f"version {version}{described}" in dataset.SeriesDescription
    assert encoded.ContentCreatorName == structures.OperatorsName == person
    (login,) = [
        item.TextValue
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "128774"
    ]
    # A text in which a backslash means nothing.
    assert login == re.sub(r"[\n\t\x1b]", " ", editor)


def in_archive(place, dataset):
    return place.archive.has_instance(place.study, dataset.SOPInstanceUID)


def test_what_the_panel_saved_to_be_measured_leaves_the_archive_once_it_is(place):
    failed = redraw(place, place.first, 1, "METSCOPE_DRAWING")
    second = place.correct(rename={1: "pons"}).segmentation_id
    assert place.measure(failed, place.first).error_code == "segmentation_superseded"
    # The only copy of what was drawn.
    assert in_archive(place, failed)
    anothers = redraw(place, second, 2, "METSCOPE_DRAWING")
    place.archive.store([anothers])
    drawing, from_elsewhere = (redraw(place, second, 1, label) for label in ("METSCOPE_DRAWING", None))
    third = place.measure(drawing, second)
    assert (third.state, place.document(third.segmentation_id)["version"]) == ("done", 3)
    assert [in_archive(place, dataset) for dataset in (failed, drawing, anothers)] == [False, False, True]
    with place.sessions() as session:
        events = session.query(AuditEvent).filter(AuditEvent.action == "drawing.delete").all()
        deleted = {(event.actor, event.subject) for event in events}
    assert deleted == {("dr", str(dataset.SOPInstanceUID)) for dataset in (failed, drawing)}
    unchanged = place.measure(from_elsewhere)
    assert (unchanged.state, unchanged.segmentation_id) == ("done", third.segmentation_id)
    assert in_archive(place, from_elsewhere)


def test_what_was_drawn_for_a_job_that_was_cancelled_in_the_queue_leaves_the_archive(place, caplog):
    drawing = redraw(place, place.first, 1, "METSCOPE_DRAWING")
    place.archive.store([drawing])
    task = MeasureTask(sop_instance_uid=str(drawing.SOPInstanceUID), corrects=place.first)
    job = jobs.submit(place.sessions, place.study, MODEL, requested_by="dr", task=task)
    assert jobs.cancel(place.sessions, job.id, "dr").state == "cancelled"
    # Its message, or that of the cancellation, still reaches a worker.
    place.runner.run(job.id)
    assert jobs.get(place.sessions, job.id).state == "cancelled"
    assert not in_archive(place, drawing)
    # Nor is there anything to be done where the study itself has left.
    shutil.rmtree(place.settings.data_dir / "archive" / place.study)
    caplog.clear()
    place.runner.run(job.id)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "study_not_found" in caplog.text


def test_what_was_drawn_on_a_version_that_was_superseded_leaves_the_archive_with_the_next_success(place):
    api = create_app(place.settings.model_copy(update={"auth": "off"})).test_client()

    def measure(drawing, corrects):
        place.archive.store([drawing])
        body = {"sop_instance_uid": str(drawing.SOPInstanceUID), "corrects": corrects}
        job = api.post(f"/measurements/{place.study}", json=body).json
        place.runner.run(job["id"])
        return jobs.get(place.sessions, job["id"])

    late = redraw(place, place.first, 1, "METSCOPE_DRAWING")
    second = place.correct(rename={1: "pons"}).segmentation_id
    assert measure(late, place.first).error_code == "segmentation_superseded"
    assert in_archive(place, late)
    second_drawing = redraw(place, second, 2, "METSCOPE_DRAWING")
    assert measure(second_drawing, second).state == "done"
    assert [in_archive(place, dataset) for dataset in (late, second_drawing)] == [False, False]


def test_an_archive_that_may_not_be_deleted_in_keeps_what_was_drawn(place, monkeypatch):
    def refuse(self, study, sop):
        raise DeletionUnavailable("MetScope cannot delete from this archive.")

    monkeypatch.setattr(FolderArchive, "delete_instance", refuse)
    drawing = redraw(place, place.first, 1, "METSCOPE_DRAWING")
    job = place.measure(drawing, place.first)
    assert (job.state, job.error_code) == ("done", None)
    assert in_archive(place, drawing)


def test_no_two_lesions_of_a_patient_share_an_identifier_though_their_jobs_run_at_once(place):
    studies = [rows.add_study(place.settings, 1) for _ in range(2)]
    jobs_ = [jobs.submit(place.sessions, study, MODEL).id for study in studies]
    runners = [rows.threshold_runner(place.settings) for _ in jobs_]
    threads = [
        threading.Thread(target=runner.run, args=(job_id,))
        for runner, job_id in zip(runners, jobs_, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = place.labels(place.first)
    labels[1:3, 25:29, 50:56] = 6
    names = {number: f"Metastasis {number}" for number in range(1, 6)} | {6: "Segment 6"}
    segmentation_id = place.measure(place.saved_by_a_viewer(labels, names)).segmentation_id
    lesions = lesions_of_patient(place.sessions, "BENCH-1")
    by_study = Counter(lesion["study_instance_uid"] for lesion in lesions)
    assert by_study == {place.study: 6, studies[0]: 5, studies[1]: 5}
    expected = {f"BM-{number}" for number in range(1, 17)}
    assert {lesion["tracking_id"] for lesion in lesions} == expected
    assert {lesion["name"] for lesion in lesions} == {name.replace("BM-", "Metastasis ") for name in expected}
    assert "Metastasis 16" in by_name(place.document(segmentation_id))
    for study in studies:
        (document,) = documents_of_study(place.sessions, study)
        tracking_ids = {lesion["tracking_id"] for lesion in document["lesions"]}
        (report,) = [
            headers[0] for headers in place.archive.series_headers(study) if headers[0].Modality == "SR"
        ]
        report = place.archive.retrieve_series(study, report.SeriesInstanceUID)[0]
        texts = {item.TextValue for _, item in report_items(report) if "TextValue" in item}
        assert tracking_ids <= texts


def report_items(item):
    """Every content item of a report with its place in the tree."""
    for number, child in enumerate(item.get("ContentSequence") or []):
        yield number, child
        yield from report_items(child)
