"""Several studies at once: all asked for or none, each job once, cancelled without harm to others."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from db import batches, jobs, recording
from db.tables import Batch, Job
from errors import BatchNotFound

STUDIES = ["1.2.9", "1.2.3", "1.2.5"]


def test_a_batch_has_a_job_for_each_study_and_joins_one_that_is_active(sessions, job_id):
    batch = batches.submit(sessions, [*STUDIES, "1.2.9"], "unetr", requested_by="reader")
    stored_batch = batches.get(sessions, batch.id)
    assert sorted(job.study_instance_uid for job in stored_batch.jobs) == sorted(STUDIES)
    assert job_id in {job.id for job in stored_batch.jobs}
    assert {job.state for job in stored_batch.jobs} == {"queued"}
    assert stored_batch.requested_by == "reader"


def test_a_batch_that_cannot_be_written_leaves_no_job(sessions):
    with pytest.raises(TypeError):
        batches.submit(sessions, ["1.2.3", None], "unetr")
    with sessions() as session:
        assert [session.scalar(select(func.count()).select_from(t)) for t in (Batch, Job)] == [0, 0]


def test_cancelling_ends_what_is_not_recorded_and_spares_what_another_batch_waits_for(sessions, new):
    batch = batches.submit(sessions, STUDIES, "unetr")
    second_batch = batches.submit(sessions, ["1.2.9", "1.2.7"], "unetr")
    by_study = {job.study_instance_uid: job.id for job in batch.jobs}
    jobs.claim(sessions, by_study["1.2.3"], "a", 60.0, 3)
    recording.record(sessions, new, by_study["1.2.3"], "a")
    cancelled = batches.cancel(sessions, batch.id, "reader")
    states = {job.study_instance_uid: job.state for job in cancelled.jobs}
    assert states == {"1.2.3": "running", "1.2.5": "cancelled", "1.2.9": "queued"}
    assert {job.state for job in batches.get(sessions, second_batch.id).jobs} == {"queued"}
    # Now nobody waits for the shared one any more.
    assert {job.state for job in batches.cancel(sessions, second_batch.id, "reader").jobs} == {"cancelled"}


def test_a_job_that_somebody_asked_for_by_itself_is_not_cancelled_with_a_batch(sessions, job_id):
    batch = batches.submit(sessions, STUDIES, "unetr")
    states = {job.id: job.state for job in batches.cancel(sessions, batch.id, None).jobs}
    assert states.pop(job_id) == "queued"
    assert set(states.values()) == {"cancelled"}


@pytest.mark.parametrize("how", ["asked for", "retried"])
def test_a_job_of_a_batch_that_somebody_asked_for_by_itself_later_is_not_cancelled_with_it(sessions, how):
    before = jobs.submit(sessions, "1.2.3", "unetr", requested_by="bob")
    jobs.cancel(sessions, before.id, "bob")
    batch = batches.submit(sessions, STUDIES, "unetr", requested_by="ann")
    if how == "retried":
        joined = jobs.retry(sessions, before.id, "bob")
    else:
        joined = jobs.submit(sessions, "1.2.3", "unetr", requested_by="bob")
    states = {job.id: job.state for job in batches.cancel(sessions, batch.id, "ann").jobs}
    assert states.pop(joined.id) == "queued"
    assert set(states.values()) == {"cancelled"}


def test_overlapping_batches_asked_for_and_cancelled_at_once_all_end(sessions):
    studies = [f"1.2.{number}" for number in range(12)]

    def ask_and_cancel(number):
        batch = batches.submit(sessions, studies[number % 4 : number % 4 + 9], "unetr")
        return batches.cancel(sessions, batch.id, None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask_and_cancel, range(30)))
    assert {job.state for job in jobs.list_jobs(sessions, 500)} == {"cancelled"}


def test_a_batch_does_not_join_a_job_that_is_being_cancelled(sessions, job_id):
    jobs.claim(sessions, job_id, "a", 60.0, 3)
    jobs.cancel(sessions, job_id)
    batch = batches.submit(sessions, ["1.2.3"], "unetr")
    assert [(job.id == job_id, job.state) for job in batch.jobs] == [(False, "queued")]
    assert jobs.submit(sessions, "1.2.3", "unetr").id == batch.jobs[0].id


def test_lesions_are_counted_by_result(sessions, new):
    batch = batches.submit(sessions, STUDIES, "unetr")
    results = {}
    empty = replace(new, lesions=[], seg=None, idempotency_key="another")
    for job, run in zip(batch.jobs[:2], (new, empty), strict=True):
        jobs.claim(sessions, job.id, "a", 60.0, 3)
        results[recording.record(sessions, run, job.id, "a")] = len(run.lesions)
    assert batches.count_lesions(sessions, batches.get(sessions, batch.id).jobs) == results
    assert sorted(results.values()) == [0, 2]


def test_an_unknown_batch_is_an_error(sessions):
    for ask in (lambda: batches.get(sessions, "x"), lambda: batches.cancel(sessions, "x", None)):
        with pytest.raises(BatchNotFound, match="x"):
            ask()
