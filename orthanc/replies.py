"""The content of the archive's replies, read and checked."""

import json
from collections.abc import Iterable
from typing import Any

from pydicom import Dataset

from errors import ArchiveRefused
from orthanc import dicom_json, multipart, part10
from orthanc.transport import Reply

JSON = "application/dicom+json"

# The headers of 10 000 slices take a fifth of this.
MAX_JSON_BYTES = 256 << 20


def read_json(reply: Reply) -> list[dict[str, Any]]:
    body = content_of(reply)
    if not body:
        return []
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ArchiveRefused(
            f"The archive answered {reply.content_type or 'no media type'} where JSON was expected."
        )
    return entries


def content_of(reply: Reply) -> bytes:
    """Return the body of a JSON answer. Raises: ArchiveRefused if it exceeds MAX_JSON_BYTES."""
    body = bytearray()
    for chunk in reply.chunks:
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise ArchiveRefused(f"The archive's JSON is larger than {MAX_JSON_BYTES >> 20} MiB.")
    return bytes(body)


def read_lookup(reply: Reply) -> list[dict[str, Any]]:
    if reply.status != 200:
        raise ArchiveRefused(f"Orthanc's REST API (ORTHANC_URL) answered HTTP {reply.status}.")
    return read_json(reply)


def read_object(reply: Reply) -> dict[str, Any]:
    try:
        answer = json.loads(b"".join(reply.chunks))
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "MainDicomTags" not in answer:
        raise ArchiveRefused("The server at ORTHANC_URL does not answer like Orthanc's REST API.")
    return answer


def read_store_answer(reply: Reply) -> tuple[int, Dataset]:
    body = content_of(reply)
    try:
        answer = dicom_json.to_datasets([json.loads(body)])[0]
    except (ValueError, AttributeError, TypeError, RecursionError):
        # Some archives answer in XML or not at all; the query afterwards decides.
        answer = Dataset()
    return reply.status, answer


def read_instances(reply: Reply) -> dict[str, Dataset]:
    media_type, boundary = multipart.media_type(reply.content_type)
    if media_type == "multipart/related" and boundary:
        contents: Iterable[bytes] = multipart.parts(reply.chunks, boundary)
    elif media_type == "application/dicom":
        # Some archives send a series of one instance without the multipart wrapping.
        contents = [b"".join(reply.chunks)]
    else:
        raise ArchiveRefused(f"The archive answered {media_type} where DICOM instances were expected.")
    received: dict[str, Dataset] = {}
    for content in contents:
        try:
            instance = part10.read(content)
            received[str(instance.SOPInstanceUID)] = instance
        except part10.UNREADABLE as error:
            raise ArchiveRefused(
                f"The archive served {len(content)} bytes that are not a complete DICOM instance: "
                f"{type(error).__name__}."
            ) from None
    return received
