"""The worker: runs queued jobs one after the other; the only process that loads a model.

    python worker.py [--stop-at-eof]

A message names a job. The worker claims it by lease, renews the lease from a thread while it works, and
writes progress. If the worker is killed, its lease runs out and another worker takes the job, which starts
over, or is only stored if its result is already recorded. A free worker also looks for waiting jobs in the
database, so a broker that hangs delays jobs by seconds and loses none.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from celery import Celery, signals
from celery.platforms import EX_FAILURE, SecurityWarning
from sqlalchemy.orm import Session, sessionmaker

import broker
import logs
import tasks
from context import Connections, JobRun, LeaseKey, ModelServices, Stages, open_services
from db import jobs, outbox, queue, workers
from db.database import DATABASE_UNAVAILABLE, open_database
from db.tables import Job, JobState
from errors import (
    ArchiveError,
    ArchiveRefused,
    ArchiveTimeout,
    ArchiveUnreachable,
    IdentityConflict,
    JobCancelled,
    JobInterrupted,
    JobNotFound,
    LeaseLost,
    MetScopeError,
    SegmentationNotFound,
    SettingsError,
)
from lease import BEATS_PER_LEASE, STAGES, STOP_LIMIT_S, Lease
from orthanc.archive import Archive, open_archive
from segmentation import deliver, follow_patient
from settings import Settings, load
from tasks.drawings import discard_drawing
from unetr import checkpoint_cache
from unetr.served import find_spec

FIRST_ARCHIVE_DELAY_S = 5.0
MAX_ARCHIVE_DELAY_S = 600.0
PAUSE_AFTER_FAILURE_S = 1.0
NICENESS = 5
AUTOGROUP = Path("/proc/self/autogroup")
PRESENCE_PERIOD_S = 60.0
PRESENCE_CHECKS = 100

logger = logging.getLogger("metscope.worker")


class Runner:
    """The runner of jobs. It keeps each model that a job asked for loaded, once per process.

    opener: opens the services of a model id; None means the default model.
    """

    def __init__(
        self, settings: Settings, opener: Callable[[Settings, str | None], ModelServices] = open_services
    ) -> None:
        self.settings = settings
        self._opener = opener
        self.id = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"
        self.sessions = open_database(settings.sqlalchemy_url)
        self.stopping = threading.Event()
        self._services: dict[str, ModelServices] = {}
        # One job at a time, whether it comes from a message or was found in the database.
        self._working = threading.Lock()
        self.model_problem: str | None = None

    @property
    def loaded_models(self) -> tuple[str, ...]:
        return tuple(self._services)

    def preload(self) -> None:
        """Load the default model before a job asks. If that fails, only the jobs for this model fail."""
        try:
            services = self._opener(self.settings, None)
        except MetScopeError as error:
            logger.error("the default model cannot be loaded: %s: %s", error.code, error.message)
            self.model_problem = error.message
        else:
            self._keep(services)

    def _keep(self, services: ModelServices) -> None:
        self._services[services.spec.id] = services
        self.model_problem = None
        logger.info("model %s %s is loaded", services.spec.id, services.spec.version)

    def _services_of(self, model_id: str) -> ModelServices:
        """Return the model's services, opened again if its files have been replaced since.

        Raises: ModelError.
        """
        loaded = self._services.get(model_id)
        if loaded is None or loaded.spec != find_spec(self.settings, model_id):
            self._keep(self._opener(self.settings, model_id))
        return self._services[model_id]

    def run_waiting(self) -> None:
        """Run waiting jobs from the database while there are any and this worker is free."""
        patience_s = self.settings.lease_s / BEATS_PER_LEASE
        while not self._working.locked() and not self.stopping.is_set():
            job_id = queue.next_waiting(self.sessions, patience_s)
            if job_id is None:
                return
            logger.info("job %s: found in the database", job_id)
            self.run(job_id)

    def run(self, job_id: str) -> None:
        """Claim the job and run it to its end; return silently if it cannot be claimed."""
        with self._working:
            self._run(job_id)

    def _run(self, job_id: str) -> None:
        logs.job_id.set(job_id)
        owner = f"{self.id}:{uuid.uuid4()}"
        settings = self.settings
        try:
            job = jobs.claim(self.sessions, job_id, owner, settings.lease_s, settings.max_attempts)
            if job is None:
                self._discard_cancelled(job_id)
                return
            logger.info("job %s: attempt %d", job_id, job.attempts)
            with Lease(self.sessions, job_id, owner, settings, self.stopping) as lease:
                self._attempt(job, lease)
        except LeaseLost as error:
            logger.warning("job %s: given up: %s", job_id, error.message)
        except JobNotFound:
            logger.warning("job %s: named in a message, but not in the database", job_id)
        except DATABASE_UNAVAILABLE as error:
            # Not even a failure can be recorded now: the lease runs out, and the job starts over.
            logger.warning("job %s: the database does not answer: %s", job_id, type(error).__name__)
        except Exception as error:  # noqa: BLE001 - Celery would log the text, which may quote patient data
            logger.error("job %s: %s", job_id, logs.fault(error))

    def _attempt(self, job: Job, lease: Lease) -> None:
        owner = lease.key.owner
        try:
            self._perform(job, lease)
        except (LeaseLost, *DATABASE_UNAVAILABLE):
            raise
        except JobCancelled:
            jobs.mark_cancelled(self.sessions, job.id, owner)
            self._discard_cancelled(job.id)
            logger.info("job %s: cancelled", job.id)
        except JobInterrupted:
            jobs.postpone(self.sessions, job.id, owner, job.stage or "fetch", delay_s=0.0)
            logger.info("job %s: returned to the queue, because this worker is stopping", job.id)
        except (ArchiveUnreachable, ArchiveTimeout) as error:
            self._postpone_fetch(job, owner, error)
        except MetScopeError as error:
            jobs.fail(self.sessions, job.id, owner, error.code, error.message)
            logger.warning("job %s: failed: %s", job.id, error.code)
        except Exception as error:  # noqa: BLE001 - an unforeseen fault ends its job, not the worker
            # The exception's own text may quote the images' header, so only its type and place are logged.
            logger.error("job %s: %s", job.id, logs.fault(error))
            unforeseen = MetScopeError(f"An internal error occurred in MetScope ({type(error).__name__}).")
            jobs.fail(self.sessions, job.id, owner, unforeseen.code, unforeseen.message)

    def _discard_cancelled(self, job_id: str) -> None:
        """Delete the drawing of a cancelled job: the user who cancelled still has it on the screen."""
        job = jobs.get(self.sessions, job_id)
        if job.state == JobState.CANCELLED:
            connections = Connections(open_archive(self.settings), self.sessions, self.settings)
            discard_drawing(job, connections, after_success=False)

    def _postpone_fetch(self, job: Job, owner: str, error: ArchiveError) -> None:
        """Postpone a job while the archive is unavailable, e.g. restarting; fail it after max_attempts."""
        if job.attempts >= self.settings.max_attempts:
            jobs.fail(self.sessions, job.id, owner, error.code, error.message)
            logger.warning("job %s: failed: %s", job.id, error.code)
            return
        delay_s = FIRST_ARCHIVE_DELAY_S * 2.0 ** (job.attempts - 1)
        jobs.postpone(self.sessions, job.id, owner, "fetch", delay_s, counts=True)
        logger.warning("job %s: not fetched: %s; retry in %.0f s", job.id, error.code, delay_s)

    def _perform(self, job: Job, lease: Lease) -> None:
        started = time.monotonic()
        segmentation_id = job.segmentation_id
        # A recorded result only has to be stored, whether or not its model is still served.
        if segmentation_id is None and tasks.needs_model(job.task):
            connections: Connections = self._services_of(job.model_id)
        else:
            connections = Connections(open_archive(self.settings), self.sessions, self.settings)
        if segmentation_id is None:
            run = JobRun(job, connections, lease.key, Stages(lease.report))
            segmentation_id = tasks.perform(run)
        self._store(job, segmentation_id, connections, lease.key)
        logger.info("job %s: %.1f s", job.id, time.monotonic() - started)

    def _store(self, job: Job, segmentation_id: str, services: Connections, holder: LeaseKey) -> None:
        # It is too late to cancel: a result that is recorded in the database must reach the archive.
        jobs.progress(self.sessions, job.id, holder.owner, "store", STAGES["store"][0])
        try:
            self._deliver(segmentation_id, services, holder)
        except ArchiveError as error:
            attempts = outbox.store_failed(self.sessions, segmentation_id)
            delay_s = min(FIRST_ARCHIVE_DELAY_S * 2.0 ** (attempts - 1), MAX_ARCHIVE_DELAY_S)
            jobs.postpone(self.sessions, job.id, holder.owner, "store", delay_s)
            logger.warning("job %s: not stored: %s; retry in %.0f s", job.id, error.code, delay_s)
        else:
            discard_drawing(job, services, after_success=True)
            jobs.finish(self.sessions, job.id, holder.owner, segmentation_id)

    @staticmethod
    def _deliver(segmentation_id: str, services: Connections, holder: LeaseKey) -> None:
        try:
            deliver(segmentation_id, services)
        except IdentityConflict:
            # The PatientID may have been corrected in the archive while the objects waited.
            follow_patient(segmentation_id, services, holder)
            deliver(segmentation_id, services)


def repeat(step: Callable[[], None], period_s: float, stopping: threading.Event) -> None:
    """Run the step once per period until the worker stops, whatever goes wrong in it.

    It runs in a thread, not as a Celery periodic task: a thread runs while a job keeps the solo worker busy,
    and needs no second process that could be left behind.
    """
    while not stopping.is_set():
        try:
            step()
        except (ArchiveError, *DATABASE_UNAVAILABLE) as error:
            logger.warning("%s: %s", threading.current_thread().name, type(error).__name__)
        except Exception as error:  # noqa: BLE001 - nobody would notice a thread that ends silently
            logger.error("%s: %s", threading.current_thread().name, logs.fault(error))
        stopping.wait(period_s)


def run_housekeeping(runner: Runner) -> None:
    """Record that this worker is alive, and requeue the jobs whose worker is not."""
    workers.seen(runner.sessions, runner.id, runner.loaded_models, runner.model_problem)
    for job_id in queue.requeue_expired(runner.sessions, runner.settings.max_attempts):
        logger.info("job %s: its worker died; queued again", job_id)


def verify_stored_segs(runner: Runner) -> None:
    """Ask the archive, for each SEG once per ARCHIVE_CHECK_H, whether it still has it."""
    period = timedelta(hours=runner.settings.archive_check_h)
    check_presence(runner.sessions, open_archive(runner.settings), datetime.now(UTC) - period)


def check_presence(sessions: sessionmaker[Session], archive: Archive, since: datetime) -> None:
    """Ask the archive for some of the SEG objects that were not checked since then. Raises: ArchiveError.

    An object that the archive cannot answer about does not hold up the others; it is checked again with them.
    """
    for stored in outbox.not_checked_since(sessions, since, PRESENCE_CHECKS):
        present = None
        try:
            present = archive.has_instance(stored.study_instance_uid, stored.sop_instance_uid)
        except ArchiveRefused as error:
            logger.warning("segmentation %s: not checked: %s", stored.segmentation_id, error.code)
        except ArchiveTimeout:
            # The timeout may concern this object alone: the next round begins with the one after it.
            _note_presence(sessions, stored, None)
            raise
        if present is False:
            # A proxy in front of an archive that is down may answer 404 to every request.
            archive.check()
            logger.warning("segmentation %s: its SEG is missing from the archive", stored.segmentation_id)
        _note_presence(sessions, stored, present)


def _note_presence(sessions: sessionmaker[Session], stored: outbox.StoredSeg, present: bool | None) -> None:
    # The segmentation may have been deleted in the meantime.
    with suppress(SegmentationNotFound):
        outbox.note_presence(sessions, stored.segmentation_id, present)


def stop_at_eof() -> None:
    """Stop this process when the other end of its standard input is closed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_LIMIT_S)
    os._exit(1)


def serve(settings: Settings) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit status. A running job goes back to the queue."""
    app = broker.create(settings)
    runner = Runner(settings)

    @app.task(name=broker.SEGMENT)  # type: ignore[untyped-decorator]
    def segment(job_id: str) -> None:
        runner.run(job_id)

    def stop(**_: object) -> None:
        runner.stopping.set()

    def keep_logging(**_: object) -> None:
        """Keep our log handlers: Celery installs its own unless this signal has a receiver."""

    signals.setup_logging.connect(keep_logging)
    signals.worker_shutting_down.connect(stop)

    def every(period_s: float, name: str, step: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(
            target=repeat, args=(step, period_s, runner.stopping), name=name, daemon=True
        )
        thread.start()
        return thread

    beat_s = settings.lease_s / BEATS_PER_LEASE
    every(beat_s, "housekeeping", partial(run_housekeeping, runner))
    every(PRESENCE_PERIOD_S, "presence of stored segmentations", partial(verify_stored_segs, runner))
    runner.preload()
    waiting = every(beat_s, "waiting jobs", runner.run_waiting)
    status = take_messages(app, runner.stopping)
    # A job that was found in the database is handed back like any other.
    runner.stopping.set()
    waiting.join(STOP_LIMIT_S)
    with suppress(*DATABASE_UNAVAILABLE):
        workers.gone(runner.sessions, runner.id)
    return status


def take_messages(app: Celery, stopping: threading.Event) -> int:
    """Take messages until this process is to stop; return the exit status.

    Anything in the queue that is not a message ends Celery's worker; a new one then replaces it.
    """
    while True:
        # Without Celery's event loop, which may wait for ever after Redis has restarted.
        worker = app.Worker(
            pool="solo", use_eventloop=False, quiet=True,
            without_gossip=True, without_mingle=True, without_heartbeat=True,
        )  # fmt: skip
        worker.start()
        if worker.exitcode != EX_FAILURE or stopping.wait(PAUSE_AFTER_FAILURE_S):
            return worker.exitcode or 0


def _lower_priority() -> None:
    """Lower our priority: on a shared machine the API must stay responsive during inference."""
    os.nice(NICENESS)
    # Linux shares the CPU between sessions first, then between the processes of each.
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            AUTOGROUP.write_text(str(NICENESS))


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Runs MetScope's segmentation jobs.")
    parser.add_argument("--stop-at-eof", action="store_true", help="stop when standard input is closed")
    if parser.parse_args().stop_at_eof:
        threading.Thread(target=stop_at_eof, name="stop-at-eof", daemon=True).start()
    # Celery warns about running as root because of pickled messages; ours are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # The files hold patient data: only this user may read them.
    os.umask(0o077)
    _lower_priority()
    try:
        settings = load()
        logs.configure(settings.log_format)
        return serve(checkpoint_cache.with_served_model_or_log(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error.code}: {error.message}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
