"""The stack of docker-compose.yml without its engine: every service's own command, behind the real nginx.

Orthanc, PostgreSQL, Redis and nginx are Debian's; the commands, the environment, the secrets and nginx's
configuration are those that the containers get, with addresses of this machine in them.
"""

import base64
import copy
import html
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import requests
import yaml
from pydicom import Dataset, dcmread

import series_names
from bench.parts import Nginx, Orthanc, Redis, free_port, self_signed, wait_until
from bench.service import COMPOSE, made
from orthanc import multipart, part10
from orthanc.dicomweb import INSTANCES
from tests import fake_pacs
from unetr.synthesis.phantom import SeriesOptions, to_instances

ROOT = Path(__file__).parents[1]
SERVICES = COMPOSE["services"]
START_LIMIT_S = 60.0
DICOM_JSON = {"Accept": "application/dicom+json"}


@dataclass(frozen=True)
class Stack:
    """url, log: those of nginx. tokens: a header for each role. reached: the request lines Orthanc got."""

    url: str
    log: Path
    tokens: dict[str, dict[str, str]]
    reached: list[str]

    def ask(self, method: str, path: str, role: str | None = None, **options: object) -> requests.Response:
        headers = (self.tokens[role] if role else {}) | options.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def send(
        self, target: str, method: str = "GET", role: str | None = None, body: str = ""
    ) -> tuple[int, str]:
        """Send the target as it stands, which no HTTP client does; return the status and the whole answer."""
        headers = {"Host": self.url.removeprefix("http://"), "Connection": "close"}
        headers |= (self.tokens[role] if role else {}) | ({"Content-Length": str(len(body))} if body else {})
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        with self.connect() as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
        return int(answer.split(" ", 2)[1]), answer

    def connect(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=60)


class Relay(socketserver.ThreadingTCPServer):
    """Stands between nginx and Orthanc, and notes every request line that nginx sends."""

    daemon_threads = True
    request_queue_size = 200

    def __init__(self, orthanc: Orthanc) -> None:
        self.reached: list[str] = []
        self.orthanc_address = ("127.0.0.1", orthanc.http_port)
        super().__init__(("127.0.0.1", 0), _RelayedConnection)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def in_place_of(self, orthanc: Orthanc) -> Orthanc:
        relayed = copy.copy(orthanc)
        relayed.rest_url = f"http://127.0.0.1:{self.server_address[1]}"
        return relayed


class _RelayedConnection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        received = self.request.recv(65536)
        if not received:
            return
        self.server.reached.append(received.partition(b"\r\n")[0].decode("latin-1"))
        with socket.create_connection(self.server.orthanc_address) as onwards:
            onwards.sendall(received)
            back = threading.Thread(target=_pump, args=(onwards, self.request), daemon=True)
            back.start()
            _pump(self.request, onwards)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what arrives, and then the end."""
    with suppress(OSError):
        while received := source.recv(65536):
            target.sendall(received)
        target.shutdown(socket.SHUT_WR)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def command_of(service: str) -> list[str]:
    return shlex.split(SERVICES[service]["command"])


@pytest.fixture(scope="module")
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
    for process in reversed(started):
        process.wait(60)


@pytest.fixture(scope="module")
def database(postgresql_server) -> str:
    """The address of an empty database of the stack's own: its first start makes the first token."""
    return postgresql_server.create("stack")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> Path:
    """A folder of secrets for each service, as init.sh makes them."""
    volumes = tmp_path_factory.mktemp("volumes")
    environment = {
        "PATH": os.environ["PATH"],
        "SECRETS_DIR": str(tmp_path_factory.mktemp("secrets")),
        "VOLUMES_DIR": str(volumes),
    }
    for _ in range(2):
        subprocess.run(["sh", str(ROOT / "orthanc" / "init.sh")], env=environment, check=True)
    return volumes / "secrets"


@pytest.fixture(scope="module")
def redis(tmp_path_factory, secrets) -> Iterator[Redis]:
    running = Redis(tmp_path_factory.mktemp("redis"), (secrets / "redis" / "redis_password").read_text())
    running.start()
    yield running
    running.stop()


def viewer_in(folder: Path) -> Path:
    """A folder with what stands for the viewer's files."""
    (made(folder) / "index.html").write_text("the viewer")
    (folder / "app.js").write_text("its program")
    return folder


@pytest.fixture(scope="module")
def stack(tmp_path_factory, secrets, redis, processes, orthanc, database) -> Stack:
    folder = tmp_path_factory.mktemp("stack")
    ports = {"api": free_port()}
    ours_here = shutil.copytree(secrets / "ours", folder / "secrets")
    (ours_here / "dicomweb_password").write_text(orthanc.password)
    (ours_here / "database_url").write_text(database)
    (ours_here / "broker_url").write_text(redis.url)

    def start(name: str, command: list[str], **environment: str) -> None:
        with (folder / f"{name}.log").open("w") as log:
            variables = {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
            } | environment
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)
            )

    ours = {
        # As compose does where the host's environment has none of them.
        **{n: re.sub(r"\$\{\w+:-(.*)\}", r"\1", v) for n, v in SERVICES["api"]["environment"].items()},
        "SECRETS_DIR": str(ours_here),
        "MODELS_DIR": "",
        "SERIES_NAMES": "",
        "DATA_DIR": str(folder / "data"),
        "DICOMWEB_URL": orthanc.url,
        "DICOMWEB_USER": orthanc.user,
        "ORTHANC_URL": orthanc.rest_url,
        "CORS_ORIGINS": "",
        "SEGMENTATIONUI_API": "true",
    }
    gunicorn = [word.replace("0.0.0.0:5000", f"127.0.0.1:{ports['api']}") for word in command_of("api")]
    start("api", gunicorn, **ours)
    start("worker", command_of("worker"), **ours, DEVICE="cpu")
    api = f"127.0.0.1:{ports['api']}"
    relay = Relay(orthanc)
    # Above what one client may ask for, because a refusal for its rate would hide what nginx lets through.
    rates = {"METSCOPE_RATE": "10000", "METSCOPE_DICOM_RATE": "10000"}
    viewer = viewer_in(folder / "viewer")
    nginx = Nginx(made(folder / "nginx"), api, relay.in_place_of(orthanc), viewer, **rates)
    nginx.start()
    processes.append(nginx.process)
    for port in ports.values():
        wait_until(lambda port=port: listens(port), f"port {port}", START_LIMIT_S)
    token_path = folder / "data" / "first.token"
    wait_until(token_path.exists, "the first token", START_LIMIT_S)
    tokens = {"admin": {"Authorization": f"Bearer {token_path.read_text().strip()}"}}
    for role in ("reader", "operator"):
        created = subprocess.run(
            [sys.executable, "api.py", "token", "create", role, "--role", role],
            cwd=ROOT, env={"PATH": os.environ["PATH"]} | ours, check=True, capture_output=True, text=True,
        )  # fmt: skip
        tokens[role] = {"Authorization": f"Bearer {created.stdout.strip()}"}
    running = Stack(nginx.url, nginx.folder / "log", tokens, relay.reached)
    wait_until(lambda: running.ask("GET", "/health/ready").status_code == 200, "the stack", START_LIMIT_S)
    return running


def test_with_a_certificate_nginx_speaks_https(tmp_path, orthanc):
    key, certificate = self_signed(tmp_path)
    nginx = Nginx(
        tmp_path, f"127.0.0.1:{free_port()}", orthanc, viewer_in(tmp_path / "viewer"), tls=(key, certificate)
    )
    nginx.start()
    try:
        answer = requests.get(f"{nginx.url}/health/live", verify=certificate, timeout=10)
        assert answer.status_code == 502, "no API is behind it"
    finally:
        nginx.stop()


def test_a_worker_s_health_is_asked_as_compose_does(stack, database):
    program, *arguments = SERVICES["worker"]["healthcheck"]["test"][1:]
    assert program == "python"
    ask = [sys.executable, *arguments]
    for url, status in ((database, 0), ("sqlite://", 1)):
        environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url}
        assert subprocess.run(ask, cwd=ROOT, env=environment, check=False).returncode == status


def test_the_first_start_makes_secrets_and_a_later_one_keeps_them(secrets):
    files = {f"{path.parent.name}/{path.name}": path.read_text() for path in secrets.glob("*/*")}
    database, broker = files["ours/database_url"], files["ours/broker_url"]
    assert files["postgres/postgres_password"] in database
    assert files["redis/redis_password"] in broker
    assert files["orthanc/dicomweb_password"] == files["ours/dicomweb_password"]
    basic = base64.b64decode(files["nginx/orthanc_basic"]).decode()
    assert basic == f"metscope:{files['orthanc/dicomweb_password']}"
    passwords = {files[name] for name in files if name.endswith("_password")}
    assert sorted(map(len, passwords)) == [32, 32, 32]
    assert all(path.stat().st_mode & 0o007 == 0 for path in secrets.rglob("*"))


def test_each_service_sees_the_secrets_that_it_needs_and_no_other(secrets):
    for name, service in SERVICES.items():
        mounted = [
            volume.split(":")[0]
            for volume in service["volumes"]
            if isinstance(volume, str) and ":/run/secrets" in volume
        ]
        if name == "init":
            assert mounted == ["secrets"]
            continue
        owner = "ours" if name in {"api", "worker", "worker-gpu"} else name
        assert mounted == [f"secrets-{owner}"]
        named = set(re.findall(r"/run/secrets/(\w+)", str(service)))
        present = {path.name for path in (secrets / owner).iterdir()}
        assert named == present or (owner == "ours" and not named)


def test_no_service_meets_one_that_it_has_nothing_to_say_to():
    networks = {name: set(service.get("networks", ())) for name, service in SERVICES.items()}
    assert [name for name, settings in COMPOSE["networks"].items() if not settings] == ["outside"]
    assert [name for name, joined in networks.items() if "outside" in joined] == ["nginx"]
    reachable = {
        frozenset((server, peer))
        for server, peer in itertools.combinations(networks, 2)
        if networks[server] & networks[peer]
    }
    for server, peer in (
        ("nginx", "postgres"), ("nginx", "redis"), ("orthanc", "postgres"), ("orthanc", "redis"),
        ("nginx", "worker"), ("init", "nginx"),
    ):  # fmt: skip
        # nginx meets the workers where all of them meet Orthanc; they listen to nobody.
        assert frozenset((server, peer)) not in reachable or (server, peer) == ("nginx", "worker")
    for server, peer in (
        ("nginx", "api"), ("nginx", "orthanc"), ("api", "postgres"), ("api", "redis"), ("api", "orthanc"),
        ("worker", "postgres"), ("worker", "redis"), ("worker", "orthanc"),
    ):  # fmt: skip
        assert frozenset((server, peer)) in reachable


def test_no_image_floats():
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    images += [
        line.split()[1]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("FROM ") and ":" in line.split()[1]
    ]
    assert len(images) == 6
    for image in images:
        assert re.search(r":\d+\.\d+(\.\d+)?(-|$)", image), image
        assert image.startswith("postgres:") or re.search(r":\d+\.\d+\.\d+", image), image


@pytest.mark.parametrize("service", ["api", "worker"])
def test_compose_passes_the_model_on_and_mounts_its_folder(service, tmp_path):
    variables = {"MODELS_DIR": str(tmp_path), "MODEL_PATH": "/models/mine.safetensors"}
    done = subprocess.run(
        ["docker-compose", "config"], cwd=ROOT, env=os.environ | variables, check=True, capture_output=True
    )
    configured = yaml.safe_load(done.stdout)["services"][service]
    assert configured["environment"]["MODEL_PATH"] == "/models/mine.safetensors"
    (mounted,) = [volume for volume in configured["volumes"] if str(tmp_path) in str(volume)]
    target = configured["environment"]["MODELS_DIR"]
    assert mounted == {"type": "bind", "source": str(tmp_path), "target": target, "read_only": True}


@pytest.mark.parametrize("service", ["api", "worker"])
@pytest.mark.parametrize("words", ['[words.house]\nagent = ["Gadoquat"]\n', None], ids=["a file", "none"])
def test_compose_mounts_the_file_of_series_names_and_the_setting_names_it(service, words, tmp_path):
    variables = {name: value for name, value in os.environ.items() if name != "SERIES_NAMES"}
    if words is not None:
        (tmp_path / "names.toml").write_text(words)
        variables["SERIES_NAMES"] = str(tmp_path / "names.toml")
    done = subprocess.run(
        ["docker-compose", "config"], cwd=ROOT, env=variables, check=True, capture_output=True
    )
    configured = yaml.safe_load(done.stdout)["services"][service]
    target = configured["environment"]["SERIES_NAMES"]
    (mounted,) = [m for m in configured["volumes"] if isinstance(m, dict) and m["target"] == target]
    assert (mounted["type"], mounted["read_only"]) == ("bind", True)
    # What lies there is a file of words, also where the setting is empty.
    vocabulary = series_names.load(Path(mounted["source"]))
    assert (vocabulary.read("T1 Gadoquat").contrast == "proven") == (words is not None)


def test_nothing_but_nginx_is_published_and_nothing_runs_as_root():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert SERVICES["nginx"]["ports"] == ["${METSCOPE_ADDRESS:-127.0.0.1}:${METSCOPE_PORT:-8080}:8080"]
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] == ("root" if name == "init" else "1000:1000")
        if name != "init":
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["test"]
            assert service["deploy"]["resources"]["limits"]["memory"]


def test_compose_accepts_the_file():
    # Debian's checker, which needs no engine.
    subprocess.run(["docker-compose", "config", "-q"], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/dicom-web/studies"), ("POST", "/dicom-web/studies"), ("GET", "/orthanc/system"),
        ("DELETE", "/orthanc/studies/1"), ("GET", "/jobs"), ("GET", "/_may/orthanc"), ("GET", "/auth/admin"),
    ],
)  # fmt: skip
def test_without_a_token_nginx_passes_nothing_on(stack, method, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic bWV0c2NvcGU6eA=="}):
        answer = stack.ask(method, path, headers=headers)
        assert answer.status_code == (404 if path.startswith("/_may") else 401)
        assert "orthanc" not in answer.text.lower()


def test_every_answer_says_what_a_browser_may_do_with_it(stack):
    for path, role in (
        ("/", "reader"), ("/metscope", "reader"), ("/app.js", None), ("/app-config.js", None),
        ("/ohif/extension.js", None), ("/jobs", "reader"), ("/jobs", None), ("/login", None),
        ("/dicom-web/studies", "reader"), ("/orthanc/system", "admin"), ("/orthanc/system", "reader"),
    ):  # fmt: skip
        headers = stack.ask("GET", path, role, headers=DICOM_JSON if "dicom" in path else {}).headers
        # A header that came twice would have both values.
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "SAMEORIGIN", path
        assert headers["Referrer-Policy"] == "same-origin", path
        if role is not None and path not in {"/", "/metscope"}:
            assert headers["Cache-Control"] == "no-store", path
    policy = stack.ask("GET", "/metscope", "reader").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert stack.ask("GET", "/app.js").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/jobs", "/viewer", "/dicom-web/studies"])
def test_one_client_s_rate_is_not_another_s_though_both_come_by_a_proxy(tmp_path, orthanc, path):
    values = {"METSCOPE_RATE": "1", "METSCOPE_DICOM_RATE": "1", "METSCOPE_PROXY": "127.0.0.1"}
    nginx = Nginx(tmp_path, "127.0.0.1:1", orthanc, viewer_in(tmp_path / "viewer"), **values)
    nginx.start()
    try:
        session = requests.Session()

        def status(client: str) -> int:
            headers = {"X-Forwarded-For": client}
            return session.get(nginx.url + path, headers=headers, timeout=30).status_code

        assert status("10.0.0.1") in {500, 502}, "no API is behind it"
        assert any(status("10.0.0.1") == 429 for _ in range(3000))
        assert status("10.0.0.2") != 429
    finally:
        nginx.stop()


def test_no_client_chooses_its_own_address(tmp_path, orthanc):
    nginx = Nginx(tmp_path, "127.0.0.1:1", orthanc, viewer_in(tmp_path / "viewer"), METSCOPE_RATE="1")
    nginx.start()

    def status(number: int) -> int:
        headers = {"X-Forwarded-For": f"10.0.0.{number}"}
        return requests.get(f"{nginx.url}/jobs", headers=headers, timeout=30).status_code

    try:
        # More than a busy machine lets pass: 200 at once and one a second.
        with ThreadPoolExecutor(8) as pool:
            assert 429 in pool.map(status, range(500))
    finally:
        nginx.stop()


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("reader", "GET", "/dicom-web/studies", 200), ("reader", "POST", "/dicom-web/studies", 403),
        ("operator", "GET", "/orthanc/system", 403), ("admin", "GET", "/orthanc/system", 200),
        ("reader", "GET", "/jobs", 200), ("reader", "POST", "/segmentation/1.2.3", 403),
        ("operator", "DELETE", "/segmentations/x", 403), ("admin", "DELETE", "/segmentations/x", 404),
        ("reader", "GET", "/segmentationui/followup-patients", 200),
        ("reader", "POST", "/segmentationui/uploadDicom", 403),
    ],
)  # fmt: skip
def test_a_role_opens_what_it_should_through_nginx(stack, role, method, path, status):
    assert stack.ask(method, path, role, headers=DICOM_JSON).status_code == status


@pytest.mark.parametrize(
    ("path", "field"), [("/studies", "files"), ("/segmentationui/uploadDicom", "files[]")]
)
def test_an_upload_may_be_larger_than_other_bodies(stack, path, field):
    refused = stack.ask("POST", path, "operator", files=[(field, bytes(10**6))])
    assert refused.json()["error"]["code"] == "upload_refused"


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/studies", "operator"), ("/segmentationui/uploadDicom", "operator"),
        ("/dicom-web/studies", "operator"),
        ("/orthanc/instances", "admin"),
    ],
)  # fmt: skip
def test_64_uploads_that_never_end_stop_nobody(stack, path, role):
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {stack.tokens[role]['Authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x\r\n"
    )
    with ExitStack() as uploads:
        for _ in range(64):
            uploads.enter_context(stack.connect()).sendall(head.encode())
        assert stack.ask("GET", "/health/live").status_code == 200
        assert stack.ask("GET", "/jobs", "reader").status_code == 200
        assert stack.ask("GET", "/dicom-web/studies", "reader", headers=DICOM_JSON).status_code == 200
        assert stack.ask("POST", path, role, data=b"x").status_code == 429, (
            "the uploads of one client are capped"
        )
    # Where they have ended the next one is taken: refused for what it holds.
    wait_until(lambda: stack.ask("POST", path, role, data=b"x").status_code in {400, 415, 422}, "an upload")


def test_64_downloads_that_nobody_reads_stop_nobody(stack, objects):
    image = objects[0]
    stack.ask("POST", "/orthanc/instances", "admin", data=part10.encode(image))
    head = (
        f"GET /dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID} HTTP/1.1\r\n"
        f"Host: x\r\nAuthorization: {stack.tokens['reader']['Authorization']}\r\nAccept: {INSTANCES}\r\n\r\n"
    )
    with ExitStack() as downloads:
        for _ in range(64):
            downloads.enter_context(stack.connect()).sendall(head.encode())
        assert stack.ask("GET", "/dicom-web/studies", "reader", headers=DICOM_JSON).status_code == 200


@pytest.fixture(scope="module")
def objects() -> tuple[Dataset, Dataset]:
    """An image and a SEG of it, of the size that they have in a hospital: 12 and 3 MB."""
    shape = (96, 256, 256)
    affine = np.array([[0.0, 0, 1, -128], [0, 1, 0, -128], [1.5, 0, 0, -72], [0, 0, 0, 1]])
    pixels = np.random.default_rng(7).integers(0, 1000, shape).astype(np.uint16)
    (image,) = to_instances(hd.Volume(pixels, affine, "PATIENT"), SeriesOptions(enhanced="shared"))
    labels = np.zeros(shape, np.uint8)
    for number in range(1, 5):
        labels[:, 60 * number - 40 : 60 * number - 20, 100:120] = number
    return image, fake_pacs.hand_drawn_seg([image], labels, ["one", "two", "three", "four"])


@pytest.mark.parametrize(
    ("path", "role"), [("/dicom-web/studies", "operator"), ("/orthanc/instances", "admin")]
)
def test_objects_of_real_size_reach_orthanc_and_come_back_whole(stack, objects, path, role):
    for instance in objects:
        encoded = part10.encode(instance)
        assert len(encoded) > 3 * 10**6
        content_type, body = (
            multipart.encode([encoded]) if "dicom-web" in path else ("application/dicom", encoded)
        )
        headers = {"Content-Type": content_type, **DICOM_JSON}
        assert stack.ask("POST", path, role, data=body, headers=headers).status_code == 200
        address = (
            f"/dicom-web/studies/{instance.StudyInstanceUID}/series/{instance.SeriesInstanceUID}"
            f"/instances/{instance.SOPInstanceUID}"
        )
        answer = stack.ask("GET", address, "reader", headers={"Accept": INSTANCES})
        boundary = str(multipart.media_type(answer.headers["Content-Type"])[1])
        (received,) = multipart.parts([answer.content], boundary)
        assert dcmread(BytesIO(received)).PixelData == instance.PixelData


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/dicom-web/..%5csystem"), ("DELETE", "/dicom-web/..%5cstudies/1"),
        ("GET", "/dicom-web/studies/..%5c..%5csystem"), ("GET", "/dicom-web/studies/%2e%2e/%2e%2e/system"),
        ("GET", "/dicom-web/%2e%2e%2fsystem"), ("GET", "/dicom-web/studies/..%255c..%255csystem"),
        ("GET", "/dicom-web/servers"), ("POST", "/dicom-web/servers/x/stow"),
    ],
)  # fmt: skip
def test_no_other_door_of_orthanc_opens_to_an_operator(stack, method, path):
    session = requests.Session()
    request = requests.Request(method, stack.url, headers=stack.tokens["operator"]).prepare()
    request.url = stack.url + path
    assert session.send(request, timeout=30).status_code in {400, 403, 404}


# Every location of nginx.conf, and what Orthanc would take for the root of its REST API behind it.
PLACES = (
    "/dicom-web/studies", "/dicom-web/series", "/dicom-web/instances", "/dicom-web/studies/1.2.3/metadata",
    "/dicom-web", "/orthanc", "/orthanc/studies", "/_may/orthanc", "/auth/admin", "/studies",
    "/segmentationui", "/segmentationui/uploadDicom", "/ohif/extension.js", "/app-config.js",
    "/assets/app.js", "/app.js", "/metscope", "/viewer", "/login", "/jobs", "/patients", "/health/live", "",
)  # fmt: skip
ENDS = (
    "#", "%23", "%2523", "?", "%3f", ";", "%3b", "\\", "%5c", "%255c", "//", "%2f", "%252f", "/.", "/%2e",
    "%00", "%0d%0a", " ", "\t", "",
)  # fmt: skip
CLIMBS = (
    "/../..", "/../../..", "/%2e%2e/%2e%2e", "/.%2e/%2E.", "/..%2f..", "/..%252f..", "/..%5c..", "\\..\\..",
    "/..;/..;", "/%252e%252e/%252e%252e", "/..%c0%af..", "/..//..", "/.../...",
)  # fmt: skip
# What nobody below an admin may have Orthanc do, with its method and body.
DEEDS = (
    ("GET", "/system", ""),
    ("POST", "/tools/shutdown", "now"),
    ("POST", "/tools/bulk-delete", '{"Resources": ["STUDY"]}'),
    ("DELETE", "/studies/STUDY", ""),
    ("GET", "/studies/STUDY?_method=DELETE", ""),
    ("POST", "/tools/execute-script", "print(1)"),
    ("GET", "/dicom-web/servers", ""),
)
# Each role and what it may cause, whatever it sends: a request line that Orthanc receives.
UID = r"[0-9]+(\.[0-9]+)*"
DICOMWEB_READING = (
    rf"(GET|HEAD) /dicom-web/(studies|series|instances|studies/{UID}(/metadata)?)(\?\S*)? HTTP/1\.1"
)
DICOMWEB_STORING = rf"POST /dicom-web/studies(/{UID})?(\?\S*)? HTTP/1\.1"
ORTHANC_DATA = r"\w+ /(studies|system|tools/bulk-delete)(/[0-9a-f-]*)?(\?\S*)? HTTP/1\.1"
MAY_REACH = {
    None: [],
    "reader": [DICOMWEB_READING],
    "operator": [DICOMWEB_READING, DICOMWEB_STORING],
    "admin": [DICOMWEB_READING, DICOMWEB_STORING, ORTHANC_DATA],
}


def spellings(study: str) -> Iterator[tuple[str, str, str]]:
    """Return the method, raw target and body of each attempt to leave a location for Orthanc's root.

    Every place meets every end; climbs and deeds take turns, so that every end also meets each of them.
    """
    turns = zip(itertools.cycle(CLIMBS), itertools.cycle(DEEDS), strict=False)
    for (place, end), (climb, (method, path, body)) in zip(
        itertools.product(PLACES, ENDS), turns, strict=False
    ):
        yield method, (place + end + climb + path).replace("STUDY", study), body.replace("STUDY", study)


def orthanc_study(orthanc: Orthanc) -> str:
    """Store a study; return Orthanc's id of it."""
    (instance,) = fake_pacs.tiny_series(1)
    answer = requests.post(
        f"{orthanc.rest_url}/instances", part10.encode(instance), auth=orthanc.authentication, timeout=60
    )
    return str(answer.json()["ParentStudy"])


@pytest.mark.parametrize("role", list(MAY_REACH))
def test_whatever_the_target_s_spelling_only_the_named_paths_reach_orthanc(stack, orthanc, role):
    study = orthanc_study(orthanc)
    before = len(stack.reached)
    attempts = 0
    for method, target, body in spellings(study):
        status, answer = stack.send(target, method, role, body)
        assert status < 500, (method, target)
        assert status != 429, "the rate limit hides what nginx lets through"
        assert "DicomAet" not in answer or role == "admin", (method, target)
        attempts += 1
    assert attempts >= 200
    for line in set(stack.reached[before:]):
        assert any(re.fullmatch(pattern, line) for pattern in MAY_REACH[role]), line
    kept = requests.get(f"{orthanc.rest_url}/studies/{study}", auth=orthanc.authentication, timeout=60)
    assert kept.status_code == 200, "Orthanc runs and has the study"


CHUNKED = "Transfer-Encoding: chunked"
# Headers and body. By one of two lengths the body ends before the request that is hidden in it.
SMUGGLED = {
    "length, then chunks": ("Content-Length: {whole}\r\n" + CHUNKED, "0\r\n\r\n{hidden}"),
    "chunks, then length": (CHUNKED + "\r\nContent-Length: 4", "{size:x}\r\n{hidden}\r\n0\r\n\r\n"),
    "two lengths": ("Content-Length: 0\r\nContent-Length: {whole}", "{hidden}"),
    "length with a sign": ("Content-Length: +{whole}", "{hidden}"),
    "chunks of another spelling": (
        "Transfer-Encoding: xchunked\r\nContent-Length: {whole}",
        "0\r\n\r\n{hidden}",
    ),
    "chunks after a space": (
        "Transfer-Encoding : chunked\r\nContent-Length: {whole}",
        "0\r\n\r\n{hidden}",
    ),
    "bare line feeds": ("Content-Length: {whole}\nTransfer-Encoding: chunked", "0\n\n{hidden}"),
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_no_request_is_smuggled_in_the_body_of_another(stack, orthanc, how):
    study = orthanc_study(orthanc)
    password = base64.b64encode(":".join(orthanc.authentication).encode()).decode()
    hidden = f"DELETE /studies/{study} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {password}\r\n\r\n"
    headers, body = SMUGGLED[how]
    body = body.format(hidden=hidden, size=len(hidden))
    before = len(stack.reached)
    for path in ("/dicom-web/studies", "/orthanc/studies", "/jobs"):
        start = f"POST {path} HTTP/1.1\r\nHost: x\r\n"
        start += f"Authorization: {stack.tokens['operator']['Authorization']}\r\n"
        with stack.connect() as connection:
            connection.sendall(f"{start}{headers.format(whole=len(body))}\r\n\r\n{body}".encode())
            with suppress(ConnectionResetError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
    for line in stack.reached[before:]:
        assert re.fullmatch(DICOMWEB_STORING, line), line
    kept = requests.get(f"{orthanc.rest_url}/studies/{study}", auth=orthanc.authentication, timeout=60)
    assert kept.status_code == 200


def test_the_viewer_s_pages_ask_for_a_login_and_its_files_do_not(stack):
    for page in (
        "/",
        "/metscope?StudyInstanceUIDs=1.2.3",
        "/viewer?StudyInstanceUIDs=1.2&hangingprotocolId=a%2Cb",
    ):
        redirect = stack.ask("GET", page, allow_redirects=False)
        assert (redirect.status_code, redirect.headers["Location"]) == (302, f"/login?next={page}")
        assert html.escape(page) in stack.ask("GET", redirect.headers["Location"]).text
        assert stack.ask("GET", page, "reader").text == "the viewer"
    assert stack.ask("GET", "/app.js").text == "its program"
    assert "orthanc" in stack.ask("GET", "/app-config.js").text
    modules = re.findall(r"'(/ohif/[^']+)'", stack.ask("GET", "/app-config.js").text)
    assert modules
    for module in modules:
        answer = stack.ask("GET", module)
        assert answer.headers["Content-Type"] == "application/javascript"
    for secret in ("/ohif/../orthanc/orthanc.json", "/ohif/%2e%2e/api.py", "/assets/../../api.py"):
        assert stack.ask("GET", secret).status_code in {400, 401, 404}


@pytest.mark.parametrize(
    ("query", "header"),
    [
        ("?_method=DELETE", {}), ("?%5Fmethod=DELETE", {}), ("?expand&_metho%64=delete", {}),
        ("", {"X-HTTP-Method-Override": "DELETE"}),
    ],
)  # fmt: skip
def test_no_link_on_another_site_has_an_admin_s_browser_delete_a_study(stack, orthanc, query, header):
    # Orthanc obeys both; a browser sends the cookie along when a link is followed, as GET.
    study = orthanc_study(orthanc)
    token = stack.tokens["admin"]["Authorization"].removeprefix("Bearer ")
    cookie = {"Cookie": f"metscope={token}", "Sec-Fetch-Site": "cross-site"}
    stack.ask("GET", f"/orthanc/studies/{study}{query}", headers=cookie | header)
    assert stack.ask("GET", f"/orthanc/studies/{study}", "admin").json()["ID"] == study


@pytest.mark.parametrize("path", ["/orthanc/tools/lookup", "/dicom-web/studies"])
def test_behind_nginx_too_a_cookie_changes_nothing_from_another_site(stack, path):
    token = stack.tokens["admin"]["Authorization"].removeprefix("Bearer ")
    cookie = {"Cookie": f"metscope={token}"}
    for site in ({}, {"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "same-site"}):
        assert stack.ask("POST", path, headers=cookie | site, data="1.2.3").status_code == 403
    from_here = stack.ask("POST", path, headers=cookie | {"Origin": stack.url}, data="1.2.3")
    assert from_here.status_code not in {401, 403}
    assert stack.ask("GET", "/dicom-web/studies", headers=cookie | DICOM_JSON).status_code == 200


def test_nothing_of_a_patient_is_in_nginx_s_log(stack):
    for path in (
        "/patients/JANE-QX/lesions", "/Patients/JANE-QX", "/PATIENTS/JANE-QX/lesions", "/patient/JANE-QX",
        "/JANE-QX", "/api/patients/JANE-QX", "/followup/JANE-QX", "/login?next=/patients/JANE-QX",
    ):  # fmt: skip
        stack.ask("GET", path, "reader")
    stack.ask("GET", "/dicom-web/studies?PatientName=DOE-QX", "reader", headers=DICOM_JSON)
    logged = stack.log.read_text()
    assert "GET /patients/- 404" in logged
    assert "GET /- 404" in logged
    assert "GET /dicom-web/studies 200" in logged
    # Letters, because digits are found in UIDs and times.
    assert "QX" not in logged


def test_a_list_of_fields_reaches_orthanc_although_the_viewer_escapes_its_commas(stack):
    series = fake_pacs.tiny_series(1)
    content_type, body = multipart.encode([part10.encode(series[0])])
    headers = {"Content-Type": content_type, **DICOM_JSON}
    assert stack.ask("POST", "/dicom-web/studies", "operator", data=body, headers=headers).status_code == 200
    query = f"/dicom-web/studies?StudyInstanceUID={series[0].StudyInstanceUID}"
    full_query = query + "&includefield=00081030%2C00080061%2C00201206"
    (attributes,) = stack.ask("GET", full_query, "reader", headers=DICOM_JSON).json()
    assert {"00081030", "00080061", "00201206"} <= set(attributes)
    assert attributes["00081190"]["Value"][0].startswith(stack.url), "the address of the study is nginx's own"


def test_a_job_runs_through_gunicorn_redis_and_the_worker(stack):
    job = stack.ask("POST", "/segmentation/1.2.3.4.5", "operator", json={"wait_s": 30}).json()
    assert (job["state"], job["error"]["code"], job["requested_by"]) == (
        "failed",
        "study_not_found",
        "operator",
    )


def test_orthanc_does_not_start_with_an_empty_password(tmp_path):
    (tmp_path / "dicomweb_password").write_text("")
    script = SERVICES["orthanc"]["entrypoint"][2].replace("$$", "$").replace("/run/secrets", str(tmp_path))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "METSCOPE_ORTHANC_PASSWORD" in done.stderr
