"""What may go wrong in a hospital, done for real: one SEG and one set of rows are left, or none and an error.

Real processes and a real Orthanc, PostgreSQL and Redis; where a PACS must lie, the fake one stands in for it,
and a full disk is a small one. `pytest -sq -m 'long or not long' tests/test_faults.py` runs and prints every
row; the suite runs some of them.
"""

import json
import os
import pickle
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis
import requests
from flask_openapi3.openapi import OpenAPI
from pydicom import Dataset
from sqlalchemy import Engine, create_engine, text

import broker
from api import create_app
from bench.hospital import LEASE_S, MODEL, Hospital
from bench.models import tiny_model
from bench.parts import PostgreSQL, frozen, hung, wait_until
from bench.rows import add_study, image, threshold, threshold_runner
from bench.service import Api
from context import Predict
from db import jobs, tokens
from db.database import DATABASE_UNAVAILABLE, open_database, writing
from db.queue import requeue_expired
from db.tables import Job, Role
from orthanc.archive import open_archive
from settings import Settings
from tests import fake_pacs
from unetr.served import find_spec
from unetr.synthesis.phantom import SeriesOptions, to_instances
from worker import Runner, run_housekeeping

END_LIMIT_S = 90.0
ONE = "one SEG, one set of rows"
NONE = "no SEG, no rows"


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    running = Hospital()
    yield running
    running.close()


class Case:
    """One study, and what is asked and seen of it."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        self.study = hospital.new_study()
        self.jobs: list[str] = []
        database = hospital.settings.sqlalchemy_url.replace("postgresql+psycopg", "postgresql")
        self._connect = lambda: psycopg.connect(database, autocommit=True)

    @property
    def worker(self):
        return self.hospital.workers[0]

    def post(self, path: str, **body: object) -> requests.Response:
        return requests.post(f"{self.hospital.api.url}{path}", json=body, timeout=60)

    def ask(self, **body: object) -> str:
        answer = self.post(f"/segmentation/{self.study}", model=MODEL, **body)
        assert answer.status_code in {200, 202}, answer.text
        self.jobs.append(answer.json()["id"])
        return self.jobs[-1]

    def job(self, job_id: str | None = None):
        query = "SELECT state, stage, attempts, error_code, segmentation_id FROM jobs WHERE id = :id"
        (row,) = self.hospital.rows(query, id=job_id or self.jobs[-1])
        return row

    def until_stage(self, stage: str) -> None:
        """Return within milliseconds after the last job has come to that stage."""
        deadline = time.monotonic() + END_LIMIT_S
        with self._connect() as connection:
            while time.monotonic() < deadline:
                state, job_stage = connection.execute(
                    "SELECT state, stage FROM jobs WHERE id = %s", [self.jobs[-1]]
                ).fetchone()
                if job_stage == stage:
                    return
                assert state in {"queued", "running"}, f"{state} before stage {stage} was seen"
        raise AssertionError(f"stage {stage} was not seen")

    def until_ended(self) -> None:
        def all_ended() -> bool:
            return all(self.job(job_id).state not in {"queued", "running"} for job_id in self.jobs)

        wait_until(all_ended, "the end of the jobs", END_LIMIT_S)

    def expect_results(self, results: int = 1) -> str:
        """Every job is done; so many results, each once in the database and in Orthanc."""
        self.until_ended()
        assert {self.job(job_id).state for job_id in self.jobs} == {"done"}
        assert len(self.hospital.segs(self.study)) == results
        assert self.hospital.faults([self.study]) == []
        attempts = "+".join(str(self.job(job_id).attempts) for job_id in self.jobs)
        return f"{results} SEG, {results} set of rows; attempts {attempts}"

    def expect_none(self, *codes: str | None) -> str:
        """Every job has ended with one of these codes (None: cancelled) and left nothing."""
        self.until_ended()
        error_codes = {self.job(job_id).error_code for job_id in self.jobs}
        assert error_codes <= set(codes), error_codes
        assert self.hospital.segs(self.study) == []
        assert self.hospital.faults([self.study]) == []
        return f"none; {', '.join(code or 'cancelled' for code in error_codes)}"


@contextmanager
def outage(part, how: signal.Signals | None = None) -> Iterator[None]:
    part.stop(how)
    try:
        yield
    finally:
        part.start()


def killed_in(stage: str) -> Callable[[Case], str]:
    def row(case: Case) -> str:
        case.ask()
        case.until_stage(stage)
        with outage(case.worker, signal.SIGKILL):
            assert case.job().stage == stage
        outcome = case.expect_results()
        assert case.job().attempts == 2
        return outcome

    return row


def killed_in_store(case: Case) -> str:
    case.ask()
    case.until_stage("encode")
    with frozen(case.hospital.orthanc):
        case.until_stage("store")
        case.worker.stop(signal.SIGKILL)
    case.worker.start()
    return case.expect_results()


# Where a result is asked for something more: the request, how many SEG there are then, and what is added.
FURTHER: dict[str, tuple[str, dict[str, object], int, str, tuple[str, ...]]] = {
    "correction": (
        "corrections", {"rename": [{"number": 1, "name": "pons"}]}, 2, "SEG",
        ("fetch",),
    ),
    "structure set": ("rtstruct", {}, 1, "RTSTRUCT", ("read",)),
}  # fmt: skip


def further_killed_in(kind: str, stage: str) -> Callable[[Case], str]:
    path, body, segs, modality, _ = FURTHER[kind]

    def row(case: Case) -> str:
        case.ask()
        case.until_ended()
        answer = case.post(f"/segmentations/{case.job().segmentation_id}/{path}", **body)
        case.jobs.append(answer.json()["id"])
        case.until_stage(stage)
        with outage(case.worker, signal.SIGKILL):
            pass
        outcome = case.expect_results(segs)
        assert case.job().attempts == 2
        series = open_archive(case.hospital.settings).series_headers(case.study)
        headers_of_modality = [
            header for headers in series for header in headers if header.Modality == modality
        ]
        assert len(headers_of_modality) == (segs if modality == "SEG" else 1)
        return outcome

    return row


def killed_again_and_again(case: Case) -> str:
    case.ask()
    for attempt in range(1, 4):
        wait_until(
            lambda attempt=attempt: (case.job().attempts, case.job().stage) == (attempt, "predict"), "predict"
        )
        with outage(case.worker, signal.SIGKILL):
            pass
    return case.expect_none("job_interrupted")


def frozen_beyond_its_lease(case: Case) -> str:
    second_worker = case.hospital.new_worker()
    case.ask()
    case.until_stage("predict")
    with frozen(case.worker):
        second_worker.start()
        wait_until(lambda: case.job().attempts == 2, "the other worker")
        case.until_ended()
    outcome = case.expect_results()
    second_worker.stop()
    return outcome


def stopped_kindly(case: Case) -> str:
    case.ask()
    case.until_stage("predict")
    with outage(case.worker, signal.SIGTERM):
        assert case.job().state == "queued"
    outcome = case.expect_results()
    assert case.job().attempts == 1
    return outcome


def api_killed_after_the_request(case: Case) -> str:
    case.ask()
    with outage(case.hospital.api, signal.SIGKILL):
        pass
    return case.expect_results()


def api_killed_while_a_client_waits(case: Case) -> str:
    def wait() -> None:
        with suppress(requests.RequestException):
            case.post(f"/segmentation/{case.study}", model=MODEL, wait_s=60)

    client = threading.Thread(target=wait)
    client.start()
    mine = "SELECT id FROM jobs WHERE study_instance_uid = :study"
    wait_until(lambda: bool(case.hospital.rows(mine, study=case.study)), "the job")
    with outage(case.hospital.api, signal.SIGKILL):
        pass
    client.join()
    case.jobs += [row.id for row in case.hospital.rows(mine, study=case.study)]
    return case.expect_results()


def orthanc_away(case: Case) -> str:
    with outage(case.hospital.orthanc):
        case.ask()
        case.until_ended()
    return case.expect_none("archive_unreachable")


def orthanc_killed_in_fetch(case: Case) -> str:
    with frozen(case.hospital.orthanc):
        case.ask()
        case.until_stage("fetch")
        time.sleep(0.5)
        case.hospital.orthanc.stop(signal.SIGKILL)
        case.until_ended()
    case.hospital.orthanc.start()
    return case.expect_none("archive_unreachable", "archive_incomplete")


def orthanc_silent_in_fetch(case: Case) -> str:
    with frozen(case.hospital.orthanc):
        case.ask()
        case.until_ended()
    return case.expect_none("archive_timeout")


def orthanc_hesitates_in_fetch(case: Case) -> str:
    with frozen(case.hospital.orthanc):
        case.ask()
        case.until_stage("fetch")
        time.sleep(2.0)
    return case.expect_results()


def orthanc_away_in_store(how: signal.Signals) -> Callable[[Case], str]:
    def row(case: Case) -> str:
        case.ask()
        case.until_stage("predict")
        with outage(case.hospital.orthanc, how):
            wait_until(lambda: (case.job().state, case.job().stage) == ("queued", "store"), "stage store")
            address = f"{case.hospital.api.url}/segmentations/{case.job().segmentation_id}"
            result = requests.get(address, timeout=9)
            assert result.json()["segmentation"]["stored"] is False
        return case.expect_results()

    return row


def orthanc_killed_in_store(case: Case) -> str:
    case.ask()
    case.until_stage("encode")
    with frozen(case.hospital.orthanc):
        case.until_stage("store")
        time.sleep(0.5)
        case.hospital.orthanc.stop(signal.SIGKILL)
    case.hospital.orthanc.start()
    return case.expect_results()


def orthanc_silent_in_store(case: Case) -> str:
    case.ask()
    case.until_stage("encode")
    with frozen(case.hospital.orthanc):
        wait_until(lambda: (case.job().state, case.job().stage) == ("queued", "store"), "another try")
    return case.expect_results()


def study_deleted(case: Case) -> str:
    rest, door = case.hospital.orthanc.rest_url, case.hospital.orthanc.authentication
    matches = requests.post(f"{rest}/tools/lookup", data=case.study, auth=door, timeout=9).json()
    requests.delete(f"{rest}/studies/{matches[0]['ID']}", auth=door, timeout=9).raise_for_status()
    case.ask()
    case.until_ended()
    assert case.job().error_code == "study_not_found"
    rows = case.hospital.rows("SELECT 1 FROM studies WHERE study_instance_uid = :uid", uid=case.study)
    assert rows == []
    return "none; study_not_found"


def database_away_in(stage: str, how: signal.Signals) -> Callable[[Case], str]:
    def row(case: Case) -> str:
        case.ask()
        case.until_stage(stage)
        with outage(case.hospital.database, how):
            time.sleep(1.0)
        return case.expect_results()

    return row


def database_away_at_the_request(case: Case) -> str:
    with outage(case.hospital.database):
        refused = case.post(f"/segmentation/{case.study}", model=MODEL)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
        assert requests.get(f"{case.hospital.api.url}/health/live", timeout=9).ok
        ready = requests.get(f"{case.hospital.api.url}/health/ready", timeout=30)
        assert (ready.status_code, ready.json()["checks"]["database"]["ok"]) == (503, False)
    case.ask()
    return f"503 database_unavailable; then {case.expect_results()}"


def database_hung(case: Case) -> str:
    """Connections stay open, and a new one is taken; nothing is ever said."""
    url = case.hospital.api.url
    with hung(case.hospital.database):
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda _: requests.get(f"{url}/jobs", timeout=60), range(40)))
        codes = {(answer.status_code, answer.json()["error"]["code"]) for answer in answers}
        assert codes == {(503, "database_unavailable")}
        ready = requests.get(f"{url}/health/ready", timeout=30)
        assert (ready.status_code, ready.json()["checks"]["database"]["ok"]) == (503, False)
        assert requests.get(f"{url}/health/live", timeout=30).ok
    wait_until(lambda: requests.get(f"{url}/jobs", timeout=30).ok, "the API with a database again")
    case.ask()
    return f"503 database_unavailable; then {case.expect_results()}"


def database_hung_in_predict(case: Case) -> str:
    case.ask()
    case.until_stage("predict")
    with hung(case.hospital.database):
        time.sleep(2 * LEASE_S)
    return case.expect_results()


def tokens_locked(case: Case) -> str:
    """An administrator's transaction that was left open, say."""
    folder = Path(tempfile.mkdtemp(dir=case.hospital.folder))
    api = Api(folder, case.hospital.variables | {"AUTH": "token", "DATA_DIR": str(folder)})
    api.start()
    token = {"Authorization": f"Bearer {(folder / 'first.token').read_text().strip()}"}
    try:
        with case._connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE")
            refused = requests.get(f"{api.url}/jobs", headers=token, timeout=30)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
        assert requests.get(f"{api.url}/jobs", headers=token, timeout=30).ok
    finally:
        api.stop()
    case.ask()
    return f"503 database_unavailable; then {case.expect_results()}"


def taken_connections(server: PostgreSQL) -> list[psycopg.Connection]:
    """Every connection that the server allows; whoever had one has lost it."""
    connections: list[psycopg.Connection] = []
    query = "SELECT pid FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> ALL(%s)"
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError):
            while True:
                connections.append(server.connect())
        mine = [connection.info.backend_pid for connection in connections]
        pids = [pid for (pid,) in connections[0].execute(query, [mine])]
        if not pids:
            return connections
        for pid in pids:
            connections[0].execute("SELECT pg_terminate_backend(%s)", [pid])
    raise AssertionError("others still have connections")


def connections_taken(case: Case) -> str:
    url, process = case.hospital.api.url, case.worker.process
    case.ask()
    case.until_stage("predict")
    connections = taken_connections(case.hospital.database)
    started = time.monotonic()
    refused = case.post(f"/segmentation/{case.study}", model=MODEL)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert requests.get(f"{url}/health/live", timeout=9).ok
    ready = requests.get(f"{url}/health/ready", timeout=9)
    assert (ready.status_code, ready.json()["checks"]["database"]["ok"]) == (503, False)
    assert time.monotonic() - started < 15.0
    time.sleep(2 * LEASE_S)
    for connection in connections:
        connection.close()
    wait_until(lambda: requests.get(f"{url}/jobs", timeout=30).ok, "the API with a database again")
    case.ask()
    outcome = case.expect_results()
    assert process.poll() is None
    return f"503 database_unavailable; then {outcome}"


def database_locked(case: Case) -> str:
    case.ask()
    case.until_stage("predict")
    with case._connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE jobs, segmentations IN ACCESS EXCLUSIVE MODE")
        time.sleep(2.0)
    return case.expect_results()


def redis_away_at_the_request(case: Case) -> str:
    with outage(case.hospital.redis):
        case.ask()
    return case.expect_results()


def redis_emptied(case: Case) -> str:
    first = case.ask()
    case.until_stage("predict")
    case.ask(force=True)
    with outage(case.hospital.redis, signal.SIGKILL):
        assert case.job(first).state == "running"
        assert case.job().state == "queued"
    return case.expect_results(results=2)


def redis_away_in_predict(case: Case) -> str:
    case.ask()
    case.until_stage("predict")
    with outage(case.hospital.redis, signal.SIGKILL):
        case.until_ended()
    return case.expect_results()


def redis_comes_and_goes(case: Case) -> str:
    """Celery's own event loop is deaf after this."""
    redis_away_at_the_request(case)
    case.ask(force=True)
    case.until_stage("predict")
    case.ask(force=True)
    with outage(case.hospital.redis, signal.SIGKILL):
        pass
    case.expect_results(results=3)
    case.ask(force=True)
    case.until_stage("predict")
    with outage(case.hospital.redis, signal.SIGKILL):
        case.until_ended()
    case.ask(force=True)
    return case.expect_results(results=5)


def redis_hung(case: Case) -> str:
    with frozen(case.hospital.redis):
        case.ask()
        case.until_ended()
        answer = requests.get(f"{case.hospital.api.url}/jobs/{case.jobs[-1]}", timeout=9)
        assert answer.json()["state"] == "done"
    return case.expect_results()


class Intruder:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


NO_MESSAGES = [
    b"\xff\x00\xfe garbage", b"", b"{", pickle.dumps({"task": broker.SEGMENT}),
    b"null", b"42", b"[]", b'"text"', b"{}", b'{"body": 1}', b'{"properties": []}', b"[" * 50_000,
]  # fmt: skip


def no_messages(case: Case) -> str:
    """Whoever has Redis's password may put anything into the queue."""
    process, pickle_path = case.worker.process, case.hospital.folder / "made-by-a-pickle"
    queue = redis.Redis.from_url(case.hospital.redis.url)
    app = broker.create(case.hospital.settings)
    for nothing in NO_MESSAGES:
        queue.lpush(broker.QUEUE, nothing)
    app.send_task(broker.SEGMENT, args=[Intruder(pickle_path)], serializer="pickle")
    app.send_task("os.mkdir", args=[str(pickle_path)])
    for arguments in ([], [{"id": 1}], [None], [["x"]], ["x", "y"], ["x" * 1_000_000], ["\0"]):
        app.send_task(broker.SEGMENT, args=arguments)
    wait_until(lambda: queue.llen(broker.QUEUE) == 0, "the end of the queue", END_LIMIT_S)
    case.ask()
    outcome = case.expect_results()
    wait_until(lambda: queue.llen(broker.QUEUE) == 0, "the message about the job")
    assert not pickle_path.exists()
    assert process.poll() is None
    return outcome


def message_delivered_thrice(case: Case) -> str:
    app = broker.create(case.hospital.settings)
    job_id = case.ask()
    for _ in range(2):
        broker.announce(app, job_id)
    case.until_ended()
    broker.announce(app, job_id)
    time.sleep(1.0)
    return case.expect_results()


def identical_requests_at_once(case: Case) -> str:
    threads = [threading.Thread(target=case.ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(case.jobs) == 6
    assert len(set(case.jobs)) == 1
    return case.expect_results()


def two_workers_and_equal_images(case: Case) -> str:
    """One asks for the series, the other leaves the choice to the job."""
    second_worker = case.hospital.new_worker()
    second_worker.start()
    (headers,) = open_archive(case.hospital.settings).series_headers(case.study)
    case.ask()
    case.ask(series_instance_uid=str(headers[0].SeriesInstanceUID))
    assert len(set(case.jobs)) == 2
    outcome = case.expect_results()
    second_worker.stop()
    return outcome


def cancelled_in(stage: str) -> Callable[[Case], str]:
    def row(case: Case) -> str:
        job_id = case.ask()
        case.until_stage(stage)
        answer = case.post(f"/jobs/{job_id}/cancel")
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "job_not_cancellable"
            return f"409, too late; {case.expect_results()}"
        assert answer.status_code == 200
        return case.expect_none(None)

    return row


def cancelled_while_queued(case: Case) -> str:
    with outage(case.worker):
        job_id = case.ask()
        assert case.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    time.sleep(1.0)
    return case.expect_none(None)


def cancelled_in_store(case: Case) -> str:
    job_id = case.ask()
    case.until_stage("predict")
    with outage(case.hospital.orthanc):
        wait_until(lambda: (case.job().state, case.job().stage) == ("queued", "store"), "stage store")
        assert case.post(f"/jobs/{job_id}/cancel").status_code == 409
    return f"409; {case.expect_results()}"


# What is expected, what is done, and whether the suite runs it too.
ROWS: dict[str, tuple[str, Callable[[Case], str], bool]] = {
    **{f"worker killed in {s}": (ONE, killed_in(s), s == "predict") for s in
       ("fetch", "read", "predict", "measure", "encode")},
    "worker killed in store": (ONE, killed_in_store, True),
    **{f"{kind}: worker killed in {s}": (ONE, further_killed_in(kind, s), False)
       for kind, (*_, stages) in FURTHER.items() for s in stages},
    "worker killed at every attempt": (f"{NONE}, job_interrupted", killed_again_and_again, False),
    "worker frozen for longer than its lease": (ONE, frozen_beyond_its_lease, False),
    "worker stopped by SIGTERM": (ONE, stopped_kindly, False),
    "API killed after a request": (ONE, api_killed_after_the_request, False),
    "API killed while a client waits": (ONE, api_killed_while_a_client_waits, False),
    "Orthanc away": (f"{NONE}, archive_unreachable", orthanc_away, False),
    "Orthanc killed in fetch": (f"{NONE}, archive_…", orthanc_killed_in_fetch, False),
    "Orthanc silent in fetch": (f"{NONE}, archive_timeout", orthanc_silent_in_fetch, False),
    "Orthanc silent for 2 s in fetch": (ONE, orthanc_hesitates_in_fetch, False),
    "Orthanc stopped before store": (ONE, orthanc_away_in_store(signal.SIGTERM), True),
    "Orthanc killed before store": (ONE, orthanc_away_in_store(signal.SIGKILL), False),
    "Orthanc killed in store": (ONE, orthanc_killed_in_store, False),
    "Orthanc silent in store": (ONE, orthanc_silent_in_store, False),
    "study deleted in Orthanc": (f"{NONE}, study_not_found", study_deleted, False),
    "PostgreSQL stopped in predict": (ONE, database_away_in("predict", signal.SIGINT), True),
    "PostgreSQL killed in predict": (ONE, database_away_in("predict", signal.SIGQUIT), False),
    "PostgreSQL stopped in encode": (ONE, database_away_in("encode", signal.SIGINT), False),
    "PostgreSQL away at the request": ("503, nothing left; " + ONE, database_away_at_the_request, True),
    "PostgreSQL hung at the request": ("503, nothing left; " + ONE, database_hung, True),
    "PostgreSQL hung in predict": (ONE, database_hung_in_predict, False),
    "tokens locked": ("503; " + ONE, tokens_locked, True),
    "PostgreSQL's connections all taken": ("503; " + ONE, connections_taken, True),
    "PostgreSQL locked for 2 s": (ONE, database_locked, False),
    "Redis away at the request": (ONE, redis_away_at_the_request, True),
    "Redis restarted empty": ("two asked for: two of each", redis_emptied, False),
    "Redis killed in predict": (ONE, redis_away_in_predict, False),
    "Redis comes and goes, three times": ("five asked for: five of each", redis_comes_and_goes, False),
    "Redis hung from the request to the end": (ONE, redis_hung, False),
    "messages that are none, and a pickle": (ONE, no_messages, True),
    "message delivered three times": (ONE, message_delivered_thrice, True),
    "six identical requests at once": (ONE, identical_requests_at_once, False),
    "two workers, two requests for the same images": (ONE, two_workers_and_equal_images, False),
    "cancelled while queued": (NONE, cancelled_while_queued, False),
    **{f"cancelled in {s}": (NONE, cancelled_in(s), s == "predict") for s in
       ("fetch", "read", "predict", "measure")},
    "cancelled in encode": (f"{NONE}, or 409 and {ONE}", cancelled_in("encode"), False),
    "cancelled in store": (f"409, {ONE}", cancelled_in_store, False),
}  # fmt: skip


NAMES = [pytest.param(n, marks=() if short else pytest.mark.long) for n, (*_, short) in ROWS.items()]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_is_one_or_none(hospital, name):
    expected, row, _ = ROWS[name]
    outcome = row(Case(hospital))
    print(f"{name} | {expected} | {outcome}")


# A PACS that misbehaves, and a disk that is full: the worker's own code in this process, with a threshold.


class Desk:
    """A study, and a worker within this process."""

    def __init__(self, settings: Settings, study: str, predictor: Predict = threshold) -> None:
        self.runner = threshold_runner(settings, predictor)
        self.sessions, self.settings, self.study = self.runner.sessions, settings, study
        self.job_id = jobs.submit(self.sessions, study, find_spec(settings, None).id).id

    def run(self) -> None:
        self.runner.run(self.job_id)

    def run_later(self) -> None:
        """When the time for another try has come."""
        with self.sessions.begin() as session:
            session.execute(text("UPDATE jobs SET not_before = NULL, lease_expires_at = '2000-01-01'"))
        requeue_expired(self.sessions, 3)
        self.run()

    def describe_rest(self) -> str:
        job = jobs.get(self.sessions, self.job_id)
        with self.sessions() as session:
            tables = ("segmentations", "lesions", "measurements", "outbox")
            counts = [session.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables]  # noqa: S608
        # The short patience is for the faults; who looks afterwards waits as long as a busy machine takes.
        archive = open_archive(self.settings.model_copy(update={"dicomweb_read_timeout_s": 30.0}))
        headers = [h for series in archive.series_headers(self.study) for h in series]
        segs = sum(h.Modality == "SEG" for h in headers)
        if job.state == "done":
            assert (segs, counts) == (1, [1, 5, 5, 0])
            return f"1 SEG, 1 set of rows; attempts {job.attempts}"
        assert (segs, counts) == (0, [0, 0, 0, 0]) or job.stage == "store"
        return f"{'waits' if job.stage == 'store' else 'none'}; {job.error_code or job.stage}"


FAILED = fake_pacs.refuse_storage(200, 0xA700)
FAULTS_OF_A_PACS: dict[str, tuple[str, list[fake_pacs.Fault], str, str]] = {
    "PACS stalls once in fetch": ("wado", [fake_pacs.stall], "none; fetch", "1 SEG"),
    "PACS stalls in fetch": ("wado", [fake_pacs.stall] * 3, "none; fetch", "none; archive_timeout"),
    "PACS trickles for ever": ("wado", [fake_pacs.trickle] * 3, "none; fetch", "none; archive_timeout"),
    "PACS busy twice": ("wado", [fake_pacs.status(503)] * 2, "1 SEG", ""),
    "PACS busy for good": ("wado", [fake_pacs.status(503)] * 12, "none; fetch", "none; archive_unreachable"),
    "PACS answers 406": ("wado", [fake_pacs.status(406)], "none; archive_refused", ""),
    "PACS answers a web page": ("wado", [fake_pacs.status(200)], "none; archive_refused", ""),
    "PACS lets nobody in": ("series", [fake_pacs.status(401)], "none; archive_refused", ""),
    "PACS drops the connection once": ("wado", [fake_pacs.drop], "1 SEG", ""),
    "PACS refuses with 200 and FailedSOP": ("stow", [FAILED], "waits; store", "1 SEG"),
    "PACS says stored and stores nothing": ("stow", [fake_pacs.claim_storage], "waits; store", "1 SEG"),
    "PACS stalls in store": ("stow", [fake_pacs.stall], "waits; store", "1 SEG"),
    "PACS stores and loses its answer": ("stow", [fake_pacs.store_then_drop], "1 SEG", ""),
}  # fmt: skip


@pytest.fixture
def pacs() -> Iterator[fake_pacs.FakePacs]:
    with fake_pacs.running(fake_pacs.FakePacs()) as running:
        running.instances = to_instances(image(1), SeriesOptions())
        yield running


def desk_at(pacs: fake_pacs.FakePacs, folder: Path) -> Desk:
    settings = Settings(
        _env_file=None, data_dir=folder, dicomweb_url=pacs.url,
        dicomweb_connect_timeout_s=3, dicomweb_read_timeout_s=2, dicomweb_total_timeout_s=5,
    )  # fmt: skip
    return Desk(settings, str(pacs.instances[0].StudyInstanceUID))


@pytest.mark.parametrize("name", FAULTS_OF_A_PACS)
def test_a_pacs_that_misbehaves(name, pacs, tmp_path):
    route, faults, first, then = FAULTS_OF_A_PACS[name]
    desk = desk_at(pacs, tmp_path)
    pacs.faults[route] = list(faults)
    desk.run()
    outcomes = [desk.describe_rest()]
    if then:
        for _ in range(2):
            desk.run_later()
        outcomes.append(desk.describe_rest())
    print(f"{name} | {first}{f', then {then}' if then else ''} | {', then '.join(outcomes)}")
    for expected, outcome in zip((first, then), outcomes, strict=False):
        assert outcome.startswith(expected)


@pytest.mark.parametrize("served", ["cut short", "a single part", "one instance too few"])
def test_a_pacs_that_serves_less_than_it_lists(served, pacs, tmp_path):
    desk = desk_at(pacs, tmp_path)
    responses = {
        "cut short": fake_pacs.cut(pacs.instances, say_length=True),
        "a single part": fake_pacs.single_part(pacs.instances[0]),
        "one instance too few": fake_pacs.serve(pacs.instances[1:]),
    }
    pacs.faults["wado"] = [responses[served]] * 4
    desk.run()
    assert desk.describe_rest() == "none; archive_incomplete"
    print(f"PACS serves {served} | {NONE}, archive_incomplete | {desk.describe_rest()}")


def under_the_uids_of(theirs: list[Dataset], instances: list[Dataset]) -> list[Dataset]:
    for their, our in zip(theirs, instances, strict=True):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(their, keyword, our[keyword].value)
        their.file_meta.MediaStorageSOPInstanceUID = their.SOPInstanceUID
    return theirs


@pytest.mark.parametrize("served", ["another series", "another patient's images under its UIDs"])
def test_a_pacs_that_serves_what_was_not_asked_for(served, pacs, tmp_path):
    desk = desk_at(pacs, tmp_path)
    theirs = to_instances(image(2), SeriesOptions(patient_id="PHANTOM-2"))
    if served != "another series":
        theirs = under_the_uids_of(theirs, pacs.instances)
    pacs.faults["wado"] = [fake_pacs.serve(theirs)] * 4
    desk.run()
    assert desk.describe_rest() == "none; archive_refused"
    print(f"PACS serves {served} | {NONE}, archive_refused | {desk.describe_rest()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("disk", ["the database's", "the archive's"])
def test_a_disk_that_is_full(disk, small_disk, tmp_path):
    """Full from the moment that the result is to be written until somebody makes room."""
    of_archive = disk == "the archive's"
    archive = (small_disk if of_archive else tmp_path) / "archive"
    settings = Settings(
        _env_file=None, data_dir=tmp_path if of_archive else small_disk, dicomweb_url=archive.as_uri()
    )
    ballast = small_disk / "ballast"

    def fill_the_disk(volume, on_progress):
        if not ballast.exists():
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        return threshold(volume, on_progress)

    desk = Desk(settings, add_study(settings, 1), fill_the_disk)
    desk.run()
    first = desk.describe_rest()
    ballast.write_bytes(b"")
    desk.run_later()
    print(f"{disk} disk is full | nothing, or it waits; then {ONE} | {first}, then {desk.describe_rest()}")
    assert desk.describe_rest().startswith("1 SEG")
    desk.sessions.kw["bind"].dispose()


# What the API answers when a part hangs: connections stay open, and nothing is ever said.


def close(engine: Engine) -> None:
    """Close its connections; a check of health that was given up may still have one."""
    wait_until(lambda: engine.pool.checkedout() == 0, "the connections back")
    engine.dispose()


@pytest.fixture
def on_postgresql(postgresql_server: PostgreSQL, tmp_path: Path) -> Iterator[tuple[OpenAPI, dict[str, str]]]:
    """The API on a database of its own, and the header with its first token."""
    url = postgresql_server.create(f"faults_{uuid.uuid4().hex}")
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=url)
    app = create_app(settings)
    sessions = app.extensions["metscope"].sessions
    token = tokens.create(sessions, "test", Role.ADMIN, "test")
    yield app, {"Authorization": f"Bearer {token}"}
    close(sessions.kw["bind"])


def refusal(answer) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]["code"]


def test_a_hung_postgresql_is_answered_with_503_until_it_goes_on(on_postgresql, postgresql_server):
    app, token = on_postgresql
    client = app.test_client()
    assert client.get("/jobs", headers=token).status_code == 200
    with hung(postgresql_server):
        with ThreadPoolExecutor(20) as pool:
            answers = pool.map(lambda _: app.test_client().get("/jobs", headers=token), range(40))
            assert {refusal(answer) for answer in answers} == {(503, "database_unavailable")}
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json["checks"]["database"]["ok"]) == (503, False)
    assert client.get("/jobs", headers=token).status_code == 200


@pytest.mark.parametrize("table", ["tokens", "jobs"])
def test_a_table_that_somebody_keeps_locked_is_answered_with_503(on_postgresql, table):
    app, token = on_postgresql
    engine = create_engine(app.extensions["metscope"].sessions.kw["bind"].url)
    with engine.begin() as connection:
        connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        assert refusal(app.test_client().get("/jobs", headers=token)) == (503, "database_unavailable")
    engine.dispose()
    assert app.test_client().get("/jobs", headers=token).status_code == 200


def test_a_process_that_hangs_in_a_transaction_loses_its_locks(on_postgresql, monkeypatch):
    app, token = on_postgresql
    sessions = app.extensions["metscope"].sessions
    study = "/segmentation/1.2.3"
    job = app.test_client().post(study, headers=token).json["id"]
    monkeypatch.setattr("db.database.IDLE_IN_TRANSACTION_LIMIT_S", 1)
    hanging = open_database(sessions.kw["bind"].url.render_as_string(hide_password=False))
    with suppress(*DATABASE_UNAVAILABLE), writing(hanging) as session:
        session.get(Job, job, with_for_update=True)
        cancelled = app.test_client().post(f"/jobs/{job}/cancel", headers=token)
        assert (cancelled.status_code, cancelled.json["state"]) == (200, "cancelled")
    hanging.kw["bind"].dispose()


def test_a_database_that_takes_no_changes_is_not_ready(on_postgresql):
    app, token = on_postgresql
    client = app.test_client()
    assert client.get("/health/ready").json["checks"]["database"] == {"ok": True, "reason": None}
    engine = app.extensions["metscope"].sessions.kw["bind"]
    with engine.connect() as connection:
        connection.execute(
            text(f"ALTER DATABASE {engine.url.database} SET default_transaction_read_only = on")
        )
    close(engine)
    check = client.get("/health/ready").json["checks"]["database"]
    assert (check["ok"], "ReadOnlySqlTransaction" in check["reason"]) == (False, True)
    assert refusal(client.post("/segmentation/1.2.3", headers=token)) == (503, "database_unavailable")
    assert client.get("/jobs", headers=token).status_code == 200


def test_a_full_data_folder_is_not_ready(small_disk):
    app = create_app(Settings(_env_file=None, data_dir=small_disk))
    client = app.test_client()
    assert client.get("/health/ready").json["checks"]["data"] == {"ok": True, "reason": None}
    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    check = client.get("/health/ready").json["checks"]["data"]
    assert (check["ok"], "No space left" in check["reason"]) == (False, True)
    app.extensions["metscope"].sessions.kw["bind"].dispose()


def test_a_half_copied_model_spoils_no_other(tmp_path):
    models = tmp_path / "models"
    tiny_model(models, "tiny", 500.0)
    half = (models / "tiny.json").read_text()[:300].replace("tiny", "newer")
    (models / "newer.json").write_text(half)
    app = create_app(Settings(_env_file=None, data_dir=tmp_path / "data", models_dir=models, auth="off"))
    client = app.test_client()
    assert [model["id"] for model in client.get("/models").json["models"]] == ["tiny"]
    assert client.post("/segmentation/1.2.3").status_code == 202
    check = client.get("/health/ready").json["checks"]["models"]
    assert (check["ok"], "newer.json" in check["reason"]) == (True, True)
    assert "newer.json" in client.get("/operations").text


def test_a_folder_of_models_that_hangs_is_not_ready_and_holds_up_no_answer(tmp_path):
    models = tiny_model(tmp_path / "models", "tiny", 500.0)
    app = create_app(Settings(_env_file=None, data_dir=tmp_path / "data", models_dir=models, auth="off"))
    assert app.test_client().get("/health/ready").json["checks"]["models"]["ok"] is True
    # Whoever reads a pipe waits for as long as somebody may write, as for a share whose server is gone.
    pipe = models / "hung.json"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    with ThreadPoolExecutor(1) as pool:
        try:
            answer = pool.submit(app.test_client().get, "/health/ready").result(timeout=30)
        finally:
            pipe.unlink()
            os.close(writer)
    check = answer.json["checks"]["models"]
    assert (answer.status_code, check["ok"], "not answered" in check["reason"]) == (503, False, True)


def test_a_default_model_that_cannot_be_served_is_not_ready_and_said_at_the_start(tmp_path, caplog):
    models = tmp_path / "models"
    tiny_model(models, "tiny", 500.0)
    (models / "tiny.json").write_text("{")
    app = create_app(Settings(_env_file=None, data_dir=tmp_path / "data", models_dir=models))
    check = app.test_client().get("/health/ready").json["checks"]["models"]
    assert (check["ok"], "tiny.json" in check["reason"]) == (False, True)
    assert "tiny.json" in caplog.text


def test_weights_that_a_worker_cannot_load_are_not_ready(tmp_path):
    models = tmp_path / "models"
    tiny_model(models, "tiny", 500.0)
    weights = next(models.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", models_dir=models, device="cpu")
    runner = Runner(settings)
    runner.preload()
    run_housekeeping(runner)
    check = create_app(settings).test_client().get("/health/ready").json["checks"]["worker"]
    assert (check["ok"], "cannot be loaded" in check["reason"]) == (False, True)
    runner.sessions.kw["bind"].dispose()


def test_a_model_whose_files_were_replaced_is_the_one_that_segments(tmp_path):
    models = tmp_path / "models"
    tiny_model(models, "tiny", 500.0)
    settings = Settings(
        _env_file=None, data_dir=tmp_path / "data", models_dir=models, device="cpu", auth="off"
    )
    runner = Runner(settings)
    runner.preload()
    spec = json.loads((models / "tiny.json").read_text())
    (models / "tiny.json").write_text(json.dumps(spec | {"version": "9.9.9"}))
    study = add_study(settings, 1)
    job = jobs.submit(runner.sessions, study, "tiny").id
    runner.run(job)
    client = create_app(settings).test_client()
    (served,) = client.get("/models").json["models"]
    (document,) = client.get(f"/studies/{study}/segmentations").json["segmentations"]
    assert document["model"]["version"] == served["version"] == "9.9.9"
    runner.sessions.kw["bind"].dispose()
