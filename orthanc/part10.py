"""One DICOM file (PS3.10) in and out, refusing what is not whole."""

from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread, dcmwrite

from imaging.files import PIXEL_KEYWORDS, UNDEFINED_LENGTH, UNREADABLE

__all__ = ["UNREADABLE", "encode", "read", "read_header"]


def read(source: Path | bytes) -> Dataset:
    """A complete instance. Raises: one of UNREADABLE, among them EOFError where its pixel data end early."""
    instance = dcmread(source if isinstance(source, Path) else BytesIO(source))
    found = [keyword for keyword in PIXEL_KEYWORDS if keyword in instance]
    # Spectroscopy has rows and columns, but no pixels.
    if "BitsAllocated" in instance and not found:
        raise EOFError("no pixel data")
    for keyword in found:
        # pydicom takes what there is of a value that is cut off, and says nothing.
        raw = instance.get_item(keyword)
        length = getattr(raw, "length", UNDEFINED_LENGTH)
        if raw is not None and length != UNDEFINED_LENGTH and len(raw.value or b"") != length:
            raise EOFError("pixel data end early")
    return instance


def read_header(path: Path, keywords: list[str] | None = None) -> Dataset:
    """The elements before the pixel data, all or only those of keywords. Raises: one of UNREADABLE."""
    return dcmread(path, stop_before_pixels=True, specific_tags=keywords)


def encode(instance: Dataset) -> bytes:
    """The instance as a file, in its own transfer syntax."""
    encoded = BytesIO()
    # Adds the preamble too, without which Orthanc stores an instance and never serves it again.
    dcmwrite(encoded, instance, enforce_file_format=True)
    return encoded.getvalue()
