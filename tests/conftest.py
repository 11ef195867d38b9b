"""The real parts that tests run against: Debian's Orthanc and PostgreSQL, each on free loopback ports.

Neither fixture skips: a machine without the packages fails, because a green run without them proves nothing.
"""

from collections.abc import Iterator

import pytest

from bench.parts import Orthanc, PostgreSQL


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A running Orthanc with the shipped orthanc.json; empty at first."""
    running = Orthanc(tmp_path_factory.mktemp("orthanc"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A running PostgreSQL cluster."""
    running = PostgreSQL()
    try:
        running.start()
        yield running
    finally:
        running.remove()


@pytest.fixture(scope="session")
def postgresql(postgresql_server: PostgreSQL) -> str:
    """SQLAlchemy URL of a fresh, empty PostgreSQL database."""
    return postgresql_server.create("metscope")
