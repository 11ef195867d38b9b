"""The API under gunicorn and worker processes, as docker-compose.yml starts them, for benchmarks and tests.

PostgreSQL and Redis are real; the archive is a folder unless the settings name another.
"""

import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests
import yaml
from sqlalchemy import NullPool, create_engine, text

from bench.parts import ROOT, Part, PostgreSQL, Redis, free_port
from settings import Settings

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
LIVING = "SELECT 1 FROM workers WHERE id LIKE :process AND CAST(loaded_models AS TEXT) <> '[]'"


def settings_in(folder: Path, **others: object) -> Settings:
    """Return settings with this data folder; a .env file is ignored."""
    return Settings(_env_file=None, data_dir=folder, **others)  # type: ignore[arg-type,call-arg]


@contextmanager
def backends() -> Iterator[tuple[PostgreSQL, Redis]]:
    """Start PostgreSQL and Redis, yield them and stop them."""
    with ExitStack() as stack:
        postgresql = PostgreSQL()
        stack.callback(postgresql.remove)
        postgresql.start()
        redis = Redis(Path(stack.enter_context(tempfile.TemporaryDirectory())), "a-bench-password")
        redis.start()
        stack.callback(redis.stop)
        yield postgresql, redis


@contextmanager
def api(settings: Settings) -> Iterator[tuple[str, dict[str, str]]]:
    """Start the API, yield its URL and the header with the first token, and stop it."""
    running = Api(made(settings.data_dir / "api"), variables_of(settings))
    running.start()
    try:
        yield running.url, {"Authorization": f"Bearer {settings.first_token_path.read_text().strip()}"}
    finally:
        running.stop()


@contextmanager
def working(settings: Settings, cores: Sequence[int | None]) -> Iterator[None]:
    """Run one worker process on each core, ready for jobs; None: a worker that may use all cores."""
    with ExitStack() as stack:
        for number, core in enumerate(cores):
            worker = Worker(made(settings.data_dir / f"worker-{number}"), variables_of(settings), core)
            worker.start()
            stack.callback(worker.stop)
        yield


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables that give the same settings."""
    values = settings.model_dump(include=settings.model_fields_set)
    secret = settings.dicomweb_password.get_secret_value()
    return {name.upper(): str(value) for name, value in values.items()} | {"DICOMWEB_PASSWORD": secret}


class Ours(Part):
    """A process of MetScope's own, configured by its environment."""

    start_limit_s = 120.0

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._variables = variables

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT), **self._variables}


class Api(Ours):
    """The web API as docker-compose.yml starts it."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder, variables)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def command(self) -> Sequence[str]:
        as_composed = COMPOSE["services"]["api"]["command"]
        here = as_composed.replace("0.0.0.0:5000", f"127.0.0.1:{self._port}")
        return [sys.executable, "-m", *shlex.split(here)]

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/live", timeout=2).ok
        except requests.RequestException:
            return False


class Worker(Ours):
    """A worker on one core or on all. It answers once it has loaded its model."""

    def __init__(self, folder: Path, variables: Mapping[str, str], core: int | None = None) -> None:
        super().__init__(folder, variables)
        self._core = core
        self._database = create_engine(variables["DATABASE_URL"], poolclass=NullPool)

    @property
    def command(self) -> Sequence[str]:
        kept_to_a_core = [] if self._core is None else ["taskset", "--cpu-list", str(self._core)]
        return [*kept_to_a_core, sys.executable, str(ROOT / "worker.py")]

    def answers(self) -> bool:
        assert self.process is not None
        with self._database.connect() as connection:
            return (
                connection.execute(text(LIVING), {"process": f"%:{self.process.pid}:%"}).first() is not None
            )


def made(folder: Path) -> Path:
    """Create the folder, which may exist already, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
