"""Purging removes what was deleted long ago, the patient with the last result, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from db import batches, jobs, recording, segmentations
from db.retention import purge
from db.tables import AuditEvent, Base, Job, Segmentation
from schemas.results import ChangeAnswer
from tests.documents import document_of
from tests.recorded import seg_object

NOW = datetime.now(UTC)
LONG_AGO, LIMIT = NOW - timedelta(days=100), NOW - timedelta(days=90)
OF_RESULTS = (
    "patients",
    "studies",
    "series",
    "segmentations",
    "lesions",
    "measurements",
    "outbox",
    "companions",
)


def counts(sessions):
    with sessions() as session:
        tables = Base.metadata.tables
        return {
            name: session.scalar(select(func.count()).select_from(table)) for name, table in tables.items()
        }


def done(sessions, new):
    """A batch of one job that is done, and its result."""
    job = batches.submit(sessions, ["1.2.3"], "unetr").jobs[0]
    jobs.claim(sessions, job.id, "a", 60.0, 3)
    recorded = recording.record(sessions, new, job.id, "a")
    jobs.finish(sessions, job.id, "a", recorded)
    return recorded


def backdate(sessions, table, **times):
    with sessions.begin() as session:
        for row in session.scalars(select(table)):
            for name, at in times.items():
                setattr(row, name, at)


def test_a_result_deleted_long_ago_takes_its_patient_and_its_job_along(sessions, new):
    recorded = done(sessions, new)
    segmentations.delete_segmentation(sessions, recorded, "admin")
    backdate(sessions, Segmentation, deleted_at=LONG_AGO)
    purge(sessions, LIMIT, "admin")
    left = counts(sessions)
    assert {left[name] for name in (*OF_RESULTS, "jobs", "batches", "batch_jobs")} == {0}
    with sessions() as session:
        trail = [event.action for event in session.scalars(select(AuditEvent).order_by(AuditEvent.id))]
    assert trail == ["job.request", "segmentation.delete", "purge"]


def test_results_that_nobody_deleted_stay_when_their_jobs_go(sessions, new):
    recorded = done(sessions, new)
    before = counts(sessions)
    backdate(sessions, Job, finished_at=LONG_AGO)
    purged = purge(sessions, LIMIT, "admin")
    after = counts(sessions)
    assert {name: after[name] for name in OF_RESULTS} == {name: before[name] for name in OF_RESULTS}
    assert (after["jobs"], purged["jobs"], purged["segmentations"]) == (0, 1, 0)
    assert document_of(sessions, recorded)["lesions"]


def test_what_is_young_or_active_stays(sessions, new):
    recorded = done(sessions, new)
    other = recording.record(sessions, replace(new, seg=seg_object("1.2"), idempotency_key="other"))
    segmentations.delete_segmentation(sessions, recorded, "admin")
    active = jobs.submit(sessions, "1.2.9", "unetr")
    backdate(sessions, Job, created_at=LONG_AGO)
    before = counts(sessions)
    assert set(purge(sessions, LIMIT, "admin").values()) == {0}
    assert counts(sessions) == before | {"audit_events": before["audit_events"] + 1}
    assert jobs.get(sessions, active.id).state == "queued"
    assert document_of(sessions, other)


def test_a_correction_outlives_the_version_before_it(sessions, new):
    companion = recording.NewObject("SR", "1.8", "1.2", b"report")
    first = recording.record(sessions, replace(new, companions=[companion]))
    change = ChangeAnswer(
        change="drawn", tracking_uid=new.lesions[0].tracking_uid, name="Metastasis 1", volume_ml=1.92,
        previous_name=None, previous_volume_ml=None,
    )  # fmt: skip
    correction = recording.Correction(first, "dr", [change])
    second = recording.record(sessions, replace(new, seg=seg_object("1.9"), correction=correction))
    segmentations.delete_segmentation(sessions, first, "admin")
    with sessions.begin() as session:
        session.get_one(Segmentation, first).deleted_at = LONG_AGO
    purged = purge(sessions, LIMIT, "admin")
    assert (purged["segmentations"], purged["companions"]) == (1, 1)
    document = document_of(sessions, second)
    assert (document["corrects"], document["corrected_by"], document["changes"]) == (
        None,
        "dr",
        [change.model_dump()],
    )


def test_a_deleted_result_that_a_job_is_still_at_work_on_waits_for_the_next_purge(sessions, new):
    job = jobs.submit(sessions, "1.2.3", "unetr")
    jobs.claim(sessions, job.id, "a", 60.0, 3)
    recorded = recording.record(sessions, new, job.id, "a")
    segmentations.delete_segmentation(sessions, recorded, "admin")
    backdate(sessions, Segmentation, deleted_at=LONG_AGO)
    purge(sessions, LIMIT, "admin")
    assert counts(sessions)["segmentations"] == 1
    jobs.fail(sessions, job.id, "a", "store_failed", "No.")
    purge(sessions, LIMIT, "admin")
    assert {counts(sessions)[name] for name in (*OF_RESULTS, "jobs")} == {0}
