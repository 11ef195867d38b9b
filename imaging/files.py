"""DICOM files on disk, sorted into series."""

import struct
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from errors import UnreadableFile

# What pydicom raises for bytes that are not DICOM, or damaged, or a file that is still being copied.
UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    NotImplementedError,
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    ValueError,
    struct.error,
)


def read_headers(path: Path) -> list[list[Dataset]]:
    """The DICOM instances of a file or of a folder and its subfolders, without pixel data, by series.

    Files that are no DICOM, or damaged, are passed over; each header remembers its file.
    Raises: UnreadableFile.
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
    """The same instances read again, complete. Raises: UnreadableFile."""
    return [read(Path(str(header.filename))) for header in headers]


def read(file: Path) -> Dataset:
    """One instance, complete. Raises: UnreadableFile where it is no DICOM or damaged."""
    try:
        instance = dcmread(file)
        _decode(instance)
    except UNREADABLE as error:
        raise UnreadableFile(f"{file} is no DICOM file, or it is damaged.") from error
    return instance


def _header(file: Path) -> Dataset | None:
    try:
        header = dcmread(file, stop_before_pixels=True)
        _decode(header)
    except UNREADABLE:
        return None
    return header if "SeriesInstanceUID" in header and "SOPInstanceUID" in header else None


def _decode(dataset: Dataset) -> None:
    """Make pydicom read each value now, not when it is first used. Raises: one of UNREADABLE."""
    for tag in sorted(dataset.keys()):
        # A private element that its dictionary knows differently is no damage, and nobody asks for it.
        if not tag.is_private:
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                _decode(item)
