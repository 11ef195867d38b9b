"""What a request or a job runs with: archive, database, settings, a model; its stages, with their times."""

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
from errors import ModelNotFound
from orthanc.archive import Archive, open_archive
from settings import Settings
from unetr.predict import Prediction, Predictor
from unetr.served import default_model, served_models
from unetr.spec import ModelSpec

Report = Callable[[str, float], None]


class Predict(Protocol):
    """A model. others: of its further inputs, in the order of its specification."""

    def __call__(
        self, volume: hd.Volume, on_progress: Callable[[float], None], /, *others: hd.Volume
    ) -> Prediction: ...


@dataclass(frozen=True)
class Connections:
    """What every request and every job needs."""

    archive: Archive
    sessions: sessionmaker[Session]
    settings: Settings


@dataclass(frozen=True)
class ModelServices(Connections):
    """What a segmentation needs besides: a loaded model."""

    predictor: Predict
    spec: ModelSpec


@dataclass(frozen=True)
class JobLease:
    """The job on whose behalf a result is recorded, and who holds its lease."""

    job_id: str
    owner: str


@dataclass
class Stages:
    """Reports each stage as it begins and keeps its seconds and its peak memory, MB.

    The peak is that of the stage where Linux lets a process reset it, else that of the process so far.
    """

    report: Report
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
    """One job in work. stages: reports how far it is; that may raise JobCancelled.

    model: opens what the job's model needs. Raises: ModelError.
    """

    job: Job
    connections: Connections
    lease: JobLease
    stages: Stages
    model: Callable[[], ModelServices]


def open_services(settings: Settings, model_id: str | None = None) -> ModelServices:
    """Open archive and database and load the model. Raises: ModelNotFound, ModelError, SettingsError."""
    spec = find_spec(settings, model_id)
    return ModelServices(
        archive=open_archive(settings),
        sessions=open_database(settings.sqlalchemy_url),
        settings=settings,
        predictor=Predictor.load(spec, settings.device),
        spec=spec,
    )


def find_spec(settings: Settings, model_id: str | None) -> ModelSpec:
    """The spec of that model, or of the default one. Raises: ModelNotFound, ModelSpecInvalid."""
    if model_id is None:
        return default_model(settings.models_dir, settings.model_path)
    models = served_models(settings.models_dir, settings.model_path)
    if model_id not in models:
        raise ModelNotFound(f"There is no model {model_id!r}; there are: {', '.join(sorted(models))}.")
    return models[model_id]


def _reset_peak_memory() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024.0
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
