"""A job runs once, its owner alone changes it, and none is ever lost."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy.exc import IntegrityError

from db import batches, deletion, estimates, jobs, queue, recording, workers
from db.database import writing
from db.tables import Job, JobState, Segmentation
from errors import JobCancelled, JobNotCancellable, JobNotFound, JobNotRetryable, LeaseLost
from schemas.tasks import SEGMENT, CorrectTask, Kind, SegmentTask, Task
from tests.clock import later
from tests.documents import documents_of_study
from tests.recorded import TASKS, seg_object

ROOT = Path(__file__).parents[2]
LEASE_S = 60.0
DEADLINE_S = 3600.0


def requeue(sessions, seconds, max_attempts):
    with later(sessions, seconds):
        return queue.requeue_expired(sessions, max_attempts)


def waiting(sessions, seconds, patience_s=15.0):
    with later(sessions, seconds):
        return queue.next_waiting(sessions, patience_s)


def age(sessions, job_id, seconds):
    """Let a job be created that much earlier."""
    with sessions.begin() as session:
        session.get_one(Job, job_id).created_at -= timedelta(seconds=seconds)


def test_a_submitted_job_waits_with_all_that_was_asked(sessions):
    before = datetime.now(UTC)
    job = jobs.submit(sessions, "1.2.3", "unetr", series_instance_uid="1.2.3.4", requested_by="reader")
    job = jobs.get(sessions, job.id)
    assert (job.study_instance_uid, job.series_instance_uid, job.model_id) == ("1.2.3", "1.2.3.4", "unetr")
    assert (job.state, job.attempts, job.progress, job.requested_by) == ("queued", 0, 0.0, "reader")
    assert (job.started_at, job.finished_at, job.error_code, job.segmentation_id) == (None, None, None, None)
    assert before <= job.created_at <= datetime.now(UTC)
    assert job.created_at.utcoffset() == timedelta(0)


def test_an_identical_request_gets_the_active_job(sessions, job_id):
    assert jobs.submit(sessions, "1.2.3", "unetr").id == job_id
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    assert jobs.submit(sessions, "1.2.3", "unetr").id == job_id


@pytest.mark.parametrize(
    "difference",
    [
        {"study_instance_uid": "1.2.9"},
        {"model_id": "other"},
        {"series_instance_uid": "1.2.3.4"},
        {"force": True},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_another_request_gets_a_job_of_its_own(sessions, job_id, difference):
    request = {"study_instance_uid": "1.2.3", "model_id": "unetr"} | difference
    assert jobs.submit(sessions, **request).id != job_id


def test_forced_requests_run_each_and_an_unforced_one_joins_them(sessions):
    forced = [jobs.submit(sessions, "1.2.3", "unetr", force=True).id for _ in range(2)]
    assert forced[0] != forced[1]
    assert jobs.submit(sessions, "1.2.3", "unetr").id == forced[0]


def test_of_several_active_jobs_the_oldest_is_joined(sessions):
    first, second = (jobs.submit(sessions, "1.2.3", "unetr", force=True).id for _ in range(2))
    assert jobs.submit(sessions, "1.2.3", "unetr").id == first
    age(sessions, second, 60)
    assert jobs.submit(sessions, "1.2.3", "unetr").id == second
    jobs.claim(sessions, second, "a", LEASE_S, 3)
    assert jobs.submit(sessions, "1.2.3", "unetr").id == second


def test_after_the_end_the_same_request_is_a_new_job(sessions, job_id):
    jobs.cancel(sessions, job_id)
    assert jobs.submit(sessions, "1.2.3", "unetr").id != job_id


def test_simultaneous_identical_requests_make_one_job(sessions):
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: jobs.submit(sessions, "1.2.3", "unetr").id, range(24)))
    assert len(ids) == 1
    assert [job.id for job in jobs.list_jobs(sessions)] == list(ids)


def test_a_claimed_job_runs_and_is_not_to_be_had_again(sessions, job_id):
    before = datetime.now(UTC)
    job = jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    assert (job.state, job.attempts, job.lease_owner) == ("running", 1, "a")
    assert before <= job.started_at <= datetime.now(UTC)
    assert job.lease_expires_at == job.started_at + timedelta(seconds=LEASE_S)
    assert jobs.claim(sessions, job_id, "b", LEASE_S, 3) is None
    assert jobs.get(sessions, job_id).lease_owner == "a"


@pytest.mark.parametrize("name", ["get", "cancel"])
def test_an_unknown_job_is_not_found(sessions, name):
    with pytest.raises(JobNotFound, match="no job 1234"):
        getattr(jobs, name)(sessions, "1234")
    with pytest.raises(JobNotFound):
        jobs.claim(sessions, "1234", "a", LEASE_S, 3)


CLAIM = """
import sys, time
from pathlib import Path
from db import jobs
from db.database import open_database
url, job_id, owner, folder = sys.argv[1:]
sessions = open_database(url)
Path(folder, owner).touch()
while not Path(folder, "go").exists():
    time.sleep(0.001)
print("won" if jobs.claim(sessions, job_id, owner, 60, 3) else "lost")
sessions.kw["bind"].dispose()
"""


def test_of_two_processes_exactly_one_gets_the_job(sessions, url, job_id, tmp_path):
    owners = ["a", "b"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, url, job_id, owner, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for owner in owners
    ]
    deadline = time.monotonic() + 60
    while not all((tmp_path / owner).exists() for owner in owners) and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(answers) == ["lost", "won"]
    job = jobs.get(sessions, job_id)
    assert (job.lease_owner, job.attempts) == (owners[answers.index("won")], 1)


def test_of_many_threads_exactly_one_gets_the_job(sessions, job_id):
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: jobs.claim(sessions, job_id, str(n), LEASE_S, 3), range(24)))
    assert sum(claim is not None for claim in claims) == 1


def test_an_expired_lease_passes_to_another_and_the_first_owner_can_change_nothing(sessions, new, job_id):
    jobs.claim(sessions, job_id, "a", 0.0, 3)
    assert jobs.claim(sessions, job_id, "b", LEASE_S, 3).attempts == 2
    segmentation_id = recording.record(sessions, new)
    for change in (
        lambda: jobs.heartbeat(sessions, job_id, "a", LEASE_S, DEADLINE_S, 1.0),
        lambda: jobs.progress(sessions, job_id, "a", "predict", 0.5),
        lambda: jobs.finish(sessions, job_id, "a", segmentation_id),
        lambda: jobs.fail(sessions, job_id, "a", "model_error", "No."),
        lambda: jobs.postpone(sessions, job_id, "a", "store", 1.0),
        lambda: jobs.mark_cancelled(sessions, job_id, "a"),
        lambda: recording.adopt(sessions, job_id, "a", segmentation_id),
    ):
        with pytest.raises(LeaseLost, match=job_id):
            change()
    job = jobs.get(sessions, job_id)
    assert (job.state, job.lease_owner, job.stage, job.segmentation_id) == ("running", "b", None, None)


def test_a_queued_job_has_no_owner(sessions, job_id):
    with pytest.raises(LeaseLost, match="queued"):
        jobs.heartbeat(sessions, job_id, "a", LEASE_S, DEADLINE_S, 1.0)


def test_heartbeats_keep_the_job(sessions, job_id):
    jobs.claim(sessions, job_id, "a", 0.2, 3)
    assert jobs.heartbeat(sessions, job_id, "a", LEASE_S, DEADLINE_S, 1.0) is False
    assert requeue(sessions, LEASE_S / 2, 3) == []
    assert requeue(sessions, LEASE_S + 1, 3) == [job_id]


def test_the_deadline_is_measured_by_the_worker_s_own_stopwatch(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    with later(sessions, 7200):
        assert jobs.heartbeat(sessions, job_id, "a", LEASE_S, DEADLINE_S, 1.0) is False
    with pytest.raises(LeaseLost, match="too long"):
        jobs.heartbeat(sessions, job_id, "a", LEASE_S, DEADLINE_S, DEADLINE_S + 1)
    assert jobs.get(sessions, job_id).error_code == "deadline_exceeded"


def test_progress_is_visible_to_others(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    assert jobs.progress(sessions, job_id, "a", "predict", 0.25) is False
    job = jobs.get(sessions, job_id)
    assert (job.stage, job.progress) == ("predict", 0.25)


def test_a_finished_job_has_its_result(sessions, new, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    segmentation_id = recording.record(sessions, new, job_id, "a")
    jobs.finish(sessions, job_id, "a", segmentation_id)
    job = jobs.get(sessions, job_id)
    assert (job.state, job.progress, job.segmentation_id) == ("done", 1.0, segmentation_id)
    assert job.started_at <= job.finished_at
    assert jobs.claim(sessions, job_id, "b", LEASE_S, 3) is None


def test_a_failed_job_keeps_the_error(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.fail(sessions, job_id, "a", "missing_slices", "10.0 mm between slices 14 and 15.")
    job = jobs.get(sessions, job_id)
    assert (job.state, job.error_code) == ("failed", "missing_slices")
    assert job.error_message == "10.0 mm between slices 14 and 15."
    assert job.finished_at is not None


def test_there_is_a_task_of_each_kind():
    kinds = {kind.model_fields["kind"].default for kind in get_args(Task)}
    assert kinds == set(get_args(Kind)) == {task.kind for task in TASKS}


def test_requests_for_different_work_on_one_study_do_not_join(sessions, job_id):
    different = [*TASKS, CorrectTask(segmentation_id="s-1", rename={2: "pons"}, delete=())]
    ids = [jobs.submit(sessions, "1.2.3", "unetr", task=task).id for task in different]
    assert len({job_id, *ids}) == 1 + len(different)
    assert [jobs.submit(sessions, "1.2.3", "unetr", task=task).id for task in different] == ids


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_job_that_is_tried_again_does_what_it_was_asked_for(sessions, task):
    first = jobs.submit(sessions, "1.2.3", "unetr", series_instance_uid="1.2.3.4", task=task)
    jobs.claim(sessions, first.id, "a", LEASE_S, 3)
    jobs.fail(sessions, first.id, "a", "archive_unreachable", "The archive is away.")
    retry = jobs.retry(sessions, first.id, "dr")
    assert retry.id != first.id
    assert (retry.task, retry.series_instance_uid, retry.requested_by) == (task, "1.2.3.4", "dr")
    # Who asks once more joins it; who asks for something else does not.
    assert jobs.submit(sessions, "1.2.3", "unetr", series_instance_uid="1.2.3.4", task=task).id == retry.id
    assert jobs.submit(sessions, "1.2.3", "unetr", series_instance_uid="1.2.3.4").id != retry.id


def test_only_a_job_that_failed_or_was_cancelled_is_tried_again(sessions, new, job_id):
    with pytest.raises(JobNotRetryable, match="is queued"):
        jobs.retry(sessions, job_id)
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    with pytest.raises(JobNotRetryable, match="is running"):
        jobs.retry(sessions, job_id)
    jobs.finish(sessions, job_id, "a", recording.record(sessions, new, job_id, "a"))
    with pytest.raises(JobNotRetryable, match="is done"):
        jobs.retry(sessions, job_id)
    cancelled = jobs.submit(sessions, "1.2.3", "unetr").id
    jobs.cancel(sessions, cancelled)
    assert jobs.retry(sessions, cancelled).state == "queued"


def test_a_job_that_is_tried_again_has_the_result_that_was_recorded(sessions, new, job_id):
    recording.record(sessions, replace(new, seg=seg_object("1.2.8"), idempotency_key="of another"))
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    result = recording.record(sessions, new, job_id, "a")
    jobs.fail(sessions, job_id, "a", "archive_refused", "No.")
    again = jobs.retry(sessions, job_id)
    assert jobs.get(sessions, again.id).segmentation_id == result


def test_a_job_that_is_tried_again_after_its_result_was_deleted_starts_without_one(sessions, new, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    result = recording.record(sessions, new, job_id, "a")
    jobs.fail(sessions, job_id, "a", "archive_refused", "No.")
    with sessions.begin() as session:
        session.get_one(Segmentation, result).deleted_at = datetime.now(UTC)
    again = jobs.retry(sessions, job_id)
    assert jobs.get(sessions, again.id).segmentation_id is None


@pytest.mark.parametrize("running", [True, False])
def test_the_jobs_of_a_study_that_was_deleted_fail(sessions, job_id, running):
    other = jobs.submit(sessions, "1.2.9", "unetr").id
    if running:
        jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    deletion.finish_study(sessions, "1.2.3", "dr")
    job = jobs.get(sessions, job_id)
    assert (job.state, job.error_code, job.lease_owner) == ("failed", "study_not_found", None)
    assert "1.2.3 was deleted" in job.error_message
    assert jobs.get(sessions, other).state == "queued"


def test_a_message_that_quotes_what_no_database_holds_ends_its_job_all_the_same(sessions):
    job_id = jobs.submit(sessions, "1.2.3", "unetr", task=SegmentTask(inputs={"T1": "a\0b"})).id
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.fail(sessions, job_id, "a", "ambiguous_series", "T1\0 post \ud800 Müller")
    job = jobs.get(sessions, job_id)
    assert (job.state, job.error_message) == ("failed", "T1\ufffd post ? Müller")
    assert job.task == SegmentTask(inputs={"T1": "a\ufffdb"})


def test_a_postponed_job_waits_costs_no_attempt_and_comes_back(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 2)
    for _ in range(5):
        jobs.postpone(sessions, job_id, "a", "store", 100.0)
        job = jobs.get(sessions, job_id)
        assert (job.state, job.stage, job.attempts) == ("queued", "store", 0)
        assert jobs.claim(sessions, job_id, "b", LEASE_S, 2) is None
        assert waiting(sessions, 90) is None
        assert waiting(sessions, 101) == job_id
        with later(sessions, 101):
            assert jobs.claim(sessions, job_id, "a", LEASE_S, 2).not_before is None


def test_a_queued_job_is_cancelled_at_once(sessions, job_id):
    assert jobs.cancel(sessions, job_id).state == JobState.CANCELLED
    assert jobs.get(sessions, job_id).finished_at is not None
    assert jobs.claim(sessions, job_id, "a", LEASE_S, 3) is None


def test_a_running_job_is_cancelled_when_its_worker_sees_it(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    assert jobs.cancel(sessions, job_id).state == "running"
    assert jobs.cancel(sessions, job_id).cancel_requested
    assert jobs.progress(sessions, job_id, "a", "predict", 0.1) is True
    assert jobs.heartbeat(sessions, job_id, "a", LEASE_S, DEADLINE_S, 1.0) is True
    jobs.mark_cancelled(sessions, job_id, "a")
    assert jobs.get(sessions, job_id).state == "cancelled"


def test_an_ended_job_cannot_be_cancelled(sessions, job_id):
    jobs.cancel(sessions, job_id)
    with pytest.raises(JobNotCancellable, match="is cancelled"):
        jobs.cancel(sessions, job_id)


def test_a_cancelled_job_is_not_postponed(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.cancel(sessions, job_id)
    assert jobs.postpone(sessions, job_id, "a", "store", 1.0).state == "cancelled"


@pytest.mark.parametrize("result", ["a new one", "a companion", "one that exists"])
def test_a_cancelled_job_records_nothing(sessions, job_id, new, result):
    earlier = recording.record(sessions, new)
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.cancel(sessions, job_id)
    structures = recording.NewObject("RTSTRUCT", "1.5.1", "1.5", b"structures")
    ways = {
        "a new one": lambda: recording.record(sessions, replace(new, idempotency_key="other"), job_id, "a"),
        "a companion": lambda: recording.add_companion(sessions, earlier, structures, job_id, "a"),
        "one that exists": lambda: recording.adopt(sessions, job_id, "a", earlier),
    }
    with pytest.raises(JobCancelled):
        ways[result]()
    assert jobs.get(sessions, job_id).segmentation_id is None
    (document,) = documents_of_study(sessions, "1.2.3")
    assert document["companions"] == []


def test_a_job_whose_result_is_recorded_is_stored_and_not_cancelled(sessions, job_id, new):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    segmentation_id = recording.record(sessions, new, job_id, "a")
    assert jobs.postpone(sessions, job_id, "a", "store", 0.0).state == "queued"
    with pytest.raises(JobNotCancellable, match="already recorded"):
        jobs.cancel(sessions, job_id)
    jobs.claim(sessions, job_id, "b", LEASE_S, 3)
    assert requeue(sessions, LEASE_S + 1, 3) == [job_id]
    jobs.claim(sessions, job_id, "c", LEASE_S, 3)
    assert jobs.finish(sessions, job_id, "c", segmentation_id).state == "done"


def test_a_cancelled_job_whose_worker_vanished_ends(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.cancel(sessions, job_id)
    assert requeue(sessions, LEASE_S + 1, 3) == []
    assert jobs.get(sessions, job_id).state == "cancelled"


def test_a_vanished_worker_s_job_is_queued_again_until_its_attempts_are_used_up(sessions, job_id):
    for attempt in (1, 2):
        assert jobs.claim(sessions, job_id, "a", LEASE_S, 3).attempts == attempt
        assert requeue(sessions, LEASE_S + 1, 3) == [job_id]
        assert jobs.get(sessions, job_id).state == "queued"
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.progress(sessions, job_id, "a", "predict", 0.5)
    assert requeue(sessions, LEASE_S + 1, 3) == []
    job = jobs.get(sessions, job_id)
    assert (job.state, job.error_code, job.attempts) == ("failed", "job_interrupted", 3)
    assert "died 3 times in stage 'predict'" in job.error_message


def test_claiming_a_job_whose_attempts_are_used_up_fails_it(sessions, job_id):
    for _ in range(2):
        jobs.claim(sessions, job_id, "a", 0.0, 2)
    assert jobs.claim(sessions, job_id, "b", LEASE_S, 2) is None
    job = jobs.get(sessions, job_id)
    assert (job.state, job.error_code, job.attempts) == ("failed", "job_interrupted", 2)


def test_a_job_whose_result_is_recorded_is_not_given_up_however_often_its_worker_vanishes(
    sessions, new, job_id
):
    jobs.claim(sessions, job_id, "a", LEASE_S, 2)
    segmentation_id = recording.record(sessions, new, job_id, "a")
    for _ in range(4):
        assert requeue(sessions, LEASE_S + 1, 2) == [job_id]
        assert jobs.claim(sessions, job_id, "b", LEASE_S, 2) is not None
    assert jobs.finish(sessions, job_id, "b", segmentation_id).state == "done"


def test_a_job_whose_message_was_lost_waits_for_a_free_worker(sessions, job_id):
    younger = jobs.submit(sessions, "1.2.9", "unetr").id
    assert waiting(sessions, 14) is None
    assert waiting(sessions, 16) == job_id
    age(sessions, younger, 1)
    assert waiting(sessions, 16) == younger
    age(sessions, younger, -1)
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    assert waiting(sessions, 16) == younger
    jobs.claim(sessions, younger, "b", LEASE_S, 3)
    assert waiting(sessions, 16) is None
    assert waiting(sessions, LEASE_S + 1) == job_id


def test_a_free_worker_takes_the_oldest_job_whatever_it_waits_for(sessions, job_id):
    younger, youngest = (jobs.submit(sessions, study, "unetr").id for study in ("1.2.8", "1.2.9"))
    jobs.claim(sessions, younger, "a", LEASE_S, 3)
    jobs.claim(sessions, youngest, "b", LEASE_S, 3)
    jobs.postpone(sessions, youngest, "b", "store", LEASE_S)
    assert waiting(sessions, LEASE_S + 1) == job_id
    age(sessions, younger, 60)
    assert waiting(sessions, LEASE_S + 1) == younger
    age(sessions, youngest, 120)
    assert waiting(sessions, LEASE_S + 1) == youngest


def test_two_workers_at_once_queue_an_expired_job_again_once(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    with later(sessions, LEASE_S + 1), ThreadPoolExecutor(4) as pool:
        lists = list(pool.map(lambda _: queue.requeue_expired(sessions, 3), range(12)))
    assert [queued_id for ids in lists for queued_id in ids] == [job_id]


def test_an_expired_job_that_another_process_is_changing_is_left_to_it(system, sessions, job_id):
    if system == "sqlite":
        pytest.skip("one process at a time changes the file")
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    with later(sessions, LEASE_S + 1):
        with writing(sessions) as session:
            session.get_one(Job, job_id, with_for_update=True)
            assert queue.requeue_expired(sessions, 3) == []
        assert queue.requeue_expired(sessions, 3) == [job_id]


def test_after_the_clock_was_set_back_a_vanished_worker_s_job_waits_no_longer_than_before(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    with later(sessions, -7200):
        assert queue.requeue_expired(sessions, 3) == []
        with later(sessions, LEASE_S - 1):
            assert queue.requeue_expired(sessions, 3) == []
        with later(sessions, LEASE_S + 1):
            assert queue.requeue_expired(sessions, 3) == [job_id]


def test_after_the_clock_was_set_back_a_postponed_job_waits_no_longer_than_before(sessions, job_id):
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    jobs.postpone(sessions, job_id, "a", "store", 100.0)
    with later(sessions, -7200):
        for _ in range(3):
            queue.requeue_expired(sessions, 3)
            assert waiting(sessions, 90) is None
        assert waiting(sessions, 101) == job_id


def test_after_the_clock_was_set_back_a_job_whose_message_was_lost_waits_no_longer_than_before(
    sessions, job_id
):
    with later(sessions, -7200):
        queue.requeue_expired(sessions, 3)
        assert waiting(sessions, 14) is None
        assert waiting(sessions, 16) == job_id


CLOCK_AHEAD = """
import datetime, sys
class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(hours=2)
datetime.datetime = Ahead
from db import jobs, queue, workers
from db.database import open_database, reading
url, job_id = sys.argv[1:]
sessions = open_database(url)
workers.seen(sessions, "ahead", [])
print(queue.requeue_expired(sessions, 1), queue.next_waiting(sessions, 15.0))
print(jobs.claim(sessions, job_id, "b", 60, 1))
sessions.kw["bind"].dispose()
"""


def test_a_worker_whose_clock_is_ahead_takes_no_job_from_a_healthy_one(system, sessions, url, job_id):
    if system == "sqlite":
        pytest.skip("all who open the file have the clock of one machine")
    jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    workers.seen(sessions, "healthy", [])
    done = subprocess.run(
        [sys.executable, "-c", CLOCK_AHEAD, url, job_id], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["[]", "None", "None"]
    assert (jobs.get(sessions, job_id).state, jobs.get(sessions, job_id).lease_owner) == ("running", "a")
    with sessions() as session:
        assert [worker.id for worker in workers.living(session, LEASE_S)] == ["ahead", "healthy"]


def test_jobs_are_listed_newest_first_by_state_and_study(sessions):
    ids = [jobs.submit(sessions, f"1.2.{n}", "unetr").id for n in range(4)]
    jobs.claim(sessions, ids[1], "a", LEASE_S, 3)
    assert [job.id for job in jobs.list_jobs(sessions)] == ids[::-1]
    assert [job.id for job in jobs.list_jobs(sessions, limit=2)] == [ids[3], ids[2]]
    assert [job.id for job in jobs.list_jobs(sessions, state="running")] == [ids[1]]
    assert [job.id for job in jobs.list_jobs(sessions, study_instance_uid="1.2.2")] == [ids[2]]
    assert jobs.list_jobs(sessions, state="running", study_instance_uid="1.2.2") == []


def test_fifty_jobs_are_listed_unless_another_number_is_asked_for(sessions):
    batches.submit(sessions, [f"1.2.{n}" for n in range(52)], "unetr")
    assert [len(jobs.list_jobs(sessions, *limit)) for limit in ((), (51,), (100,))] == [50, 51, 52]


def run(sessions, new, study: str, seconds: float, adopted: bool = False, **request: object) -> None:
    """A job that is done after so many seconds."""
    of_study = replace(new, seg=seg_object(f"1.2.{study}"), idempotency_key=study)
    result = recording.record(sessions, of_study) if adopted else None
    job = jobs.submit(sessions, study, **{"model_id": "unetr"} | request)
    jobs.claim(sessions, job.id, "a", LEASE_S, 3)
    if result is None:
        result = recording.record(sessions, of_study, job.id, "a")
    jobs.finish(sessions, job.id, "a", result)
    with sessions.begin() as session:
        row = session.get_one(Job, job.id)
        row.finished_at = row.started_at + timedelta(seconds=seconds)


def test_without_history_there_is_no_estimate(sessions, job_id):
    assert estimates.estimate_s(sessions, jobs.get(sessions, job_id)) is None


def test_the_estimate_is_the_median_of_the_model_s_jobs_less_the_time_elapsed(sessions, new, job_id):
    for study, seconds in (("1", 10.0), ("2", 20.0), ("3", 90.0)):
        run(sessions, new, study, seconds)
    run(sessions, new, "4", 1.0, model_id="other")
    run(sessions, new, "5", 0.1, adopted=True)
    assert estimates.estimate_s(sessions, jobs.get(sessions, job_id)) == pytest.approx(20.0)
    job = jobs.claim(sessions, job_id, "a", LEASE_S, 3)
    job.started_at -= timedelta(seconds=12)
    assert estimates.estimate_s(sessions, job) == pytest.approx(8.0, abs=0.5)
    job.started_at -= timedelta(seconds=60)
    assert estimates.estimate_s(sessions, job) == 0.0
    assert estimates.estimate_s(sessions, jobs.mark_cancelled(sessions, job_id, "a")) is None


def test_a_job_that_names_its_inputs_counts_and_is_estimated_like_one_that_does_not(sessions, new):
    named = SegmentTask(inputs={"T1": "1.2.7", "FLAIR": "1.2.8"})
    run(sessions, new, "1", 10.0)
    run(sessions, new, "2", 30.0, task=named)
    for task in (SEGMENT, named):
        job = jobs.submit(sessions, "3", "unetr", task=task)
        assert estimates.estimate_s(sessions, job) == pytest.approx(20.0)
    correction = CorrectTask(segmentation_id="x", delete=(1,))
    assert estimates.estimate_s(sessions, jobs.submit(sessions, "4", "unetr", task=correction)) is None


def test_the_database_itself_refuses_a_second_active_job_of_one_request(sessions, job_id):
    job = jobs.get(sessions, job_id)
    copy = {column.key: getattr(job, column.key) for column in Job.__table__.columns} | {"id": "another"}
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.add(Job(**copy))
    with sessions.begin() as session:
        session.add(Job(**copy | {"state": "done"}))
