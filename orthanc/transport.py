"""HTTP to the archive: strict time limits, retries of requests that are safe to repeat, and our own errors.

Messages name the path but never the query, which may hold a patient's name or ID. For the same reason the
causes are not chained: their texts hold the whole URL.
"""

import io
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import requests
import urllib3

from errors import ArchiveError, ArchiveIncomplete, ArchiveRefused, ArchiveTimeout, ArchiveUnreachable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Params = Mapping[str, str | list[str]]

BACKOFF_S = (0.2, 0.4, 0.8)
NOT_FOUND_STATUSES = {404, 410}
TRANSIENT_STATUSES = {429, 502, 503, 504}
# A refused or dropped connection, a busy server, or a truncated answer.
RETRYABLE_ERRORS = (ArchiveUnreachable, ArchiveIncomplete)
READ_SIZE = 1 << 20
# Of the current exchange, by the monotonic clock.
DEADLINE: ContextVar[float] = ContextVar("deadline")


@dataclass(frozen=True)
class TransportLimits:
    """Time limits, s: for a connection, for silence while data arrives, for an exchange with its retries."""

    connect_s: float
    read_s: float
    total_s: float


@dataclass(frozen=True)
class Reply:
    """An answer whose body has not been read yet; chunks yields it within the limits."""

    status: int
    content_type: str
    chunks: Iterator[bytes]


class Transport:
    """An HTTP session with the archive at url."""

    def __init__(self, url: str, user: str, password: str, limits: TransportLimits) -> None:
        self._url = url
        self._limits = limits
        self._session = requests.Session()
        if user:
            self._session.auth = (user, password)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter())
        # Orthanc gzips pixel data for any client that accepts it, at a hundred times the cost of sending it.
        self._session.headers["Accept-Encoding"] = "identity"

    def get(
        self, path: str, accept: str, read: Callable[[Reply], T], params: Params | None = None
    ) -> T | None:
        """Send a GET and return what `read` makes of the answer; None if nothing is there (404, 410).

        Errors of RETRYABLE_ERRORS are retried up to three times, each time from the start. A time limit that
        ran out is not retried: the caller was promised that limit.
        Raises: ArchiveUnreachable, ArchiveTimeout, ArchiveRefused, ArchiveIncomplete, and what read raises.
        """
        deadline = time.monotonic() + self._limits.total_s
        for pause_s in BACKOFF_S:
            try:
                return self._get_once(path, accept, read, params, deadline)
            except RETRYABLE_ERRORS as error:
                if time.monotonic() + pause_s >= deadline:
                    raise
                logger.warning("GET %s: %s; retry in %.1f s", path, error.code, pause_s)
                time.sleep(pause_s)
        return self._get_once(path, accept, read, params, deadline)

    def probe(self, path: str, accept: str, read: Callable[[Reply], T]) -> T | None:
        """Do ``get`` once, within the time limit of a connection. Raises: as get."""
        return self._get_once(path, accept, read, None, time.monotonic() + self._limits.connect_s)

    def _get_once(
        self,
        path: str,
        accept: str,
        read: Callable[[Reply], T],
        params: Params | None,
        deadline: float,
    ) -> T | None:
        with self._exchange("GET", path, deadline, params=params, headers={"Accept": accept}) as reply:
            if reply.status in NOT_FOUND_STATUSES:
                return None
            if not 200 <= reply.status < 300:
                raise ArchiveRefused(f"The archive answered GET {path} with HTTP {reply.status}.")
            return read(reply)

    def post(self, path: str, content_type: str, body: bytes, read: Callable[[Reply], T]) -> T:
        """Send a POST and return what `read` makes of the answer, whatever its status.

        It is sent once: only the caller knows whether it is safe to repeat.
        Raises: ArchiveUnreachable, ArchiveTimeout, ArchiveRefused, ArchiveIncomplete, and what read raises.
        """
        deadline = time.monotonic() + self._limits.total_s
        headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
        upload = _Upload(body, deadline)
        with self._exchange("POST", path, deadline, data=upload, headers=headers) as reply:
            return read(reply)

    def delete(self, path: str) -> None:
        """Delete the resource; return also if nothing is there.

        Raises: ArchiveUnreachable, ArchiveTimeout, ArchiveRefused.
        """
        with self._exchange("DELETE", path, time.monotonic() + self._limits.total_s) as reply:
            if not 200 <= reply.status < 300 and reply.status not in NOT_FOUND_STATUSES:
                raise ArchiveRefused(f"The archive answered DELETE {path} with HTTP {reply.status}.")

    @contextmanager
    def _exchange(self, method: str, path: str, deadline: float, **request: Any) -> Iterator[Reply]:
        limits = self._limits
        DEADLINE.set(deadline)
        left_s = max(0.001, deadline - time.monotonic())
        timeout = (min(limits.connect_s, left_s), min(limits.read_s, left_s))
        action = f"{method} {path}"
        with _our_errors(action, deadline):
            # Orthanc does not decode %2A and %2C: wildcards and lists must be sent as they are.
            query = urlencode(request.pop("params", None) or {}, doseq=True, safe="*?,", quote_via=quote)
            response = self._session.request(
                method, f"{self._url}/{path}", stream=True, timeout=timeout, params=query, **request
            )
            with response:
                _raise_for_access(response.status_code, action)
                content_type = response.headers.get("Content-Type", "")
                yield Reply(response.status_code, content_type, _chunks(response))


class _Upload(io.BytesIO):
    """A body that is sent in blocks: sent as a whole, it would have to leave within the connect limit."""

    def __init__(self, body: bytes, deadline: float) -> None:
        super().__init__(body)
        self._deadline = deadline

    def read(self, size: int | None = -1) -> bytes:
        _check(self._deadline)
        return super().read(size)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    # read1 returns what has arrived; read would wait for a full block.
    while chunk := response.raw.read1(READ_SIZE, decode_content=True):
        yield chunk


class _BoundedFile(io.RawIOBase):
    """The data that arrive at a socket before DEADLINE. The socket's own timeout limits one silence only: a
    server that sends a byte per second, of a header or a body, never exceeds it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._silence_s = connection.gettimeout()
        self._file = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _check(DEADLINE.get())
        left_s = max(0.001, DEADLINE.get() - time.monotonic())
        self._socket.settimeout(min(left_s, self._silence_s or left_s))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedFile(sock))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _TLSConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS = {"http": _Pool, "https": _TLSPool}


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = POOLS
        return manager


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise ArchiveTimeout("The archive's total time limit (DICOMWEB_TOTAL_TIMEOUT_S) ran out.")


def _raise_for_access(status: int, action: str) -> None:
    if status in {401, 403}:
        raise ArchiveRefused(
            f"The archive answered {action} with HTTP {status}: "
            "the credentials DICOMWEB_USER and DICOMWEB_PASSWORD are not accepted."
        )
    if status in TRANSIENT_STATUSES:
        raise ArchiveUnreachable(f"The archive answered {action} with HTTP {status}.")


@contextmanager
def _our_errors(action: str, deadline: float) -> Iterator[None]:
    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        _check(deadline)
        raise ArchiveTimeout(f"The archive sent no data for too long during {action}.") from None
    except requests.exceptions.SSLError:
        raise ArchiveRefused(f"The archive's TLS certificate is not trusted ({action}).") from None
    except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
        raise _connection_error(error, action) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise ArchiveRefused(f"{action} failed: {type(error).__name__}.") from None


def _connection_error(error: BaseException, action: str) -> ArchiveError:
    """Return the error for a truncated body, or for no connection, with the system's reason if known."""
    cause: BaseException | None = error
    reason = "the connection was closed"
    while cause is not None:
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return ArchiveIncomplete(
                f"The archive's answer to {action} broke off after {cause.partial} bytes."
            )
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return ArchiveUnreachable(f"The archive cannot be reached for {action}: {reason}.")
