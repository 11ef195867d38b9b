"""multipart/related (RFC 2387), the form in which DICOMweb carries instances."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from email.message import Message

from errors import ArchiveIncomplete, ArchiveRefused


def media_type(content_type: str) -> tuple[str, str | None]:
    """Return the media type in lower case, and the boundary if there is one, of a Content-Type header."""
    header = Message()
    header["Content-Type"] = content_type
    return header.get_content_type(), header.get_boundary()


def parts(chunks: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """Yield the content of each part in message order, as soon as it is complete.

    chunks: the body in pieces of any size. The headers of the parts are skipped: a DICOM file identifies
    itself.
    Raises: ArchiveIncomplete if the body ends before its closing delimiter (Orthanc sends no length and
    closes the connection, so only this delimiter proves an answer complete); ArchiveRefused.
    """
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    # The body may begin with the first delimiter; a line break before it makes it like the others.
    buffer = bytearray(b"\r\n")
    searched, count, in_preamble = 0, 0, True
    for chunk in chunks:
        buffer += chunk
        # Two bytes after the delimiter tell the closing one from the others.
        while (end := buffer.find(delimiter, searched)) >= 0 and len(buffer) >= end + len(delimiter) + 2:
            if not in_preamble:
                count += 1
                yield _content(bytes(buffer[:end]), count)
            in_preamble = False
            del buffer[: end + len(delimiter)]
            searched = 0
            if buffer.startswith(b"--"):
                return
        searched = max(0, len(buffer) - len(delimiter) - 2)
    raise ArchiveIncomplete(f"The archive's multipart answer broke off after {count} complete parts.")


def _content(part: bytes, number: int) -> bytes:
    head_end = part.find(b"\r\n\r\n")
    if head_end < 0:
        raise ArchiveRefused(f"Part {number} of the archive's multipart answer has no header.")
    return part[head_end + 4 :]


def encode(contents: Sequence[bytes]) -> tuple[str, bytes]:
    """Return Content-Type and body of a message with one application/dicom part for each content."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    pieces = [piece for content in contents for piece in (head, content, b"\r\n")]
    body = b"".join([*pieces, f"--{boundary}--\r\n".encode()])
    return f'multipart/related; type="application/dicom"; boundary={boundary}', body
