"""The real parts that tests run against: Debian's Orthanc and PostgreSQL, each on free loopback ports.

Neither fixture skips: a machine without the packages fails, because a green run without them proves nothing.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import requests

ROOT = Path(__file__).parents[1]
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_LIMIT_S = 30.0


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc. url: its DICOMweb root; rest_url: the root of its own REST API."""

    url: str
    rest_url: str
    user: str
    password: str
    dicom_port: int
    aet: str = "METSCOPE"


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc with the shipped orthanc.json and nothing but its environment; empty at first."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not DICOMWEB_PLUGIN.exists():
        pytest.fail("Orthanc or its DICOMweb plugin is missing: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    http_port, dicom_port = free_port(), free_port()
    rest_url = f"http://127.0.0.1:{http_port}"
    running = Orthanc(f"{rest_url}/dicom-web", rest_url, "tester", "a-test-password", dicom_port)
    environment = {
        "PATH": os.environ["PATH"],
        "METSCOPE_ORTHANC_STORAGE": str(folder / "storage"),
        "METSCOPE_ORTHANC_INDEX": str(folder / "index"),
        "METSCOPE_ORTHANC_HTTP_PORT": str(http_port),
        "METSCOPE_ORTHANC_DICOM_PORT": str(dicom_port),
        "METSCOPE_ORTHANC_USER": running.user,
        "METSCOPE_ORTHANC_PASSWORD": running.password,
    }
    log = folder / "orthanc.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [program, str(ROOT / "orthanc" / "orthanc.json")],
            stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(running), process, log)
        yield running
    finally:
        stop(process, signal.SIGTERM)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A temporary PostgreSQL cluster on loopback; yields its URL without a database's name."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.fail("PostgreSQL is missing: apt-get install postgresql")
    bin_dir = programs[-1].parent
    # Under /tmp itself: pytest's own temporary folder is closed to the postgres user.
    folder = Path(tempfile.mkdtemp(prefix="metscope-postgresql-"))
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data, log, port = folder / "data", folder / "log", free_port()
    subprocess.run(
        [str(bin_dir / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8",
         "--locale", "C.UTF-8", "--no-sync"],
        check=True, user=user, cwd=folder, capture_output=True,
    )  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(bin_dir / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port),
             "-k", str(folder), "-c", "fsync=off"],
            stdout=output, stderr=subprocess.STDOUT, user=user, cwd=folder,
        )  # fmt: skip
    server = f"tester@127.0.0.1:{port}"
    try:
        wait_until(lambda: connects(server), process, log)
        yield server
    finally:
        # SIGINT is PostgreSQL's "fast" shutdown: it does not wait for open sessions.
        stop(process, signal.SIGINT)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql(postgresql_server: str) -> str:
    """SQLAlchemy URL of a fresh, empty PostgreSQL database."""
    with psycopg.connect(f"postgresql://{postgresql_server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE metscope")
    return f"postgresql+psycopg://{postgresql_server}/metscope"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def answers(running: Orthanc) -> bool:
    try:
        return requests.get(
            f"{running.url}/studies", params={"limit": 1}, auth=(running.user, running.password), timeout=2
        ).ok
    except requests.ConnectionError:
        return False


def connects(server: str) -> bool:
    try:
        psycopg.connect(f"postgresql://{server}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(
                f"{process.args} did not start within {START_LIMIT_S:.0f} s:\n{log.read_text()[-3000:]}"
            )
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
