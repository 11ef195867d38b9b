"""A result is recorded whole or not at all, and read back as it was measured."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import IntegrityError

from db import jobs, outbox, patients, recording, segmentations
from db.tables import AuditEvent, Base, LesionRow, Measurement, Segmentation
from errors import InvalidForm, LeaseLost, PatientNotFound, SegmentationNotFound, SegmentationSuperseded
from lesions.measure import Lesion
from schemas.results import ChangeAnswer
from tests.documents import answer_of, document_of, documents_of_study, lesions_of_patient
from tests.recorded import seg_object

LEASE_S = 60.0


def rows(sessions) -> dict[str, int]:
    with sessions() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }


def of_study(new, study: str, on: date | None, seg: str, **changes):
    """The same result for another study of the same patient."""
    source = replace(
        new.source, study_instance_uid=study, series_instance_uid=f"{study}.4", study_date=on, **changes
    )
    return replace(new, source=source, seg=seg_object(seg), idempotency_key=f"key-{seg}")


def test_one_record_writes_every_row_and_the_job_s_result(sessions, new, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    segmentation_id = recording.record(sessions, new, job_id, "a")
    assert rows(sessions) == {
        "patients": 1, "studies": 1, "series": 1, "segmentations": 1, "lesions": 2, "measurements": 2,
        "outbox": 1, "companions": 0, "jobs": 1, "audit_events": 1, "batches": 0, "batch_jobs": 0,
        "workers": 0, "tokens": 0, "study_deletions": 0,
    }  # fmt: skip
    assert jobs.get(sessions, job_id).segmentation_id == segmentation_id


def test_the_document_says_what_was_measured(sessions, new):
    before = datetime.now(UTC)
    segmentation_id = recording.record(sessions, new)
    document = document_of(sessions, segmentation_id)
    created_at = datetime.fromisoformat(document.pop("created_at"))
    assert before <= created_at <= datetime.now(UTC)
    assert [lesion["number"] for lesion in document["lesions"]] == [1, 2]
    assert document.pop("lesions") == [answer_of(lesion) for lesion in new.lesions]
    # 8 x 12 x 20 mm and 4 x 3 x 3 mm
    assert document.pop("total_volume_ml") == pytest.approx(1.920 + 0.036)
    assert document == {
        "schema_version": 1,
        "id": segmentation_id,
        "version": 1,
        "study_instance_uid": "1.2.3",
        "study_date": "2024-02-29",
        "series_instance_uid": "1.2.3.4",
        "reasons": ["post-contrast", "3D"],
        "model": {"id": "unetr", "version": "1", "sha256": "ab" * 32},
        "segmentation": {
            "sop_instance_uid": new.seg.sop_instance_uid,
            "series_instance_uid": new.seg.series_instance_uid,
            "stored": False,
            "missing_since": None,
        },
        "companions": [],
        "corrects": None,
        "corrected_by": None,
        "changes": [],
        "warnings": ["Slice thickness differs from spacing."],
        "timings_s": {"fetch": 0.25, "predict": 3.5},
        "research_use_only": True,
    }


def test_every_field_of_a_lesion_has_a_column():
    stored = {column.key for table in (LesionRow, Measurement) for column in inspect(table).columns}
    assert {field.name for field in fields(Lesion)} <= stored


def test_an_edited_lesion_shows_its_newest_measurement_and_keeps_the_old(sessions, new):
    segmentation_id = recording.record(sessions, new)
    with sessions.begin() as session:
        row = session.scalars(select(Measurement).join(LesionRow).where(LesionRow.number == 2)).one()
        edited = {c.key: getattr(row, c.key) for c in inspect(Measurement).columns if c.key != "id"}
        session.add(Measurement(**edited | {"long_axis_mm": 7.25}))
    lesions = document_of(sessions, segmentation_id)["lesions"]
    assert lesions[1]["long_axis_mm"] == 7.25
    assert lesions[0] == answer_of(new.lesions[0])
    assert rows(sessions)["measurements"] == 3


def test_zero_lesions_are_a_result_without_a_seg(sessions, new):
    empty = replace(new, lesions=[], seg=None)
    segmentation_id = recording.record(sessions, empty)
    document = document_of(sessions, segmentation_id)
    assert (document["lesions"], document["total_volume_ml"]) == ([], 0)
    assert document["segmentation"]["sop_instance_uid"] is None
    assert outbox.pending(sessions, segmentation_id) == {}
    recording.record(sessions, empty)


def test_two_jobs_for_the_same_images_end_in_one_result_unless_one_insists(sessions, new):
    """One asks for the series by its UID, the other leaves the choice: both compute at the same time."""
    requests = ({}, {"series_instance_uid": "1.2.3.4"}, {"force": True})
    ids = [jobs.submit(sessions, "1.2.3", "unetr", **request).id for request in requests]
    for id_ in ids:
        jobs.claim(sessions, id_, "a", LEASE_S, 3)
    runs = [replace(new, seg=seg_object(f"1.2.{number}")) for number in range(3)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(
            lambda job: recording.record(sessions, job[1], job[0], "a"),
            zip(ids[:2], runs[:2], strict=True),
        )
    assert first == second
    assert rows(sessions)["segmentations"] == rows(sessions)["outbox"] == 1
    assert [jobs.get(sessions, id_).segmentation_id for id_ in ids[:2]] == [first, first]
    assert recording.record(sessions, runs[2], ids[2], "a") != first


def test_a_lost_lease_writes_nothing(sessions, new, job_id):
    jobs.claim(sessions, job_id, "a", 0.0, 3)
    jobs.claim(sessions, job_id, "b", LEASE_S, 3)
    before = rows(sessions)
    for owner in ("a", ""):
        with pytest.raises(LeaseLost):
            recording.record(sessions, new, job_id, owner)
    assert rows(sessions) == before
    assert jobs.get(sessions, job_id).segmentation_id is None


def test_a_record_that_breaks_half_way_writes_nothing(sessions, new, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    before = rows(sessions)
    twice = replace(new, lesions=[new.lesions[0], new.lesions[0]])
    with pytest.raises(IntegrityError):
        recording.record(sessions, twice, job_id, "a")
    assert rows(sessions) == before
    assert jobs.get(sessions, job_id).segmentation_id is None


def test_versions_count_up_per_series_and_model_and_are_never_used_twice(sessions, new):
    def record(seg: str, **changes) -> int:
        changed = replace(new, seg=seg_object(seg), **changes)
        return document_of(sessions, recording.record(sessions, changed))["version"]

    assert [record("1.1"), record("1.2"), record("1.3", model_id="other")] == [1, 2, 1]
    newest = documents_of_study(sessions, "1.2.3")
    segmentations.delete_segmentation(
        sessions, next(d["id"] for d in newest if d["segmentation"]["sop_instance_uid"] == "1.2"), "reader"
    )
    assert record("1.4") == 3


def test_simultaneous_results_of_one_series_get_different_versions(sessions, new):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: recording.record(sessions, replace(new, seg=seg_object(f"1.{n}"))), range(8)))
    versions = [d["version"] for d in documents_of_study(sessions, "1.2.3")]
    assert sorted(versions) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows(sessions)["patients"] == 1


def test_one_seg_cannot_be_recorded_twice(sessions, new):
    recording.record(sessions, new)
    with pytest.raises(IntegrityError):
        recording.record(sessions, new)


def test_a_corrected_header_corrects_the_rows_and_an_absent_value_erases_nothing(sessions, new):
    recording.record(sessions, new)
    corrected = replace(new.source, patient_name="Müller^Anne", sex=None, study_date=date(2024, 3, 1))
    recording.record(sessions, replace(new, source=corrected, seg=seg_object("1.9")))
    (patient,) = patients.patients(sessions)
    assert (patient.name, patient.sex, patient.last_study_date) == ("Müller^Anne", "F", "2024-03-01")


def test_equal_input_is_found_until_it_is_deleted(sessions, new):
    assert segmentations.find_equal(sessions, "key-1") is None
    first = recording.record(sessions, new)
    assert segmentations.find_equal(sessions, "key-1") == first
    second = recording.record(sessions, replace(new, seg=seg_object("1.9")))
    assert segmentations.find_equal(sessions, "key-1") == second
    segmentations.delete_segmentation(sessions, second, None)
    assert segmentations.find_equal(sessions, "key-1") == first
    assert segmentations.find_equal(sessions, "key-2") is None


def test_a_job_adopts_an_existing_result(sessions, new, job_id):
    segmentation_id = recording.record(sessions, new)
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    recording.adopt(sessions, job_id, "a", segmentation_id)
    assert jobs.get(sessions, job_id).segmentation_id == segmentation_id
    segmentations.delete_segmentation(sessions, segmentation_id, None)
    with pytest.raises(SegmentationNotFound):
        recording.adopt(sessions, job_id, "a", segmentation_id)


def test_deleting_hides_the_result_and_leaves_a_trace(sessions, new):
    segmentation_id = recording.record(sessions, new)
    segmentations.delete_segmentation(sessions, segmentation_id, "reader")
    assert documents_of_study(sessions, "1.2.3") == []
    assert patients.patients(sessions) == []
    assert lesions_of_patient(sessions, "MS-1") == []
    with sessions() as session:
        event = session.scalars(select(AuditEvent)).one()
        deleted_at = session.get_one(Segmentation, segmentation_id).deleted_at
    assert abs(deleted_at - event.at) < timedelta(seconds=9)
    assert (event.actor, event.action, event.subject) == ("reader", "segmentation.delete", segmentation_id)
    assert event.details == {"sop_instance_uid": new.seg.sop_instance_uid}
    assert datetime.now(UTC) - event.at < timedelta(minutes=1)


@pytest.mark.parametrize(
    "function",
    [
        segmentations.document,
        outbox.store_failed,
        segmentations.require_newest_version,
        partial(outbox.mark_stored, uids=["1.2"]),
    ],
)
def test_an_unknown_or_deleted_segmentation_is_not_found(sessions, new, function):
    with pytest.raises(SegmentationNotFound, match="no segmentation 1234"):
        function(sessions, "1234")
    segmentation_id = recording.record(sessions, new)
    segmentations.delete_segmentation(sessions, segmentation_id, "reader")
    with pytest.raises(SegmentationNotFound):
        function(sessions, segmentation_id)
    with pytest.raises(SegmentationNotFound):
        segmentations.delete_segmentation(sessions, segmentation_id, "reader")


def test_a_study_s_segmentations_newest_first(sessions, new):
    ids = [
        recording.record(sessions, replace(new, seg=seg_object(f"1.{n}"), model_id=f"m{n}")) for n in range(3)
    ]
    recording.record(sessions, of_study(new, "1.2.9", None, "1.9"))
    documents = documents_of_study(sessions, "1.2.3")
    assert [document["id"] for document in documents] == ids[::-1]
    assert documents[0] == document_of(sessions, ids[2])
    assert documents_of_study(sessions, "1.2.77") == []


def test_patients_are_listed_with_their_studies(sessions, new):
    recording.record(sessions, new)
    recording.record(sessions, replace(new, seg=seg_object("1.8")))
    recording.record(sessions, of_study(new, "1.2.9", date(2024, 6, 30), "1.9"))
    recording.record(
        sessions, of_study(new, "1.2.10", None, "1.10", patient_id="MS-0", birth_date=None, issuer="")
    )
    assert [patient.model_dump() for patient in patients.patients(sessions)] == [
        {"patient_id": "MS-0", "issuer": None, "name": "Müller^Änne", "birth_date": None, "sex": "F",
         "studies": 1, "last_study_date": None},
        {"patient_id": "MS-1", "issuer": "Hospital A", "name": "Müller^Änne", "birth_date": "1950-04-12",
         "sex": "F", "studies": 2, "last_study_date": "2024-06-30"},
    ]  # fmt: skip


def test_a_patient_s_lesions_in_order_of_time(sessions, new):
    later = recording.record(sessions, of_study(new, "1.2.8", date(2024, 6, 30), "1.8"))
    undated = recording.record(sessions, of_study(new, "1.2.9", None, "1.9"))
    superseded = recording.record(sessions, new)
    first = recording.record(sessions, replace(new, seg=seg_object("1.7")))
    recording.record(sessions, of_study(new, "1.2.10", None, "1.10", patient_id="MS-2"))
    lesions = lesions_of_patient(sessions, "MS-1")
    assert [(lesion["segmentation_id"], lesion["number"]) for lesion in lesions] == [
        (first, 1), (first, 2), (later, 1), (later, 2), (undated, 1), (undated, 2),
    ]  # fmt: skip
    assert [lesion["study_date"] for lesion in lesions[::2]] == ["2024-02-29", "2024-06-30", None]
    assert lesions[2]["study_instance_uid"] == "1.2.8"
    assert (lesions[2]["series_instance_uid"], lesions[2]["series_description"]) == (
        "1.2.8.4",
        "T1 MPRAGE +Gd",
    )
    assert (lesions[0]["model_id"], lesions[0]["volume_ml"]) == ("unetr", 1.92)
    assert lesions[0]["colour"] != lesions[1]["colour"]
    segmentations.delete_segmentation(sessions, first, None)
    assert lesions_of_patient(sessions, "MS-1")[0]["segmentation_id"] == superseded


def test_two_people_with_one_identifier_are_never_mixed(sessions, new):
    recording.record(sessions, new)
    elsewhere = recording.record(sessions, of_study(new, "1.2.9", None, "1.9", issuer="Hospital B"))
    with pytest.raises(InvalidForm, match="2 issuers") as raised:
        lesions_of_patient(sessions, "MS-1")
    assert "MS-1" not in raised.value.message
    lesions = lesions_of_patient(sessions, "MS-1", issuer="Hospital B")
    assert {lesion["segmentation_id"] for lesion in lesions} == {elsewhere}


def test_an_unknown_patient_is_not_found_and_not_named(sessions):
    with pytest.raises(PatientNotFound) as raised:
        lesions_of_patient(sessions, "MS-77")
    assert "MS-77" not in raised.value.message


def test_no_patient_appears_in_a_log(sessions, new, job_id, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    recording.record(sessions, new, job_id, "a")
    for text in ("Müller", "MS-1", "1950"):
        assert text not in caplog.text


def test_a_correction_is_the_next_version_and_only_of_the_newest(sessions, new):
    first = recording.record(sessions, new)
    change = ChangeAnswer(
        change="renamed", tracking_uid=new.lesions[0].tracking_uid, name="left frontal",
        volume_ml=1.92, previous_name="Metastasis 1", previous_volume_ml=1.92,
    )  # fmt: skip
    renamed = [replace(new.lesions[0], name="left frontal"), new.lesions[1]]
    corrected = replace(
        new,
        lesions=renamed,
        seg=seg_object("1.9"),
        colours={1: "#ff0000"},
        correction=recording.Correction(first, "dr", [change]),
    )
    second = recording.record(sessions, corrected)
    newest, oldest = documents_of_study(sessions, "1.2.3")
    assert (newest["version"], newest["corrects"], newest["corrected_by"]) == (2, first, "dr")
    assert newest["changes"] == [change.model_dump()]
    assert (oldest["version"], oldest["corrects"], oldest["corrected_by"], oldest["changes"]) == (
        1,
        None,
        None,
        [],
    )
    assert [lesion["name"] for lesion in oldest["lesions"]] == ["Metastasis 1", "Metastasis 2"]
    lesions = lesions_of_patient(sessions, "MS-1")
    assert [(lesion["name"], lesion["colour"]) for lesion in lesions] == [
        ("left frontal", "#ff0000"),
        ("Metastasis 2", "#56b4e9"),
    ]
    # Who asks again for the images and the model gets the result as it was corrected.
    assert segmentations.find_equal(sessions, new.idempotency_key) == second
    assert segmentations.current_result(sessions, "1.2.3", "1.2.3.4") == second
    with pytest.raises(SegmentationSuperseded):
        recording.record(sessions, replace(corrected, seg=seg_object("1.10")))
    assert len(documents_of_study(sessions, "1.2.3")) == 2
    segmentations.delete_segmentation(sessions, second, "dr")
    assert segmentations.current_result(sessions, "1.2.3", "1.2.3.4") == first
    segmentations.require_newest_version(sessions, first)


def test_what_a_person_corrected_is_the_series_result_although_another_model_found_something_later(
    sessions, new
):
    first = recording.record(sessions, new)
    correction = recording.Correction(first, "dr", [])
    corrected = recording.record(sessions, replace(new, seg=seg_object("1.9"), correction=correction))
    other = replace(new, model_id="other", idempotency_key="other", seg=seg_object("1.10"))
    later = recording.record(sessions, other)
    assert segmentations.current_result(sessions, "1.2.3", "1.2.3.4") == corrected
    segmentations.delete_segmentation(sessions, corrected, "dr")
    assert segmentations.current_result(sessions, "1.2.3", "1.2.3.4") == later
    assert segmentations.newest_version(sessions, first) == first


def test_a_companion_is_added_once_and_waits_for_the_archive(sessions, new, job_id):
    recorded = recording.record(sessions, new)
    for number in range(2):
        job = jobs.submit(sessions, "1.2.3", "unetr", force=True).id
        jobs.claim(sessions, job, "a", LEASE_S, 3)
        companion = recording.NewObject("RTSTRUCT", f"1.5.{number}", "1.5", b"structures")
        recording.add_companion(sessions, recorded, companion, job, "a")
        assert jobs.get(sessions, job).segmentation_id == recorded
    assert document_of(sessions, recorded)["companions"] == [
        {"modality": "RTSTRUCT", "sop_instance_uid": "1.5.0", "series_instance_uid": "1.5", "stored": False}
    ]
    assert outbox.pending(sessions, recorded) == {
        new.seg.sop_instance_uid: new.seg.encoded,
        "1.5.0": b"structures",
    }
    with pytest.raises(LeaseLost):
        recording.add_companion(sessions, recorded, companion, job_id, "b")


def test_a_companion_that_the_archive_has_lost_is_replaced_by_the_first_of_two_jobs(sessions, new):
    recorded = recording.record(sessions, new)
    for number, lost in enumerate([None, "1.5.0", "1.5.0"]):
        job = jobs.submit(sessions, "1.2.3", "unetr", force=True).id
        jobs.claim(sessions, job, "a", LEASE_S, 3)
        companion = recording.NewObject("RTSTRUCT", f"1.5.{number}", "1.5", b"structures")
        recording.add_companion(sessions, recorded, companion, job, "a", lost)
        outbox.mark_stored(sessions, recorded, [companion.sop_instance_uid])
    (companion,) = document_of(sessions, recorded)["companions"]
    assert (companion["sop_instance_uid"], companion["stored"]) == ("1.5.1", True)


def test_a_series_counts_once_what_a_person_corrected_before_the_newest_result_of_a_model(sessions, new):
    first = recording.record(sessions, new)
    other_model = recording.record(sessions, replace(new, model_id="b", seg=seg_object("1.8")))
    lesions = lesions_of_patient(sessions, "MS-1")
    assert {(lesion["segmentation_id"], lesion["model_id"]) for lesion in lesions} == {(other_model, "b")}
    change = ChangeAnswer(
        change="deleted", tracking_uid=new.lesions[1].tracking_uid, name=None,
        volume_ml=None, previous_name="Metastasis 2", previous_volume_ml=0.036,
    )  # fmt: skip
    corrected = replace(
        new,
        lesions=new.lesions[:1],
        seg=seg_object("1.9"),
        correction=recording.Correction(first, "dr", [change]),
    )
    second = recording.record(sessions, corrected)
    recording.record(sessions, replace(new, model_id="c", seg=seg_object("1.10")))
    lesions = lesions_of_patient(sessions, "MS-1")
    assert [(lesion["segmentation_id"], lesion["model_id"]) for lesion in lesions] == [(second, "unetr")]
    assert segmentations.current_result(sessions, "1.2.3", "1.2.3.4") == second
