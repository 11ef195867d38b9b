"""Limits that hold whatever an archive sends, byte by byte: real sockets and none of HTTP's own patience."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from errors import ArchiveRefused, ArchiveTimeout
from orthanc import archive, replies
from orthanc.archive import open_archive
from settings import Settings

Speech = Iterator[bytes]


@contextmanager
def speaking(speech: Callable[[], Speech], pause_s: float) -> Iterator[str]:
    """An archive that answers each connection with the speech, a piece per pause_s; yields its URL."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                for piece in speech():
                    connection.sendall(piece)
                    if over.wait(pause_s):
                        return
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/dicom-web"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()


def archive_at(url: str) -> archive.Archive:
    return open_archive(
        Settings(
            _env_file=None, dicomweb_url=url,
            dicomweb_connect_timeout_s=1, dicomweb_read_timeout_s=1, dicomweb_total_timeout_s=2,
        )
    )  # fmt: skip


def endless(head: bytes, piece: bytes) -> Callable[[], Speech]:
    def speech() -> Speech:
        yield head
        while True:
            yield piece

    return speech


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n"


@pytest.mark.parametrize(
    "speech",
    [
        endless(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        endless(JSON_HEAD + b"[", b" "),
    ],
    ids=["header", "100 Continue", "body"],
)
def test_an_archive_that_trickles_meets_the_total_limit(speech):
    with speaking(speech, 0.05) as url, pytest.raises(ArchiveTimeout):
        archive_at(url).search_studies(PatientID="1")
    with speaking(speech, 0.05) as url, pytest.raises(ArchiveTimeout):
        archive_at(url).check()


def test_json_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(replies, "MAX_JSON_BYTES", 8 << 20)
    with speaking(endless(JSON_HEAD + b"[", b" " * 65536), 0.0) as url, pytest.raises(ArchiveRefused):
        archive_at(url).search_studies(PatientID="1")


@pytest.mark.parametrize("depth", [400, 50_000])
def test_json_nested_beyond_reason_is_refused(depth):
    nested = b'[{"00081115": {"vr": "SQ", "Value": ' * depth + b"[]" + b"}}]" * depth
    head = JSON_HEAD.replace(b"\r\n\r\n", f"\r\nContent-Length: {len(nested)}\r\n\r\n".encode())
    with speaking(lambda: iter([head + nested]), 0.0) as url, pytest.raises(ArchiveRefused):
        archive_at(url).search_studies(PatientID="1")
