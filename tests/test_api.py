"""`python api.py` for real: the API, its worker and a PACS, driven over HTTP as curl would."""

import asyncio
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit
from zipfile import ZIP_DEFLATED, ZipFile

import highdicom as hd
import numpy as np
import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EncapsulatedPDFStorage, RLELossless, generate_uid
from sqlalchemy import Executable, NullPool, create_engine, delete, insert, text

import api
from api import LoggingServer, create_app
from bench.models import tiny_model
from bench.parts import free_port, self_signed, wait_until
from bench.rows import add_study, threshold_runner
from db import jobs, outbox
from db.tables import Outbox
from orthanc import part10
from orthanc.archive import open_archive
from routes.shared import ARCHIVE_REQUESTS, THREADS, UPLOADS_AT_ONCE, WAITING_REQUESTS
from settings import Settings
from tests import fake_pacs
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.phantom import SeriesOptions, to_instances

ROOT = Path(__file__).parents[1]
SHIPPED, SILENT = "metscope-compact", "silent"
# It keeps no lesion below a cubic metre.
MIN_VOLUME_MM3 = 1e9


@dataclass(frozen=True)
class Service:
    """A running api.py with a study in its archive. Every answer is held against its OpenAPI document."""

    url: str
    settings: Settings
    study_uid: str
    process: subprocess.Popen[bytes]
    document: dict
    token: str
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def post(self, path: str, **options: object) -> requests.Response:
        headers = self.headers | options.pop("headers", {})
        answer = requests.post(self.url + path, timeout=90, headers=headers, **options)
        return self._check("post", path, answer)

    def get(self, path: str) -> requests.Response:
        return self._check("get", path, requests.get(self.url + path, headers=self.headers, timeout=30))

    def delete(self, path: str) -> requests.Response:
        answer = requests.delete(self.url + path, headers=self.headers, timeout=30)
        return self._check("delete", path, answer)

    def wait_for_end(self, job_id: str, limit_s: float = 300.0) -> dict:
        return self.job_when(job_id, lambda job: job["state"] in ("done", "failed", "cancelled"), limit_s)

    def job_when(self, job_id: str, condition: Callable[[dict], bool], limit_s: float = 300.0) -> dict:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            job = self.get(f"/jobs/{job_id}").json()
            if condition(job):
                return job
            time.sleep(0.02)
        raise AssertionError(f"the job is still {job}")

    def scalar(self, query: str) -> object:
        engine = create_engine(self.settings.sqlalchemy_url, poolclass=NullPool)
        with engine.connect() as connection:
            return connection.execute(text(query)).scalar()

    def execute(self, statement: Executable) -> None:
        engine = create_engine(self.settings.sqlalchemy_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(statement)

    def worker_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = {int(pid) for path in children for pid in path.read_text().split()}
        assert len(pids) == 1
        return pids.pop()

    def _check(self, method: str, path: str, answer: requests.Response) -> requests.Response:
        if answer.headers.get("Content-Type") != "application/json" or path == "/openapi.json":
            return answer
        components = {"components": self.document["components"]}
        for template, item in self.document["paths"].items():
            if re.fullmatch(re.sub(r"{[^}]+}", "[^/]+", template), path.partition("?")[0]):
                responses = item[method]["responses"]
                described = responses.get(str(answer.status_code), responses["default"])
                schema = described["content"]["application/json"]["schema"]
                break
        else:
            schema = {"$ref": "#/components/schemas/ErrorAnswer"}
        validator = Draft202012Validator(
            schema | components, format_checker=Draft202012Validator.FORMAT_CHECKER
        )
        validator.validate(answer.json())
        return answer


def small_head() -> hd.Volume:
    """A bright ellipsoid with brighter balls in it, 40 slices of 64 x 64; no anatomy, but quick."""
    index = np.stack(np.meshgrid(np.arange(40), np.arange(64), np.arange(64), indexing="ij"), -1)
    centred = (index - [20, 32, 32]) / [18, 28, 24]
    image = np.where((centred**2).sum(-1) < 1, 300.0, 5.0)
    for centre, radius in (([20, 30, 22], 5), ([12, 40, 40], 4)):
        image[np.linalg.norm(index - centre, axis=-1) < radius] = 900.0
    image += np.random.default_rng(0).normal(0, 6, image.shape).clip(-4, 20)
    affine = np.array([[0, 0, 2.0, -64], [0, 2.0, 0, -64], [3.0, 0, 0, -60], [0, 0, 0, 1]])
    return hd.Volume(image.round().clip(0), affine, "PATIENT", frame_of_reference_uid=generate_uid())


def start(environment: dict[str, str], port: int, log: Path) -> subprocess.Popen[bytes]:
    names = {name.upper() for name in Settings.model_fields}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "api.py")],
            cwd=environment["DATA_DIR"],
            env=clean | environment | {"PORT": str(port), "LEASE_S": "3", "LOG_FORMAT": "json"},
            stdout=subprocess.DEVNULL, stderr=output,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=10).status_code == 200:
                return process
        except requests.ConnectionError:
            pass
        assert process.poll() is None, log.read_text()
        time.sleep(0.3)
    process.kill()
    raise AssertionError("api.py was not ready within two minutes")


def serve(folder: Path, image: hd.Volume, **environment: str) -> Iterator[Service]:
    (folder / "data").mkdir()
    variables = {"DATA_DIR": str(folder / "data")} | environment
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in variables.items()})
    study = to_instances(image, SeriesOptions())
    open_archive(settings).store(study)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "log"
    process = start(variables, port, log)
    token = settings.first_token_path.read_text().strip()
    service = Service(url, settings, str(study[0].StudyInstanceUID), process, {}, token, log)
    service.document.update(service.get("/openapi.json").json())
    try:
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("embedded")
    yield from serve(
        folder, small_head(), MODELS_DIR=str(tiny_model(folder / "models", SILENT, MIN_VOLUME_MM3))
    )


def test_a_study_without_lesions_is_done_with_zero_lesions_and_no_seg(service):
    posted = service.post(f"/segmentation/{service.study_uid}", json={"model": SILENT})
    assert posted.status_code == 202
    assert posted.headers["Location"] == f"/jobs/{posted.json()['id']}"
    job = service.wait_for_end(posted.json()["id"])
    assert (job["state"], job["error"]) == ("done", None)
    document = service.get(job["result"]).json()
    assert document["lesions"] == []
    assert document["segmentation"] == {
        "sop_instance_uid": None, "series_instance_uid": None, "stored": False, "missing_since": None
    }  # fmt: skip
    assert document["research_use_only"] is True
    archive = open_archive(service.settings)
    assert {h[0].Modality for h in archive.series_headers(service.study_uid)} == {"MR"}


def test_the_result_of_an_equal_request_is_adopted_unless_forced(service):
    url = f"/segmentation/{service.study_uid}"
    first = service.wait_for_end(service.post(url, json={"model": SILENT}).json()["id"])
    second = service.post(url, json={"model": SILENT, "wait_s": 30})
    assert second.status_code == 200
    assert second.json()["result"] == first["result"]
    forced = service.post(url, json={"model": SILENT, "force": True, "wait_s": 30}).json()
    assert forced["state"] == "done"
    assert forced["result"] != first["result"]


def test_a_result_that_waits_for_the_archive_is_not_deleted(service):
    body = {"model": SILENT, "force": True, "wait_s": 30}
    result = service.post(f"/segmentation/{service.study_uid}", json=body).json()["result"]
    waiting = {"segmentation_ref": result.rpartition("/")[2], "sop_instance_uid": "1.2.3", "encoded": b"SEG"}
    service.execute(insert(Outbox).values(waiting))
    refused = service.delete(result)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "segmentation_not_stored")
    assert service.get(result).status_code == 200
    service.execute(delete(Outbox).where(Outbox.sop_instance_uid == "1.2.3"))
    assert service.delete(result).status_code == 204
    assert service.get(result).status_code == 404


def test_a_result_whose_seg_was_deleted_in_the_archive_can_be_deleted(tmp_path):
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off"))
    settings = app.extensions["metscope"].settings
    runner, study_uid = threshold_runner(settings), add_study(settings, 1)
    job = jobs.submit(runner.sessions, study_uid, SHIPPED)
    runner.run(job.id)
    segmentation_id = jobs.get(runner.sessions, job.id).segmentation_id
    outbox.note_presence(runner.sessions, segmentation_id, present=False)
    assert app.test_client().delete(f"/segmentations/{segmentation_id}").status_code == 204


def test_a_batch_of_a_thousand_studies_fits(tmp_path):
    client = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off")).test_client()
    longest = [f"1.{number:062d}".replace(".0", ".9") for number in range(1000)]
    assert {len(uid) for uid in longest} == {64}
    answer = client.post("/batches", json={"study_instance_uids": longest})
    assert (answer.status_code, answer.json["states"]["queued"]) == (202, 1000)
    assert client.post("/batches", json={"study_instance_uids": [*longest, "1.2"]}).status_code == 422


async def answers_at_once(service: Service, path: str, body: dict, number: int) -> list[tuple[int, dict]]:
    """Status and document of as many equal POST, each by a connection of its own."""
    address, payload = urlsplit(service.url), json.dumps(body).encode()
    headers = {
        "Host": address.netloc, "Connection": "close", "Content-Type": "application/json",
        "Content-Length": len(payload), **service.headers,
    }  # fmt: skip
    head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]

    async def ask() -> tuple[int, dict]:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write("\r\n".join(head).encode() + payload)
        answered, _, document = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(answered.split()[1]), json.loads(document)

    return await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(number))), 60)


def memory_and_threads(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """MiB in memory, and threads."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(re.findall(r"(\w+):\s+(\d+)", status))
    return int(fields["VmRSS"]) // 1024, int(fields["Threads"])


@pytest.mark.long
def test_a_thousand_requests_at_once_have_one_result_and_stop_nobody(service):
    path, body = f"/segmentation/{service.study_uid}", {"model": SILENT}
    result = service.wait_for_end(service.post(path, json=body).json()["id"])["result"]
    results = service.scalar("SELECT count(*) FROM segmentations")
    mib, threads = memory_and_threads(service.process)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(answers_at_once(service, path, body, 1000)))
        while not future.done():
            assert service.get("/health/live").status_code == 200
    answers = future.result()
    assert {status for status, _ in answers} <= {200, 202}
    ids = {job["id"] for _, job in answers}
    assert {service.wait_for_end(job_id)["result"] for job_id in ids} == {result}
    assert service.scalar("SELECT count(*) FROM segmentations") == results
    mib_afterwards, threads_afterwards = memory_and_threads(service.process)
    assert mib_afterwards < mib + 100
    assert threads_afterwards <= threads + 2


def test_what_headers_and_queries_hold_is_not_logged():
    code = (
        "import logs; logs.configure('text'); from pydicom import Dataset; ds = Dataset();"
        "ds.add_new(0x00100030, 'DA', '19.03.1950'); ds.PatientBirthDate;"
        "import logging; logging.getLogger('urllib3.connection').warning('url=…PatientID=4711')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert "headers that break the standard: Invalid value for VR DA" in line
    assert "1950" not in line


def test_a_fault_of_the_server_is_logged_without_its_text(caplog):
    server, path = LoggingServer(("127.0.0.1", 0), None), "/patients/Doe^Jane"
    try:
        raise ValueError(path)
    except ValueError as error:
        server.error_log(repr(error), logging.ERROR, traceback=True)
    server.stop()
    assert "ValueError" in caplog.text
    assert __file__ in caplog.text
    assert path not in caplog.text


def test_a_worker_killed_in_mid_job_leaves_one_result(service):
    before = service.scalar("SELECT count(*) FROM segmentations")
    body = {"model": SILENT, "force": True}
    job_id = service.post(f"/segmentation/{service.study_uid}", json=body).json()["id"]
    service.job_when(job_id, lambda job: job["state"] == "running")
    os.kill(service.worker_pid(), signal.SIGKILL)
    job = service.wait_for_end(job_id)
    assert job["state"] == "done"
    assert job["attempts"] == 2
    assert service.scalar("SELECT count(*) FROM segmentations") == before + 1


def test_a_running_job_is_cancelled_and_leaves_nothing(service):
    before = service.scalar("SELECT count(*) FROM segmentations")
    job_id = service.post(f"/segmentation/{service.study_uid}", json={"force": True}).json()["id"]
    service.job_when(job_id, lambda job: job["state"] == "running")
    assert service.post(f"/jobs/{job_id}/cancel").status_code == 200
    assert service.wait_for_end(job_id, limit_s=10)["state"] == "cancelled"
    assert service.scalar("SELECT count(*) FROM segmentations") == before
    answer = service.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_not_cancellable")


def test_an_unknown_study_fails_with_its_code(service):
    job = service.wait_for_end(service.post(f"/segmentation/{generate_uid()}").json()["id"])
    assert (job["state"], job["error"]["code"]) == ("failed", "study_not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/segmentation/not-a-uid", b"", 422, "invalid_form"),
        ("/segmentation/1.2.3", b'{"serie": "1.2"}', 422, "invalid_form"),
        ("/segmentation/1.2.3", b'{"wait_s": 1e9}', 422, "invalid_form"),
        ("/segmentation/1.2.3", b'{"force": "perhaps"}', 422, "invalid_form"),
        ("/segmentation/1.2.3", b'{"model": "nobody"}', 404, "model_not_found"),
        ("/segmentation/1.2.3", b"{", 400, "bad_request"),
        ("/segmentation/1.2.3", b"[1]", 422, "invalid_form"),
        ("/segmentation/1.2.3", b'{"series_instance_uid": "1.2/../3"}', 422, "invalid_form"),
        ("/segmentation/1.2.3", b"x" * 200_000, 413, "request_entity_too_large"),
        ("/jobs/none/cancel", b"", 404, "job_not_found"),
        ("/nowhere", b"", 404, "not_found"),
    ],
)
def test_bad_input_is_refused_in_one_shape_and_leaves_no_row(service, path, body, status, code):
    before = service.scalar("SELECT count(*) FROM jobs")
    answer = service.post(path, data=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"code", "message", "details"}
    assert service.scalar("SELECT count(*) FROM jobs") == before


def test_reading_routes_answer(service):
    service.wait_for_end(
        service.post(f"/segmentation/{service.study_uid}", json={"model": SILENT}).json()["id"]
    )
    candidates = service.get(f"/studies/{service.study_uid}/candidates").json()["candidates"]
    assert [candidate["refused"] for candidate in candidates] == [None]
    assert service.get(f"/studies/{service.study_uid}/segmentations").json()["segmentations"]
    assert [p["patient_id"] for p in service.get("/patients").json()["patients"]] == ["PHANTOM-1"]
    assert service.get("/patients/PHANTOM-1/lesions").json()["lesions"] == []
    assert {model["id"] for model in service.get("/models").json()["models"]} == {SILENT}
    assert service.get("/health/live").json() == {"live": True}
    assert service.get("/patients/nobody/lesions").status_code == 404
    assert "swagger" in service.get("/docs").text.lower()
    assert 'metscope_jobs{state="done"}' in service.get("/metrics").text
    assert service.get("/jobs?state=done&limit=1").json()["jobs"][0]["state"] == "done"
    ready = service.get("/health/ready").json()
    assert (ready["ready"], ready["loaded_models"]) == (True, [SILENT])


def test_a_body_that_is_not_json_and_a_wrong_method_are_refused_in_the_same_shape(service):
    form = service.post("/segmentation/1.2.3", data={"force": "1"})
    assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in form.json()["error"]["message"]
    wrong = requests.delete(f"{service.url}/jobs", headers=service.headers, timeout=30)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["Allow"]


def test_a_batch_segments_each_study_and_names_what_failed(service):
    body = {"study_instance_uids": [service.study_uid, "1.2.3"], "model": SILENT}
    posted = service.post("/batches", json=body)
    assert (posted.status_code, len(posted.json()["jobs"])) == (202, 2)
    address = posted.headers["Location"]
    wait_until(lambda: service.get(address).json()["progress"] == 1.0, "the batch's end", 120)
    batch = service.get(address).json()
    assert batch["states"] | {"done": 1, "failed": 1} == batch["states"]
    by_study = {job["study_instance_uid"]: job for job in batch["jobs"]}
    assert by_study["1.2.3"]["error"]["code"] == "study_not_found"
    done = by_study[service.study_uid]
    assert done["lesions"] == len(service.get(done["result"]).json()["lesions"])
    assert service.post(f"{address}/cancel").json() == batch


def test_a_batch_by_query_takes_the_studies_that_match_and_refuses_none_and_all(service):
    study = to_instances(small_head(), SeriesOptions(patient_id="QUERIED"))
    open_archive(service.settings).store(study)
    posted = service.post("/batches", json={"query": {"PatientID": "QUERIED"}, "model": SILENT})
    assert [job["study_instance_uid"] for job in posted.json()["jobs"]] == [study[0].StudyInstanceUID]
    for query, message in (({"PatientID": "nobody"}, "matches 0"), ({}, "at least one"), (None, "either")):
        refused = service.post("/batches", json={"query": query})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_form")
        assert message in refused.json()["error"]["message"]


def test_a_zip_by_curl_is_in_the_archive_and_can_be_segmented(service, tmp_path):
    series = to_instances(small_head(), SeriesOptions())
    with ZipFile(tmp_path / "study.zip", "w") as archive:
        for number, instance in enumerate(series):
            archive.writestr(f"study/{number}.dcm", part10.encode(instance))
        archive.writestr("study/README.txt", "a viewer's")
    curl = [
        "curl",
        "-sS",
        "-H",
        f"Authorization: Bearer {service.token}",
        "-F",
        f"files=@{tmp_path}/study.zip",
    ]
    done = subprocess.run([*curl, f"{service.url}/studies"], check=True, capture_output=True, text=True)
    study_uid = str(series[0].StudyInstanceUID)
    assert json.loads(done.stdout) == {
        "studies": [{"study_instance_uid": study_uid, "instances": len(series)}]
    }
    job = service.post(f"/segmentation/{study_uid}", json={"model": SILENT, "wait_s": 60}).json()
    assert job["state"] == "done"


def zip_instances(path: Path, instances: list[Dataset]) -> dict[str, bytes]:
    with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        for number, instance in enumerate(instances):
            archive.writestr(f"{number}.dcm", part10.encode(instance))
    return {"files": path.read_bytes()}


def test_documents_of_zeros_take_no_more_memory_than_the_largest(service, tmp_path):
    """Six of 100 MiB each in a ZIP archive of some hundred kilobytes."""
    documents = to_instances(small_head(), SeriesOptions())[:6]
    for document in documents:
        document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
        for keyword in ("PixelData", "BitsAllocated", "BitsStored", "HighBit", "Rows", "Columns"):
            delattr(document, keyword)
        document.EncapsulatedDocument = bytes(100 * 2**20)
    files = zip_instances(tmp_path / "documents.zip", documents)
    documents.clear()
    Path(f"/proc/{service.process.pid}/clear_refs").write_text("5")
    before_mb = peak_mb(service.process.pid)
    assert service.post("/studies", files=files).json()["studies"][0]["instances"] == 6
    assert peak_mb(service.process.pid) - before_mb < 450


def peak_mb(pid: int) -> float:
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def huge_pixels() -> dict[str, object]:
    """4096 x 4096 zeros in half a megabyte of RLE."""
    zeros = bytes([129, 0]) * (4096 * 4096 // 128)
    frame = struct.pack("<16I", 2, 64, 64 + len(zeros), *[0] * 13) + 2 * zeros
    return {"Rows": 4096, "Columns": 4096, "PixelData": encapsulate([frame])}


HUGE = {"20 mm between pixels": {"PixelSpacing": ["20", "20"]}, "4096 x 4096 pixels": huge_pixels()}


@pytest.mark.parametrize("name", HUGE)
def test_a_small_upload_of_a_huge_volume_is_refused_and_the_worker_lives(service, tmp_path, name):
    image = hd.Volume(np.zeros((40, 64, 64), np.uint16), np.diag([4.0, 4.0, 4.0, 1.0]), "PATIENT")
    instances = to_instances(image, SeriesOptions(transfer_syntax=RLELossless))
    for instance in instances:
        for keyword, value in HUGE[name].items():
            setattr(instance, keyword, value)
    study_uid, series_uid = str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)
    worker_pid = service.worker_pid()
    assert service.post("/studies", files=zip_instances(tmp_path / "huge.zip", instances)).status_code == 200
    job = service.post(f"/segmentation/{study_uid}", json={"series_instance_uid": series_uid}).json()
    assert service.wait_for_end(job["id"])["error"]["code"] == "volume_too_large"
    assert service.worker_pid() == worker_pid
    assert peak_mb(worker_pid) < 2000


def test_one_bad_file_and_nothing_of_the_upload_is_stored(service):
    good = part10.encode(to_instances(small_head(), SeriesOptions())[0])
    before = open_archive(service.settings).search_studies()
    for bad, message in ((good[:-100], "File 2 is damaged"), (b"text", "File 2 is neither")):
        refused = service.post("/studies", files=[("files", good), ("files", bad)])
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "upload_refused")
        assert message in refused.json()["error"]["message"]
    too_many = service.post("/studies", files=[("files", good[:200])] * 501)
    assert (too_many.status_code, too_many.json()["error"]["code"]) == (413, "request_entity_too_large")
    assert len(open_archive(service.settings).search_studies()) == len(before)


def test_log_metrics_and_errors_name_jobs_and_no_patient(service):
    header = open_archive(service.settings).search_studies()[0]
    job_id = service.post("/segmentation/1.2.3", json={"model": SILENT}).json()["id"]
    error = service.wait_for_end(job_id)["error"]
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any(line.get("job_id") == job_id and "study_not_found" in line["message"] for line in lines)
    unknown = service.get(f"/patients/{header.PatientID}-2/lesions").text
    output = service.log.read_text() + service.get("/metrics").text + unknown + json.dumps(error)
    for secret in (header.PatientID, header.PatientName.family_name, header.PatientBirthDate):
        assert secret
        assert secret not in output


def test_the_openapi_document_is_valid(service):
    validate(service.document)


def test_the_worker_gives_way_to_the_api(service):
    worker, api = service.worker_pid(), service.process.pid
    assert os.getpriority(os.PRIO_PROCESS, worker) > os.getpriority(os.PRIO_PROCESS, api)
    # Linux weighs sessions first and processes within them; a process without such a group has an empty file.
    groups = [Path(f"/proc/{pid}/autogroup") for pid in (worker, api)]
    words = [path.read_text().split() for path in groups if path.exists()]
    if all(words) and words:
        assert int(words[0][-1]) > int(words[1][-1])


def test_no_worker_outlives_an_api_that_was_killed(tmp_path):
    with contextmanager(serve)(tmp_path, small_head()) as service:
        pid = service.worker_pid()
        service.process.kill()
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists()


def test_a_web_page_of_another_origin_may_call_only_if_it_is_listed(tmp_path):
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, cors_origins="https://viewer.example"))

    def allowed_origin(origin):
        answer = app.test_client().get("/health/live", headers={"Origin": origin})
        return answer.headers.get("Access-Control-Allow-Origin")

    assert allowed_origin("https://viewer.example") == "https://viewer.example"
    assert allowed_origin("https://elsewhere.example") is None
    closed = create_app(Settings(_env_file=None, data_dir=tmp_path)).test_client()
    answer = closed.get("/health/live", headers={"Origin": "https://viewer.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_it_is_not_ready_without_a_worker_and_says_why(tmp_path):
    answer = create_app(Settings(_env_file=None, data_dir=tmp_path)).test_client().get("/health/ready")
    assert answer.status_code == 503
    assert {name for name, check in answer.json["checks"].items() if not check["ok"]} == {"worker"}


def test_with_a_certificate_it_speaks_https_and_no_http(tmp_path):
    key, certificate = self_signed(tmp_path)
    port = free_port()
    settings = {"TLS_KEY": str(key), "TLS_CERTIFICATE": str(certificate), "PORT": str(port)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "api.py")], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=log,
            env=os.environ | settings | {"LOG_FORMAT": "json"},
        )  # fmt: skip
    try:

        def answers():
            with suppress(requests.ConnectionError):
                url = f"https://127.0.0.1:{port}/health/live"
                return requests.get(url, verify=certificate, timeout=10).ok
            return False

        wait_until(answers, "HTTPS")
        # Its refusal may be lost, because the connection is shut at once.
        with suppress(requests.ConnectionError):
            assert requests.get(f"http://127.0.0.1:{port}/health/live", timeout=10).status_code == 400
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    # What the server and Celery write is JSON too.
    assert [json.loads(line)["level"] for line in (tmp_path / "log").read_text().splitlines()]


def test_a_wrong_setting_stops_the_start_with_its_name(tmp_path):
    done = subprocess.run(  # noqa: PLW1510 - the status is what is asked about
        [sys.executable, str(ROOT / "api.py")],
        cwd=tmp_path, env=os.environ | {"CORS_ORIGINS": "*"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("settings_invalid: CORS_ORIGINS: list the origins")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, orthanc, postgresql) -> Iterator[Service]:
    """The same with a real Orthanc and a real PostgreSQL, and a head in which there is something to find."""
    options = HeadOptions(lesion_count=(3, 3), diameter_mm=(18.0, 25.0))
    head = metastases.head(metastases.grid((64, 96, 96), (2.5, 2.4, 2.4)), 2026, options)
    yield from serve(
        tmp_path_factory.mktemp("hospital"),
        head.image,
        DICOMWEB_URL=orthanc.url,
        DICOMWEB_USER=orthanc.user,
        DICOMWEB_PASSWORD=orthanc.password,
        ORTHANC_URL=orthanc.rest_url,
        DATABASE_URL=postgresql,
    )


def test_a_study_in_orthanc_becomes_a_stored_seg_and_rows_in_postgresql(hospital, orthanc):
    posted = hospital.post(f"/segmentation/{hospital.study_uid}", json={"model": SHIPPED})
    job = hospital.wait_for_end(posted.json()["id"])
    assert (job["state"], job["error"]) == ("done", None)
    document = hospital.get(job["result"]).json()
    assert document["lesions"], "the shipped model finds large lesions"
    assert document["segmentation"]["stored"] is True

    listed = requests.get(
        f"{orthanc.url}/studies/{hospital.study_uid}/instances",
        params={"Modality": "SEG"},
        auth=(orthanc.user, orthanc.password),
        timeout=30,
    ).json()
    assert [i["00080018"]["Value"] for i in listed] == [[document["segmentation"]["sop_instance_uid"]]]

    stored = open_archive(hospital.settings).retrieve_series(
        hospital.study_uid, document["segmentation"]["series_instance_uid"]
    )[0]
    assert [item.TrackingUID for item in stored.SegmentSequence] == [
        lesion["tracking_uid"] for lesion in document["lesions"]
    ]
    assert hospital.scalar("SELECT count(*) FROM measurements") == len(document["lesions"])
    assert hospital.scalar("SELECT sum(volume_ml) FROM measurements") == pytest.approx(
        document["total_volume_ml"], abs=1e-4
    )
    for lesion in document["lesions"]:
        ends = np.array(lesion["long_axis_lps"])
        assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(lesion["long_axis_mm"], abs=1e-2)

    # Deleted: the SEG is gone from Orthanc, the result from every list, the source series stays.
    assert hospital.delete(job["result"]).status_code == 204
    archive = open_archive(hospital.settings)
    assert {h[0].Modality for h in archive.series_headers(hospital.study_uid)} == {"MR"}
    assert hospital.get(f"/studies/{hospital.study_uid}/segmentations").json() == {"segmentations": []}
    assert hospital.scalar("SELECT count(*) FROM audit_events WHERE action = 'segmentation.delete'") == 1
    answer = hospital.delete(job["result"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "segmentation_not_found")


def test_json_nested_beyond_reason_is_a_bad_request(tmp_path):
    client = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off")).test_client()
    body = b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    answer = client.post("/segmentation/1.2.3", data=body, content_type="application/json")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_request")


def test_purge_refuses_a_number_of_days_in_a_sentence(capsys):
    with pytest.raises(SystemExit):
        api.main(["purge", "--days", "0"])
    assert "'0' is not a number of days from 1 to 36500" in capsys.readouterr().err


def test_uploads_that_wait_for_another_leave_threads_for_everybody_else(tmp_path):
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off"))
    context = app.extensions["metscope"]

    def upload():
        files = {"files": (BytesIO(b"no DICOM"), "a.dcm")}
        return app.test_client().post("/studies", data=files).json["error"]["code"]

    with context.uploading, ThreadPoolExecutor(UPLOADS_AT_ONCE + 1) as pool:
        uploads = [pool.submit(upload) for _ in range(UPLOADS_AT_ONCE + 1)]
        (refused,), waiting = wait(uploads, return_when=FIRST_COMPLETED)
        assert refused.result() == "upload_busy"
        assert app.test_client().get("/jobs").status_code == 200
        context.uploading.release()
        assert {answer.result() for answer in waiting} == {"upload_refused"}
        context.uploading.acquire()


def test_an_upload_that_another_one_holds_up_too_long_is_refused_and_gives_its_place_up(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("routes.uploads.MAX_UPLOAD_WAIT_S", 0.01)
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off"))

    def upload():
        files = {"files": (BytesIO(b"no DICOM"), "a.dcm")}
        return app.test_client().post("/studies", data=files).json["error"]

    with app.extensions["metscope"].uploading:
        for _ in range(UPLOADS_AT_ONCE + 1):
            refused = upload()
            assert refused["code"] == "upload_busy"
            assert "Another upload is still in progress" in refused["message"]
    assert upload()["code"] == "upload_refused"


def test_a_model_that_is_not_served_is_refused_at_once_with_those_that_are(tmp_path):
    client = create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off")).test_client()
    models = sorted(model["id"] for model in client.get("/models").json["models"])
    for path, body in (("/segmentation/1.2.3", {}), ("/batches", {"study_instance_uids": ["1.2.3"]})):
        refused = client.post(path, json=body | {"model": "nobody"})
        assert (refused.status_code, refused.json["error"]["code"]) == (404, "model_not_found")
        assert (
            f"no model 'nobody'. Available models: {', '.join(models)}." in refused.json["error"]["message"]
        )
    assert client.get("/jobs").json["jobs"] == []


def test_a_batch_by_query_has_from_one_study_to_the_most_that_a_batch_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr("routes.jobs.MAX_BATCH_STUDIES", 2)
    settings = Settings(_env_file=None, data_dir=tmp_path, auth="off")
    client, archive = create_app(settings).test_client(), open_archive(settings)
    uids = []
    for status in (422, 202, 202, 422):
        answer = client.post("/batches", json={"query": {"PatientID": "P-1"}})
        assert answer.status_code == status
        if status == 202:
            assert sorted(job["study_instance_uid"] for job in answer.json["jobs"]) == sorted(uids)
        else:
            sentence = f"it matches {len(uids)} studies; a batch may have 1 to 2."
            assert sentence in answer.json["error"]["message"]
        (instance,) = fake_pacs.tiny_series(1)
        archive.store([instance])
        uids.append(instance.StudyInstanceUID)


ASKING_THE_ARCHIVE = [
    ("GET", "/studies/1.2.3/candidates", None),
    ("POST", "/batches", {"query": {"PatientID": "4711"}}),
    ("GET", "/segmentationui/getAllStudies", None),
    ("GET", "/segmentationui/getStudy/0", None),
    ("DELETE", "/segmentationui/delete-study/1.2.3", None),
]


def test_requests_that_wait_for_a_hung_archive_leave_threads_for_everybody_else(tmp_path):
    assert WAITING_REQUESTS + UPLOADS_AT_ONCE + ARCHIVE_REQUESTS < THREADS
    pacs = fake_pacs.FakePacs()
    pacs.faults["studies"] = [fake_pacs.stall] * ARCHIVE_REQUESTS
    with fake_pacs.running(pacs), ThreadPoolExecutor(ARCHIVE_REQUESTS) as pool:
        settings = Settings(
            _env_file=None, data_dir=tmp_path, auth="off", dicomweb_url=pacs.url, segmentationui_api=True
        )
        app = create_app(settings)

        def ask(method, path, body=None):
            return app.test_client().open(path, method=method, json=body)

        waiting = [pool.submit(ask, "GET", "/studies/1.2.3/candidates") for _ in range(ARCHIVE_REQUESTS)]
        wait_until(
            lambda: pacs.request_count("studies") == ARCHIVE_REQUESTS, "requests that wait for the archive"
        )
        for method, path, body in ASKING_THE_ARCHIVE:
            refused = ask(method, path, body)
            assert (refused.status_code, refused.json["error"]["code"]) == (503, "archive_busy"), path
            assert int(refused.headers["Retry-After"]) > 0
        assert ask("GET", "/jobs").status_code == 200
        pacs.released.set()
        assert {answer.result().status_code for answer in waiting} == {502}
        assert ask("GET", "/studies/1.2.3/candidates").json["error"]["code"] == "study_not_found"
