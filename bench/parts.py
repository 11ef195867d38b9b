"""Debian's Orthanc, PostgreSQL, Redis and nginx on loopback, which can be started, killed and restarted.

The tests run against them. A missing package raises an error that says what to install.
"""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import requests

ROOT = Path(__file__).parents[1]
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_LIMIT_S = 120.0


class PartMissing(Exception):
    """Raised when a Debian package is not installed or its program does not start."""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listened just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def wait_until(ready: Callable[[], bool], event: str, limit_s: float = START_LIMIT_S) -> None:
    """Wait until ``ready`` returns true. Raises: AssertionError after limit_s."""
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline, f"{event}: not within {limit_s:.0f} s"
        time.sleep(0.1)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Create a key and a certificate for 127.0.0.1 in the folder and return the PEM files."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


class Part(ABC):
    """A server process with its data in ``folder``; data and ports are the same at each start."""

    how_to_stop = signal.SIGTERM
    start_limit_s = START_LIMIT_S

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the program and its arguments."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def run_as(self) -> str | None:
        return None

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the process serves requests."""

    def start(self) -> None:
        """Start the process and wait until it answers. Raises: PartMissing with the end of its log."""
        log = self.folder / "log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder, user=self.run_as,
                env={"PATH": os.environ["PATH"], **self.environment}, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + self.start_limit_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise PartMissing(f"{self.command[0]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop the process by ``how`` or its usual signal, and wait; SIGKILL also kills its children."""
        if self.process is None:
            return
        if how == signal.SIGKILL:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how or self.how_to_stop)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@contextmanager
def frozen(part: Part) -> Iterator[None]:
    """Freeze the part while the ``with`` block runs; its connections stay open."""
    process = part.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def hung(part: Part) -> Iterator[None]:
    """Freeze the part with its child processes: PostgreSQL's would still answer if only the first slept."""
    with frozen(part):
        assert part.process is not None
        pid = part.process.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for child in children:
            os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for child in children:
                os.kill(child, signal.SIGCONT)


class Orthanc(Part):
    """Orthanc with the shipped orthanc.json, configured only by its environment."""

    user, password = "tester", "a-test-password"

    def __init__(self, folder: Path, **variables: str) -> None:
        """Choose free ports. variables: of the configuration, in addition to those of this class."""
        super().__init__(folder)
        self._variables = variables
        self.http_port, self.dicom_port = free_port(), free_port()
        self.rest_url = f"http://127.0.0.1:{self.http_port}"
        self.url = f"{self.rest_url}/dicom-web"

    @property
    def command(self) -> Sequence[str]:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if program is None or not DICOMWEB_PLUGIN.exists():
            raise PartMissing("apt-get install orthanc orthanc-dicomweb")
        return program, str(ROOT / "orthanc" / "orthanc.json")

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "METSCOPE_ORTHANC_STORAGE": str(self.folder / "storage"),
            "METSCOPE_ORTHANC_INDEX": str(self.folder / "index"),
            "METSCOPE_ORTHANC_HTTP_PORT": str(self.http_port),
            "METSCOPE_ORTHANC_DICOM_PORT": str(self.dicom_port),
            "METSCOPE_ORTHANC_USER": self.user,
            "METSCOPE_ORTHANC_PASSWORD": self.password,
            **self._variables,
        }

    @property
    def access(self) -> dict[str, str]:
        """Return the settings that make this Orthanc the archive."""
        return {
            "dicomweb_url": self.url,
            "dicomweb_user": self.user,
            "dicomweb_password": self.password,
            "orthanc_url": self.rest_url,
        }

    @property
    def authentication(self) -> tuple[str, str]:
        return self.user, self.password

    def answers(self) -> bool:
        try:
            limit = {"limit": 1}
            return requests.get(f"{self.url}/studies", params=limit, auth=self.authentication, timeout=2).ok
        except requests.RequestException:
            return False


class PostgreSQL(Part):
    """A PostgreSQL cluster of its own, deleted by ``remove``."""

    # PostgreSQL's "fast" shutdown, which does not wait for open sessions.
    how_to_stop = signal.SIGINT

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise PartMissing("apt-get install postgresql")
        self.programs = programs[-1].parent
        # Directly under /tmp: the postgres user cannot enter pytest's temporary folders.
        super().__init__(Path(tempfile.mkdtemp(prefix="metscope-postgresql-")))
        self.port = free_port()
        if self.run_as is not None:
            shutil.chown(self.folder, self.run_as)
        subprocess.run(
            [str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-U", "tester", "-A", "trust",
             "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"],
            check=True, user=self.run_as, cwd=self.folder, capture_output=True,
        )  # fmt: skip

    @property
    def command(self) -> Sequence[str]:
        return (
            str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-h", "127.0.0.1",
            "-p", str(self.port), "-k", str(self.folder), "-c", "fsync=off",
        )  # fmt: skip

    @property
    def run_as(self) -> str | None:
        # PostgreSQL refuses to run as root.
        return "postgres" if os.geteuid() == 0 else None

    def create(self, database: str) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return self._url(database).replace("postgresql://", "postgresql+psycopg://")

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open a connection that commits each statement. Raises: psycopg.OperationalError."""
        return psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=2)

    def answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _url(self, database: str) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/{database}"


class Redis(Part):
    """Redis with a password and without persistence: it is empty after a restart."""

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder)
        self.port, self.password = free_port(), password
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"

    @property
    def command(self) -> Sequence[str]:
        program = shutil.which("redis-server")
        if program is None:
            raise PartMissing("apt-get install redis-server")
        return program, "--port", str(self.port), "--requirepass", self.password, "--save", ""

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Nginx(Part):
    """nginx with the stack's configuration, whose ${METSCOPE_...} are filled in as in its container."""

    def __init__(
        self,
        folder: Path,
        api: str,
        orthanc: Orthanc,
        viewer: Path,
        port: int | None = None,
        tls: tuple[Path, Path] | None = None,
        **values: str,
    ):
        """Set the configuration's variables. values: variables that replace those set here.

        api: host:port. viewer: folder of the viewer's files. tls: key and certificate.
        """
        super().__init__(folder)
        self.port = port or free_port()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._values = {
            "METSCOPE_LISTEN": f"127.0.0.1:{self.port}{' ssl' if tls else ''}",
            "METSCOPE_TLS": f"ssl_certificate_key {tls[0]}; ssl_certificate {tls[1]};" if tls else "",
            "METSCOPE_API": api,
            "METSCOPE_ORTHANC": orthanc.rest_url.removeprefix("http://"),
            "METSCOPE_ORTHANC_BASIC": base64.b64encode(":".join(orthanc.authentication).encode()).decode(),
            "METSCOPE_RATE": "50",
            "METSCOPE_DICOM_RATE": "500",
            "METSCOPE_VIEWER": str(viewer),
            "METSCOPE_EXTENSION": str(ROOT / "ohif"),
            "METSCOPE_BUFFERS": str(folder),
            "METSCOPE_PROXY": "unix:",
            **values,
        }

    @property
    def command(self) -> Sequence[str]:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            raise PartMissing("apt-get install nginx")
        template = (ROOT / "orthanc" / "nginx.conf").read_text()
        site = re.sub(r"\$\{(METSCOPE_\w+)\}", lambda match: self._values[match[1]], template)
        bodies = "".join(
            f"{kind}_temp_path {self.folder}; "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Root owns the folders of tests and clones, and no other user may read them.
        user = "user root; " if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"{user}daemon off; pid {self.folder}/nginx.pid; error_log {self.folder}/nginx-error.log;\n"
            f"events {{}}\nhttp {{ include /etc/nginx/mime.types; {bodies}\n{site}\n}}\n"
        )
        return program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
