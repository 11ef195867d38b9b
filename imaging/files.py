"""DICOM files on disk, sorted into series."""

from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from errors import UnreadableFile


def read_headers(path: Path) -> list[list[Dataset]]:
    """The DICOM instances of a file or of a folder and its subfolders, without pixel data, by series.

    Files that are no DICOM are passed over; each header remembers its file. Raises: UnreadableFile.
    """
    if not path.exists():
        raise UnreadableFile(f"There is no {path}.")
    found: dict[str, list[Dataset]] = {}
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and (header := _header(file)) is not None:
            found.setdefault(str(header.SeriesInstanceUID), []).append(header)
    if not found:
        raise UnreadableFile(f"{path} holds no DICOM image.")
    return list(found.values())


def with_pixels(headers: Sequence[Dataset]) -> list[Dataset]:
    """The same instances read again, complete."""
    return [dcmread(str(header.filename)) for header in headers]


def _header(file: Path) -> Dataset | None:
    try:
        header = dcmread(file, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError):
        return None
    return header if "SeriesInstanceUID" in header and "SOPInstanceUID" in header else None
