"""The context of a request or job: archive, database, settings, a model; its stages with their times."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import highdicom as hd
from sqlalchemy.orm import Session, sessionmaker

from db.database import open_database
from db.tables import Job
from orthanc.archive import Archive, open_archive
from settings import Settings
from unetr.predict import Prediction, Predictor
from unetr.served import find_spec
from unetr.spec import ModelSpec

# Called with the stage and its fraction, 0 to 1.
OnProgress = Callable[[str, float], None]


class Predict(Protocol):
    """A model. others: volumes of its further inputs, in the order of its specification."""

    def __call__(
        self, volume: hd.Volume, on_progress: Callable[[float], None], /, *others: hd.Volume
    ) -> Prediction: ...


@dataclass(frozen=True)
class Connections:
    """The archive, database and settings that every request and job needs."""

    archive: Archive
    sessions: sessionmaker[Session]
    settings: Settings


@dataclass(frozen=True)
class ModelServices(Connections):
    """The connections and a loaded model, for a segmentation."""

    predictor: Predict
    spec: ModelSpec


@dataclass(frozen=True)
class LeaseKey:
    """The job for which a result is recorded, and the owner of its lease."""

    job_id: str
    owner: str


@dataclass
class Stages:
    """The stages of a job: each is reported as it begins; its seconds and peak memory, MB, are kept.

    The peak is that of the stage if Linux lets the process reset it, otherwise that of the process so far.
    """

    report: OnProgress
    timings_s: dict[str, float] = field(default_factory=dict)
    peaks_mb: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.report(stage, 0.0)
        _reset_peak_memory()
        started = time.perf_counter()
        yield
        self.timings_s[stage] = round(time.perf_counter() - started, 3)
        self.peaks_mb[stage] = round(_peak_memory_mb(), 1)


@dataclass(frozen=True)
class JobRun:
    """A job being run. stages: reports the progress, which may raise JobCancelled.

    connections: ModelServices if the job's task needs its model.
    """

    job: Job
    connections: Connections
    lease: LeaseKey
    stages: Stages

    @property
    def services(self) -> ModelServices:
        """Return the connections with the job's model. Raises: TypeError if the task needs no model."""
        if not isinstance(self.connections, ModelServices):
            raise TypeError(f"a job of kind {self.job.task.kind} is run without its model")
        return self.connections


def open_services(settings: Settings, model_id: str | None = None) -> ModelServices:
    """Open archive and database, and load the model. Raises: ModelNotFound, ModelError, SettingsError."""
    spec = find_spec(settings, model_id)
    return ModelServices(
        archive=open_archive(settings),
        sessions=open_database(settings.sqlalchemy_url),
        settings=settings,
        predictor=Predictor.load(spec, settings.device),
        spec=spec,
    )


def _reset_peak_memory() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024.0
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
