"""The download of a public data set from a server on loopback that breaks off, lies, and knows no ranges."""

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from monai.apps import DecathlonDataset

from errors import DownloadFailed
from unetr.data.download_msd import BLOCK, TASK01, DatasetArchive, download

CONTENT = np.random.default_rng(1).bytes(3_000_000)
NAME = "Task01_BrainTumour"


def pack(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


TAR = pack({f"{NAME}/imagesTr/BRATS_001.nii.gz": CONTENT, f"{NAME}/dataset.json": b"{}"})


class Server:
    """Serves one file. Each request uses up one of ``faults``: cut, no_range, wrong, or an HTTP status."""

    def __init__(self, content: bytes, *faults: str) -> None:
        self.content = content
        self.faults = list(faults)
        self.begins: list[int] = []
        self.url = ""

    def archive(self, content: bytes | None = None) -> DatasetArchive:
        """What is expected of it: the file that it serves, or another one."""
        md5 = hashlib.md5(content or self.content, usedforsecurity=False).hexdigest()
        return DatasetArchive(NAME, self.url, md5)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        begin = int(re.fullmatch(r"bytes=(\d+)-", request.headers["Range"])[1])
        self.begins.append(begin)
        if fault.isdigit() or begin >= len(self.content):
            request.send_response(int(fault or 416))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = self.content
        if fault == "wrong":
            content = bytes(len(content) // 2) + content[len(content) // 2 :]
        if fault == "no_range":
            begin = 0
        request.send_response(200 if fault == "no_range" else 206)
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        end = (begin + len(content)) // 2 if fault == "cut" else len(content)
        request.wfile.write(content[begin:end])
        request.close_connection = True


@contextmanager
def running(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *arguments: object) -> None:
            """Silent: the faults are on purpose."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/{NAME}.tar"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def fetch(server: Server, out: Path, content: bytes | None = None) -> Path:
    return download(server.archive(content), out, pauses_s=(0.0, 0.0))


def list_names(out: Path) -> list[str]:
    """What is in the folder, hidden or not."""
    return sorted(path.name for path in out.iterdir())


def assert_whole(out: Path) -> None:
    assert list_names(out) == [NAME]
    assert (out / NAME / "imagesTr" / "BRATS_001.nii.gz").read_bytes() == CONTENT


def test_the_archive_arrives_and_is_unpacked_with_nothing_beside_it(tmp_path):
    with running(Server(TAR)) as server:
        assert fetch(server, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / NAME
        assert_whole(tmp_path / "new" / "folder")
        fetch(server, tmp_path / "new" / "folder")
    assert server.begins == [0]


def test_what_broke_off_is_gone_on_with(tmp_path):
    with running(Server(TAR, "cut", "503", "cut")) as server:
        fetch(server, tmp_path)
    first, second, third, fourth = server.begins
    assert (first, second) == (0, third)
    assert len(TAR) // 2 - BLOCK <= second <= len(TAR) // 2
    assert (second + len(TAR)) // 2 - BLOCK <= fourth <= (second + len(TAR)) // 2
    assert_whole(tmp_path)


def test_a_second_run_goes_on_where_the_first_one_gave_up(tmp_path):
    with running(Server(TAR, "cut", "503", "503", "503")) as server:
        with pytest.raises(DownloadFailed, match="503"):
            fetch(server, tmp_path)
        assert list_names(tmp_path) == [f"{NAME}.tar.part"]
        fetch(server, tmp_path)
    assert server.begins[-1] >= len(TAR) // 2 - BLOCK
    assert_whole(tmp_path)


def test_a_server_without_ranges_sends_all_of_it_again(tmp_path):
    with running(Server(TAR, "cut", "no_range")) as server:
        fetch(server, tmp_path)
    assert_whole(tmp_path)


def test_a_run_that_was_killed_before_it_checked_fetches_nothing_again(tmp_path):
    (tmp_path / f"{NAME}.tar.part").write_bytes(TAR)
    with running(Server(TAR)) as server:
        fetch(server, tmp_path)
    assert_whole(tmp_path)


def test_a_run_that_was_killed_while_it_unpacked_unpacks_anew(tmp_path):
    (tmp_path / f"{NAME}.tar").write_bytes(TAR)
    half = tmp_path / f".{NAME}.part" / NAME / "imagesTr"
    half.mkdir(parents=True)
    (half / "BRATS_001.nii.gz").write_bytes(CONTENT[:100])
    with running(Server(TAR)) as server:
        fetch(server, tmp_path)
    assert server.begins == []
    assert_whole(tmp_path)


def test_wrong_bytes_are_deleted(tmp_path):
    with running(Server(TAR, "wrong")) as server:
        with pytest.raises(DownloadFailed, match="MD5"):
            fetch(server, tmp_path)
        assert list_names(tmp_path) == []
        fetch(server, tmp_path)
    assert_whole(tmp_path)


@pytest.mark.parametrize("name", ["../evil.txt", f"{NAME}/../../evil.txt"])
def test_a_member_outside_of_the_folder_is_refused(tmp_path, name):
    evil = pack({f"{NAME}/dataset.json": b"{}", name: b"evil"})
    out = tmp_path / "out"
    with running(Server(evil)) as server, pytest.raises(DownloadFailed, match="unpacked"):
        fetch(server, out)
    assert not any(path.name.endswith("evil.txt") for path in tmp_path.rglob("*"))
    assert not (out / NAME).exists()


def test_a_member_of_absolute_name_stays_in_the_folder_too(tmp_path):
    evil = pack({f"{NAME}/dataset.json": b"{}", f"{tmp_path}/evil.txt": b"evil"})
    with running(Server(evil)) as server:
        fetch(server, tmp_path / "out")
    assert list_names(tmp_path) == ["out"]
    assert list_names(tmp_path / "out") == [NAME]


def test_an_archive_without_its_folder_is_refused(tmp_path):
    with running(Server(pack({"other/dataset.json": b"{}"}))) as server, pytest.raises(DownloadFailed):
        fetch(server, tmp_path)
    assert list_names(tmp_path) == [f"{NAME}.tar"]


@pytest.mark.parametrize("status", ["403", "404"])
def test_a_refusal_is_said_at_once(tmp_path, status):
    with running(Server(TAR, status)) as server, pytest.raises(DownloadFailed, match=f"HTTP {status}"):
        fetch(server, tmp_path)
    assert server.begins == [0]


def test_no_server_at_all(tmp_path):
    with running(Server(TAR)) as server:
        pass
    with pytest.raises(DownloadFailed, match="connection broke"):
        fetch(server, tmp_path)


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path):
    class Vast(Server):
        def answer(self, request: BaseHTTPRequestHandler) -> None:
            request.send_response(206)
            request.send_header("Content-Length", str(10**18))
            request.end_headers()
            request.close_connection = True

    with running(Vast(TAR)) as server, pytest.raises(DownloadFailed, match="GiB"):
        fetch(server, tmp_path)
    assert list_names(tmp_path) == []


def test_task01_is_where_monai_has_it():
    assert TASK01.url == DecathlonDataset.resource[NAME]
    assert TASK01.md5 == DecathlonDataset.md5[NAME]
