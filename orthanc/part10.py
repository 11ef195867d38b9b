"""One DICOM file (PS3.10), encoded or read; incomplete files are refused."""

from io import BytesIO

from pydicom import Dataset, dcmwrite

from imaging.files import UNREADABLE, read_header
from imaging.files import read_whole as read

__all__ = ["UNREADABLE", "encode", "read", "read_header"]


def encode(instance: Dataset) -> bytes:
    """Return the instance as a DICOM file, in its own transfer syntax."""
    encoded = BytesIO()
    # Adds the preamble too, without which Orthanc stores an instance and never serves it again.
    dcmwrite(encoded, instance, enforce_file_format=True)
    return encoded.getvalue()
