"""Health checks of the parts that a job needs; no request waits for a part that hangs.

Each part is checked in a thread of its own. Requests that arrive meanwhile share that check and wait for it
PATIENCE_S at most: a part that has not answered by then is reported as failing until it answers.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from celery import Celery
from sqlalchemy import false, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

import broker
from db import workers
from db.database import writing
from db.tables import Worker
from errors import MetScopeError
from orthanc.archive import open_archive
from settings import Settings
from unetr.served import default_model, invalid_specs

PATIENCE_S = 2.0
PROBE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Report:
    """The state of the parts. problems: by part, None if it works. notes: by part. workers: the live ones."""

    problems: dict[str, str | None]
    notes: dict[str, str]
    workers: list[Worker]

    def reason(self, part: str) -> str | None:
        """Return the trouble and the note of the part; None if it has neither."""
        return " ".join(filter(None, (self.problems[part], self.notes.get(part)))) or None

    @property
    def loaded_models(self) -> list[str]:
        """Return the ids of the models that a worker has in memory."""
        return sorted({model for worker in self.workers for model in worker.loaded_models})


class Health:
    """The checks of one process, shared by all of its requests."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], celery: Celery) -> None:
        self._settings = settings
        self._sessions = sessions
        self._celery = celery
        self._living: list[Worker] = []
        self._skipped = ""
        self._checks: dict[str, Callable[[], str | None]] = {
            "database": self._database,
            "archive": self._archive,
            "broker": lambda: broker.health_problem(self._celery),
            "data": self._data_folder,
            "models": self._models,
        }
        self._executor = ThreadPoolExecutor(len(self._checks), "health")
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[Future[str | None], float]] = {}

    def report(self) -> Report:
        """Return what is known within PATIENCE_S of the start of each check."""
        with self._lock:
            for name, check in self._checks.items():
                if name not in self._runs or self._runs[name][0].done():
                    self._runs[name] = (self._executor.submit(check), time.monotonic())
            runs = dict(self._runs)
        problems = {name: _outcome(run, since) for name, (run, since) in runs.items()}
        living = [] if problems["database"] else self._living
        problems["worker"] = self._worker(living, database_answers=problems["database"] is None)
        notes = {"models": f"Skipped: {self._skipped}"} if self._skipped else {}
        return Report(problems, notes, living)

    def _database(self) -> str | None:
        try:
            with writing(self._sessions) as session:
                self._living = workers.living(session, self._settings.lease_s)
                # Changes no row, but fails if the database is read-only.
                session.execute(update(Worker).where(false()).values(seen_at=Worker.seen_at))
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            return f"The database does not answer or is not writable ({type(cause).__name__})."
        return None

    def _archive(self) -> str | None:
        try:
            open_archive(self._settings).check()
        except MetScopeError as error:
            return error.message
        return None

    def _data_folder(self) -> str | None:
        try:
            with tempfile.TemporaryFile(dir=self._settings.data_dir, buffering=0) as file:
                file.write(bytes(PROBE_BYTES))
                os.fsync(file.fileno())
        except OSError as error:
            return f"DATA_DIR cannot be written: {error.strerror}."
        return None

    def _models(self) -> str | None:
        self._skipped = " ".join(error.message for error in invalid_specs(self._settings.models_dir))
        try:
            default_model(self._settings.models_dir, self._settings.model_path)
        except MetScopeError as error:
            return f"No model can be served: {error.message}"
        return None

    def _worker(self, living: list[Worker], *, database_answers: bool) -> str | None:
        if not database_answers:
            return "Unknown while the database does not answer."
        if not living:
            return f"No worker has been seen for {self._settings.lease_s:.0f} s."
        problems = [worker.model_problem for worker in living]
        if all(problems):
            return f"The default model cannot be loaded: {problems[0]}"
        return None


def _outcome(run: Future[str | None], since: float) -> str | None:
    wait([run], timeout=max(0.0, since + PATIENCE_S - time.monotonic()))
    if not run.done():
        return f"It has not answered for {time.monotonic() - since:.0f} s."
    error = run.exception()
    return f"It cannot be checked ({type(error).__name__})." if error else run.result()
