"""Every way a job can end, with the real database, folder archive and SEG, and a threshold for a model."""

import logging
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from sqlalchemy import func, select, update

import lease
import worker
from bench.models import tiny_model
from bench.parts import PostgreSQL, wait_until
from bench.rows import threshold
from context import ModelServices
from db import jobs, outbox, queue
from db.tables import AuditEvent, Base, Batch, Job, LesionRow, Measurement, Outbox, Segmentation, Worker
from errors import ArchiveRefused, ArchiveTimeout, ArchiveUnreachable, StoreFailed
from orthanc.folder import FolderArchive
from schemas.tasks import CorrectTask
from settings import Settings
from tests.clock import later
from tests.documents import document_of, documents_of_study
from tests.site import Killed, Site
from unetr.served import default_model
from unetr.synthesis.phantom import SeriesOptions, to_instances
from worker import Runner, check_presence, repeat, run_housekeeping

DEADLINE_S = 600.0  # far longer than any test waits: a slow machine does not reach it
LESION_ML = 10 * 10 * 5 * 8 / 1000.0  # voxels of 2 x 2 x 2 mm


IDENTIFYING = "Doe^Jane 19601231"


def head_with_lesions(count):
    """24 slices of 64 x 64, 2 mm; ``count`` boxes of 5 x 10 x 10 voxels brighter than 500."""
    rng = np.random.default_rng(0)
    image = rng.integers(80, 120, (24, 64, 64)).astype(np.uint16)
    for number in range(count):
        image[6 + 8 * number : 11 + 8 * number, 20:30, 15:25] = 900
    affine = np.array([[0, 0, 2.0, -64], [0, 2.0, 0, -64], [2.0, 0, 0, -24], [0, 0, 0, 1]])
    return hd.Volume(image, affine, coordinate_system="PATIENT")


class WorkerSite(Site):
    """A site with one study in its archive, and workers for it."""

    def __init__(self, folder, lesions=2, **settings):
        super().__init__(folder, lease_s=1.5, max_attempts=3, **settings)
        instances = to_instances(head_with_lesions(lesions), SeriesOptions())
        self.study_uid = str(instances[0].StudyInstanceUID)
        self.archive.store(instances)
        self.spec = default_model(self.settings.models_dir, None)

    def worker(self, predictor=threshold, archive=None):
        def opener(settings, model_id):
            assert model_id in {None, self.spec.id}
            return ModelServices(archive or self.archive, runner.sessions, settings, predictor, self.spec)

        runner = Runner(self.settings, opener)
        return runner

    def submit(self, **options):
        return super().submit(self.study_uid, **options)

    def rows(self, table):
        with self.sessions() as session:
            return session.scalar(select(func.count()).select_from(table))

    def stored_segs(self):
        headers = [header for headers in self.archive.series_headers(self.study_uid) for header in headers]
        return [h for h in headers if h.Modality == "SEG"]

    def let_leases_run_out(self):
        """As if the lease's time had passed; returns the jobs that are queued again."""
        with later(self.sessions, 2 * self.settings.lease_s):
            return queue.requeue_expired(self.sessions, self.settings.max_attempts)


@pytest.fixture
def site(tmp_path):
    return WorkerSite(tmp_path)


def test_a_job_ends_with_rows_and_a_seg_in_the_archive(site):
    job_id = site.submit()
    site.runner.run(job_id)
    job = site.job(job_id)
    assert (job.state, job.progress, job.attempts, job.error_code) == ("done", 1.0, 1, None)
    document = document_of(site.sessions, job.segmentation_id)
    assert [lesion["volume_ml"] for lesion in document["lesions"]] == pytest.approx([LESION_ML] * 2)
    assert document["segmentation"]["stored"] is True
    assert [seg.SOPInstanceUID for seg in site.stored_segs()] == [
        document["segmentation"]["sop_instance_uid"]
    ]
    assert site.rows(Outbox) == 0


def test_a_message_delivered_twice_makes_one_seg_and_one_set_of_rows(site):
    job_id = site.submit()
    site.runner.run(job_id)
    site.worker().run(job_id)
    assert (site.rows(Segmentation), site.rows(LesionRow), site.rows(Measurement)) == (1, 2, 2)
    assert len(site.stored_segs()) == 1
    assert site.job(job_id).attempts == 1


def test_two_workers_that_get_the_same_message_at_once_make_one_result(site):
    job_id = site.submit()
    threads = [threading.Thread(target=site.worker().run, args=(job_id,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.job(job_id).state == "done"
    assert (site.rows(Segmentation), len(site.stored_segs())) == (1, 1)


def test_an_equal_request_adopts_the_result_and_force_makes_another(site):
    first, second = site.submit(), None
    site.runner.run(first)
    second = site.submit()
    site.runner.run(second)
    assert site.job(second).segmentation_id == site.job(first).segmentation_id
    assert site.rows(Segmentation) == 1
    third = site.submit(force=True)
    site.runner.run(third)
    assert site.job(third).segmentation_id != site.job(first).segmentation_id
    assert (site.rows(Segmentation), len(site.stored_segs())) == (2, 2)


def test_no_lesion_is_a_result_without_a_seg(tmp_path):
    site = WorkerSite(tmp_path, lesions=0)
    job_id = site.submit()
    site.runner.run(job_id)
    job = site.job(job_id)
    assert job.state == "done"
    document = document_of(site.sessions, job.segmentation_id)
    assert document["lesions"] == []
    assert document["segmentation"]["sop_instance_uid"] is None
    assert site.stored_segs() == []


def test_an_unknown_study_fails_with_the_code_and_the_sentence(site):
    job_id = jobs.submit(site.sessions, "1.2.3.4", site.spec.id).id
    site.runner.run(job_id)
    job = site.job(job_id)
    assert (job.state, job.error_code) == ("failed", "study_not_found")
    assert "1.2.3.4" in job.error_message
    assert site.rows(Segmentation) == 0


def test_progress_is_of_the_whole_job_and_never_goes_back(site):
    steps = []

    def watching(volume, on_progress):
        for fraction in (0.0, 0.4, 0.8):
            time.sleep(0.6)
            on_progress(fraction)
            steps.append((site.job(job_id).stage, site.job(job_id).progress))
        return threshold(volume, lambda fraction: None)

    job_id = site.submit()
    site.worker(watching).run(job_id)
    assert {stage for stage, _ in steps} == {"predict"}
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) == 3
    assert all(0.0 < fraction < 1.0 for fraction in fractions)


def test_a_running_job_that_is_cancelled_leaves_nothing(site):
    def cancelled_meanwhile(volume, on_progress):
        jobs.cancel(site.sessions, job_id)
        for _ in range(100):
            time.sleep(0.1)
            on_progress(0.1)
        raise AssertionError("nobody saw the wish to cancel")

    job_id = site.submit()
    site.worker(cancelled_meanwhile).run(job_id)
    assert site.job(job_id).state == "cancelled"
    assert site.rows(Segmentation) == 0
    assert site.stored_segs() == []


def test_a_job_that_is_cancelled_just_before_it_adopts_an_equal_result_is_cancelled(site):
    site.runner.run(site.submit())

    class Meanwhile(FolderArchive):
        def retrieve_series(self, study_uid, series_uid):
            jobs.cancel(site.sessions, job_id)
            return super().retrieve_series(study_uid, series_uid)

    job_id = site.submit()
    site.worker(archive=Meanwhile(site.settings.data_dir / "archive")).run(job_id)
    assert (site.job(job_id).state, site.job(job_id).segmentation_id) == ("cancelled", None)


def test_a_fault_nobody_foresaw_ends_the_job_without_quoting_patient_data(site, caplog):
    def faulty(volume, on_progress):
        raise ValueError(f"cannot read {IDENTIFYING}")

    job_id = site.submit()
    runner = site.worker(faulty)
    runner.run(job_id)
    job = site.job(job_id)
    assert (job.state, job.error_code) == ("failed", "internal_error")
    for text in (job.error_message, caplog.text):
        assert "Doe" not in text
        assert "ValueError" in text
    assert "in faulty" in caplog.text


def test_a_patient_is_named_in_no_job_and_no_audit_event(site):
    site.runner.run(site.submit(requested_by="dr"))
    recorded = site.job(site.submit()).study_instance_uid
    result = documents_of_study(site.sessions, recorded)[0]["id"]
    task = CorrectTask(segmentation_id=result, rename={1: "pons"}, delete=[])
    site.runner.run(site.submit(task=task))
    site.runner.run(jobs.submit(site.sessions, "1.2.3.4", site.spec.id).id)
    header = site.archive.search_studies()[0]
    with site.sessions() as session:
        kept = [
            str(dict(row._mapping))
            for table in (Job, Batch, Worker, AuditEvent)
            for row in session.execute(select(table.__table__))
        ]
    assert len(kept) >= 6
    for secret in (header.PatientID, header.PatientName.family_name, header.PatientBirthDate):
        assert secret
        assert secret not in "".join(kept)


def store_nothing(archive, instances):
    """As an archive that serves, and is away for storing."""
    raise ArchiveUnreachable("The archive does not answer.")


def store_no_reports(archive, instances, store=FolderArchive.store):
    """As an archive that takes images and segmentations, and no report."""
    if any(instance.Modality == "SR" for instance in instances):
        raise StoreFailed("The archive answered HTTP 200 and did not store the report.")
    store(archive, instances)


def test_an_archive_that_takes_no_reports_holds_up_no_result(site, monkeypatch):
    monkeypatch.setattr(FolderArchive, "store", store_no_reports)
    job_id = site.submit()
    for _ in range(site.settings.max_attempts):
        site.runner.run(job_id)
        recorded = site.job(job_id).segmentation_id
        # The SEG is there from the first attempt on.
        assert document_of(site.sessions, recorded)["segmentation"]["stored"] is True
        make_due(site, job_id)
    assert site.job(job_id).state == "done"
    assert document_of(site.sessions, recorded)["companions"] == []
    assert (len(site.stored_segs()), site.rows(Outbox)) == (1, 0)


def test_an_archive_away_at_storing_postpones_the_job_until_it_is_back(site, monkeypatch):
    job_id = site.submit()
    monkeypatch.setattr(FolderArchive, "store", store_nothing)
    site.runner.run(job_id)
    job = site.job(job_id)
    assert (job.state, job.stage, job.attempts) == ("queued", "store", 0)
    assert (job.not_before - datetime.now(UTC)).total_seconds() == pytest.approx(5.0, abs=1.0)
    assert document_of(site.sessions, job.segmentation_id)["segmentation"]["stored"] is False
    make_due(site, job_id)
    site.runner.run(job_id)
    job = site.job(job_id)
    assert (job.not_before - datetime.now(UTC)).total_seconds() == pytest.approx(10.0, abs=1.0)
    monkeypatch.undo()
    make_due(site, job_id)
    site.runner.run(job_id)
    job = site.job(job_id)
    assert job.state == "done"
    assert document_of(site.sessions, job.segmentation_id)["segmentation"]["stored"] is True
    assert (site.rows(Segmentation), len(site.stored_segs())) == (1, 1)


def test_a_result_that_waits_for_the_archive_is_stored_though_its_model_is_not_served_any_more(
    site, monkeypatch
):
    job_id = site.submit()
    with monkeypatch.context() as away:
        away.setattr(FolderArchive, "store", store_nothing)
        site.runner.run(job_id)
    assert (site.job(job_id).stage, site.rows(Outbox)) == ("store", 2)
    other_models = site.settings.model_copy(
        update={"models_dir": tiny_model(site.settings.data_dir / "models", "another", 0.0)}
    )
    make_due(site, job_id)
    Runner(other_models).run(job_id)
    job = site.job(job_id)
    assert (job.state, job.error_code) == ("done", None)
    assert document_of(site.sessions, job.segmentation_id)["segmentation"]["stored"] is True
    assert (site.rows(Outbox), len(site.stored_segs())) == (0, 1)


def make_due(site, job_id):
    with site.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(not_before=None))


@pytest.mark.parametrize("place", ["predict", "store"])
def test_a_worker_killed_in_mid_job_ends_in_one_result(site, place):
    def die(*_):
        raise Killed

    class Deadly(FolderArchive):
        store = die

    dying = {
        "predict": lambda: site.worker(predictor=die),
        "store": lambda: site.worker(archive=Deadly(site.settings.data_dir / "archive")),
    }
    job_id = site.submit()
    with pytest.raises(Killed):
        dying[place]().run(job_id)
    assert site.job(job_id).state == "running"
    assert site.let_leases_run_out() == [job_id]
    site.worker().run(job_id)
    job = site.job(job_id)
    assert (job.state, job.attempts) == ("done", 2)
    assert (site.rows(Segmentation), site.rows(LesionRow), len(site.stored_segs())) == (1, 2, 1)


def test_a_database_that_stops_in_mid_job_costs_an_attempt_and_no_result(tmp_path):
    database = PostgreSQL()
    try:
        database.start()
        site = WorkerSite(tmp_path, database_url=database.create("metscope"))

        def stop_the_database(volume, on_progress):
            database.stop()
            return threshold(volume, on_progress)

        job_id = site.submit()
        first = site.worker(predictor=stop_the_database)
        first.run(job_id)
        database.start()
        assert site.job(job_id).state == "running"
        assert site.let_leases_run_out() == [job_id]
        site.runner.run(job_id)
        job = site.job(job_id)
        assert (job.state, job.attempts, job.error_code) == ("done", 2, None)
        assert (site.rows(Segmentation), site.rows(LesionRow), len(site.stored_segs())) == (1, 2, 1)
        for sessions in (site.sessions, first.sessions):
            sessions.kw["bind"].dispose()
    finally:
        database.remove()


def test_a_recorded_result_goes_straight_to_storing(site):
    class Deadly(FolderArchive):
        def store(self, instances):
            raise Killed

    def never(volume, on_progress):
        raise AssertionError("the result was recorded already")

    job_id = site.submit()
    with pytest.raises(Killed):
        site.worker(archive=Deadly(site.settings.data_dir / "archive")).run(job_id)
    site.let_leases_run_out()
    site.worker(predictor=never).run(job_id)
    assert site.job(job_id).state == "done"


def test_the_lease_is_kept_while_a_job_takes_longer_than_it(site):
    def slow(volume, on_progress):
        time.sleep(2 * site.settings.lease_s)
        assert site.worker().run(job_id) is None
        return threshold(volume, on_progress)

    job_id = site.submit()
    site.worker(slow).run(job_id)
    assert (site.job(job_id).state, site.job(job_id).attempts) == ("done", 1)


def test_a_worker_that_lost_its_lease_writes_nothing_more(site):
    def overtaken(volume, on_progress):
        assert site.let_leases_run_out() == [job_id]
        jobs.claim(site.sessions, job_id, "another worker", 60.0, 3)
        for _ in range(100):
            time.sleep(0.1)
            on_progress(0.5)
        raise AssertionError("nobody saw that the lease was lost")

    job_id = site.submit()
    site.worker(overtaken).run(job_id)
    job = site.job(job_id)
    assert (job.state, job.lease_owner) == ("running", "another worker")
    assert site.rows(Segmentation) == 0


def test_a_worker_that_is_stopped_hands_its_job_back(site):
    def stopped_meanwhile(volume, on_progress):
        runner.stopping.set()
        on_progress(0.5)
        raise AssertionError("nobody saw that the worker is to stop")

    runner = site.worker(stopped_meanwhile)
    job_id = site.submit()
    runner.run(job_id)
    assert (site.job(job_id).state, site.job(job_id).attempts) == ("queued", 0)
    make_due(site, job_id)
    site.runner.run(job_id)
    assert site.job(job_id).state == "done"


def test_a_message_about_an_unknown_job_does_no_harm(site):
    site.runner.run("no-such-job")
    assert site.rows(Job) == 0


def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_not_the_worker(tmp_path):
    site = WorkerSite(tmp_path)
    (tmp_path / "no-models").mkdir()
    broken = Settings(_env_file=None, data_dir=tmp_path, models_dir=tmp_path / "no-models")
    runner = Runner(broken)
    runner.preload()
    assert runner.loaded_models == ()
    job_id = site.submit()
    runner.run(job_id)
    assert (site.job(job_id).state, site.job(job_id).error_code) == ("failed", "model_not_found")


def test_the_housekeeping_outlives_a_database_that_is_away(tmp_path, caplog):
    database = PostgreSQL()
    try:
        database.start()
        settings = Settings(
            _env_file=None, data_dir=tmp_path, lease_s=1.2, database_url=database.create("metscope")
        )
        runner = Runner(settings)
        job_id = jobs.submit(runner.sessions, "1.2.3", "no-model").id
        jobs.claim(runner.sessions, job_id, "vanished", 0.1, 3)
        database.stop()
        with caplog.at_level(logging.INFO, "metscope.worker"), repeating(runner, run_housekeeping):
            wait_until(lambda: "OperationalError" in caplog.text, "the complaint")
            database.start()
            wait_until(lambda: f"job {job_id}: its worker died" in caplog.text, "the job queued again")
        with runner.sessions() as session:
            assert [worker.id for worker in session.scalars(select(Worker))] == [runner.id]
        runner.sessions.kw["bind"].dispose()
    finally:
        database.remove()


@contextmanager
def repeating(runner, step):
    """The step in a thread of a worker's, until the block ends."""
    thread = threading.Thread(target=repeat, args=(lambda: step(runner), 0.2, runner.stopping))
    thread.start()
    try:
        yield
    finally:
        runner.stopping.set()
        thread.join()


def test_the_housekeeping_outlives_a_fault_that_nobody_foresaw(site, caplog):
    tables = [Worker.__table__]
    engine = site.sessions.kw["bind"]
    Base.metadata.drop_all(engine, tables)
    with repeating(site.runner, run_housekeeping):
        wait_until(lambda: "Error" in caplog.text, "the complaint")
        Base.metadata.create_all(engine, tables)
        wait_until(lambda: site.rows(Worker) == 1, "the worker that is seen")


def test_a_free_worker_runs_what_waits_without_any_message(site):
    vanished, lost = site.submit(), site.submit(force=True)
    jobs.claim(site.sessions, vanished, "vanished", 0.0, 3)
    with later(site.sessions, site.settings.lease_s):
        site.runner.run_waiting()
    assert [(site.job(job_id).state, site.job(job_id).attempts) for job_id in (vanished, lost)] == [
        ("done", 2), ("done", 1)
    ]  # fmt: skip


def test_a_worker_that_has_a_job_takes_no_second_one(site):
    def one_more(volume, on_progress):
        with later(site.sessions, site.settings.lease_s / 2):
            site.runner.run_waiting()
        assert site.job(second).state == "queued"
        return threshold(volume, on_progress)

    first, second = site.submit(), site.submit(force=True)
    site.runner = site.worker(one_more)
    site.runner.run(first)
    assert (site.job(first).state, site.job(second).state) == ("done", "queued")


@pytest.fixture
def let_the_deadline_pass(monkeypatch):
    """What moves the worker's clock past its job's deadline, in the stage that calls it."""
    clock = time.monotonic
    return lambda: monkeypatch.setattr(lease.time, "monotonic", lambda: clock() + DEADLINE_S)


def test_a_job_that_takes_too_long_fails_and_leaves_nothing(tmp_path, let_the_deadline_pass):
    site = WorkerSite(tmp_path, job_deadline_s=DEADLINE_S)

    def slow(volume, on_progress):
        let_the_deadline_pass()
        for _ in range(100):
            time.sleep(0.1)
            on_progress(0.5)
        raise AssertionError("nobody looked at the clock")

    job_id = site.submit()
    site.worker(slow).run(job_id)
    job = site.job(job_id)
    assert (job.state, job.error_code) == ("failed", "deadline_exceeded")
    assert "stage 'predict'" in job.error_message
    assert (site.rows(Segmentation), site.stored_segs()) == (0, [])


HANGING = """
import sys, threading, time
import lease, worker
from orthanc.archive import open_archive
from context import ModelServices
from settings import Settings
from unetr.served import default_model

def hang(volume, on_progress):
    clock = time.monotonic
    time.monotonic = lambda: clock() + runner.settings.job_deadline_s
    threading.Event().wait()

def opener(settings, model_id):
    spec = default_model(settings.models_dir, None)
    return ModelServices(open_archive(settings), runner.sessions, settings, hang, spec)

lease.STOP_LIMIT_S = 0.5
runner = worker.Runner(Settings.model_validate_json(sys.argv[1]), opener)
runner.run(sys.argv[2])
"""


def test_a_worker_that_hangs_in_foreign_code_ends_itself(tmp_path):
    site = WorkerSite(tmp_path, job_deadline_s=DEADLINE_S)
    job_id = site.submit()
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, site.settings.model_dump_json(), job_id],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "does not respond" in ended.stderr
    assert (site.job(job_id).state, site.job(job_id).error_code) == ("failed", "deadline_exceeded")


def test_a_result_that_waits_for_the_archive_is_not_ended_by_the_deadline(tmp_path, let_the_deadline_pass):
    site = WorkerSite(tmp_path, job_deadline_s=DEADLINE_S)

    class Slow(FolderArchive):
        def store(self, instances):
            let_the_deadline_pass()
            time.sleep(site.settings.lease_s)
            super().store(instances)

    job_id = site.submit()
    site.worker(archive=Slow(tmp_path / "archive")).run(job_id)
    assert (site.job(job_id).state, len(site.stored_segs())) == ("done", 1)


def test_a_seg_that_was_deleted_in_the_archive_is_noticed_and_made_again(site):
    first = site.submit()
    site.runner.run(first)
    seg = site.stored_segs()[0]
    site.archive.delete_instance(site.study_uid, seg.SOPInstanceUID)
    check_presence(site.sessions, site.archive, datetime.now(UTC))
    document = document_of(site.sessions, site.job(first).segmentation_id)
    assert document["segmentation"]["stored"] is False
    assert document["segmentation"]["missing_since"] is not None
    second = site.submit()
    site.runner.run(second)
    assert site.job(second).segmentation_id != site.job(first).segmentation_id
    assert len(site.stored_segs()) == 1


def test_an_equal_request_does_not_adopt_a_result_whose_seg_was_just_deleted_in_the_archive(site):
    first = site.submit()
    site.runner.run(first)
    site.archive.delete_instance(site.study_uid, site.stored_segs()[0].SOPInstanceUID)
    second = site.submit()
    site.runner.run(second)
    assert site.job(second).segmentation_id != site.job(first).segmentation_id
    assert len(site.stored_segs()) == 1


def test_an_archive_that_is_away_for_a_moment_at_fetching_costs_an_attempt_and_no_job(site):
    class AwayTwice(FolderArchive):
        away = 2

        def series_headers(self, study_uid, series_uids=()):
            if self.away:
                self.away -= 1
                raise ArchiveUnreachable("The archive does not answer.")
            return super().series_headers(study_uid, series_uids)

    runner = site.worker(archive=AwayTwice(site.settings.data_dir / "archive"))
    job_id = site.submit()
    for attempts, delay_s in ((1, 5.0), (2, 10.0)):
        runner.run(job_id)
        job = site.job(job_id)
        assert (job.state, job.stage, job.attempts) == ("queued", "fetch", attempts)
        assert (job.not_before - datetime.now(UTC)).total_seconds() == pytest.approx(delay_s, abs=1.0)
        make_due(site, job_id)
    runner.run(job_id)
    assert (site.job(job_id).state, site.job(job_id).attempts) == ("done", 3)


def test_a_seg_that_the_archive_cannot_answer_about_does_not_hold_up_the_others(site):
    ids = [site.submit(force=True) for _ in range(2)]
    for job_id in ids:
        site.runner.run(job_id)
    first, second = (site.job(job_id).segmentation_id for job_id in ids)
    documents = [document_of(site.sessions, id_) for id_ in (first, second)]
    broken, deleted = (document["segmentation"]["sop_instance_uid"] for document in documents)

    class Broken(FolderArchive):
        def has_instance(self, study_uid, sop_uid):
            if sop_uid == broken:
                raise ArchiveRefused("500")
            return super().has_instance(study_uid, sop_uid)

    site.archive.delete_instance(site.study_uid, deleted)
    check_presence(site.sessions, Broken(site.settings.data_dir / "archive"), datetime.now(UTC))
    stored = [document_of(site.sessions, id_)["segmentation"]["stored"] for id_ in (first, second)]
    assert stored == [True, False]


@pytest.mark.parametrize(("error", "silent"), [(ArchiveRefused, 3), (ArchiveTimeout, 1)])
def test_segs_that_the_archive_never_answers_about_keep_no_lost_one_from_being_noticed(
    site, monkeypatch, error, silent
):
    """As many refused ones as are asked for at once, or the oldest one, which takes too long."""
    monkeypatch.setattr(worker, "PRESENCE_CHECKS", 3)
    ids = [site.submit(force=True) for _ in range(5)]
    for job_id in ids:
        site.runner.run(job_id)
    documents = [document_of(site.sessions, site.job(job_id).segmentation_id) for job_id in ids]
    uids = [document["segmentation"]["sop_instance_uid"] for document in documents]

    class Silent(FolderArchive):
        def has_instance(self, study_uid, sop_uid):
            if sop_uid in uids[:silent]:
                raise error("No answer about this one.")
            return super().has_instance(study_uid, sop_uid)

    site.archive.delete_instance(site.study_uid, uids[4])
    since = datetime.now(UTC)
    for _ in range(3):
        with suppress(ArchiveTimeout):
            check_presence(site.sessions, Silent(site.settings.data_dir / "archive"), since)
    stored = [document_of(site.sessions, document["id"])["segmentation"]["stored"] for document in documents]
    assert stored == [True, True, True, True, False]


def test_an_archive_that_answers_404_to_everything_has_lost_nothing(site):
    """As a proxy does whose archive is away."""

    class Away(FolderArchive):
        def has_instance(self, study_uid, sop_uid):
            return False

        def check(self):
            raise ArchiveUnreachable("404")

    job_id = site.submit()
    site.runner.run(job_id)
    with pytest.raises(ArchiveUnreachable):
        check_presence(site.sessions, Away(site.settings.data_dir / "archive"), datetime.now(UTC))
    document = document_of(site.sessions, site.job(job_id).segmentation_id)
    assert document["segmentation"]["stored"] is True


def test_a_seg_that_comes_back_to_the_archive_is_missed_no_more(site):
    job_id = site.submit()
    site.runner.run(job_id)
    segmentation_id = site.job(job_id).segmentation_id
    outbox.note_presence(site.sessions, segmentation_id, present=False)
    check_presence(site.sessions, site.archive, datetime.now(UTC))
    document = document_of(site.sessions, segmentation_id)
    assert document["segmentation"] | {"stored": True, "missing_since": None} == document["segmentation"]
