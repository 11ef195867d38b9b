"""The lease on a running job, which a thread renews, and the progress that the job reports."""

import logging
import os
import threading
import time
from contextvars import copy_context
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session, sessionmaker

from context import LeaseKey
from db import jobs
from errors import JobCancelled, JobInterrupted, LeaseLost
from settings import Settings

STAGES = {  # the start of each stage and its share of the whole job
    "fetch": (0.0, 0.1),
    "read": (0.1, 0.05),
    "predict": (0.15, 0.7),
    "measure": (0.85, 0.05),
    "encode": (0.9, 0.05),
    "store": (0.95, 0.05),
}
PROGRESS_PERIOD_S = 0.5
BEATS_PER_LEASE = 4
# A job that does not stop within this time is ended with its process.
STOP_LIMIT_S = 15.0

logger = logging.getLogger("metscope.worker")


class Lease:
    """The lease on a claimed job: a thread renews it while the ``with`` block runs."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        job_id: str,
        owner: str,
        settings: Settings,
        stopping: threading.Event,
    ) -> None:
        self.key = LeaseKey(job_id, owner)
        self._sessions = sessions
        self._settings = settings
        self._stopping = stopping
        self._cancelled = threading.Event()
        self._lost = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._renew,), name=f"lease-{job_id}", daemon=True
        )
        self._stage: str | None = None
        self._written_at = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def report(self, stage: str, fraction: float) -> None:
        """Record the progress of the stage, 0..1, at most every half second.

        Raises: JobCancelled if a user has cancelled the job, JobInterrupted if the worker is to stop,
        LeaseLost if another worker may have the job.
        """
        job_id, owner = self.key.job_id, self.key.owner
        if self._stopping.is_set():
            raise JobInterrupted(f"The worker of job {job_id} is being stopped.")
        if self._lost.is_set():
            raise LeaseLost(f"The lease of job {job_id} ran out.")
        now = time.monotonic()
        if self._cancelled.is_set() or (
            (stage != self._stage or now - self._written_at >= PROGRESS_PERIOD_S)
            and self._write(job_id, owner, stage, fraction)
        ):
            raise JobCancelled(f"Job {job_id} was cancelled in stage {stage}.")

    def _write(self, job_id: str, owner: str, stage: str, fraction: float) -> bool:
        self._stage, self._written_at = stage, time.monotonic()
        begin, share = STAGES[stage]
        return jobs.progress(self._sessions, job_id, owner, stage, begin + share * fraction)

    def _renew(self) -> None:
        job_id, owner = self.key.job_id, self.key.owner
        lease_s, deadline_s = self._settings.lease_s, self._settings.job_deadline_s
        while not self._over.wait(lease_s / BEATS_PER_LEASE):
            running_s = time.monotonic() - self._started
            try:
                if jobs.heartbeat(self._sessions, job_id, owner, lease_s, deadline_s, running_s):
                    self._cancelled.set()
            except LeaseLost:
                self._lost.set()
                self._end_if_stuck()
                return
            except Exception as error:  # noqa: BLE001 - the next beat may succeed
                logger.warning("job %s: heartbeat failed: %s", job_id, type(error).__name__)

    def _end_if_stuck(self) -> None:
        # Another worker may have the job by now. A thread that hangs in foreign code cannot be stopped, so
        # this process ends and its supervisor restarts it.
        if not self._over.wait(max(STOP_LIMIT_S, self._settings.lease_s)):
            logger.critical("job %s: its worker does not respond and is terminated", self.key.job_id)
            os._exit(1)
