"""DICOM files on disk, sorted into series."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage

from errors import UnreadableFile

MIB = 2**20
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
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


# How many damaged files a warning names.
DAMAGED_NAMED = 3


@dataclass(frozen=True)
class Found:
    """What a folder holds. series: headers without pixel data, each of which remembers its file.

    damaged: names, below the folder, of the files that are meant to be DICOM and cannot be read.
    """

    series: Sequence[Sequence[Dataset]]
    damaged: Sequence[str]

    @property
    def warnings(self) -> list[str]:
        """That a series may lack images; none where every file could be read."""
        if not self.damaged:
            return []
        named = ", ".join(self.damaged[:DAMAGED_NAMED]) + (" ..." if self.damaged[DAMAGED_NAMED:] else "")
        return [f"Damaged files that could not be read: {len(self.damaged)} ({named})."]


def read_headers(path: Path) -> Found:
    """The DICOM instances of a file or of a folder and its subfolders, by series.

    Files that are no DICOM are passed over. Raises: UnreadableFile.
    """
    if not path.exists():
        raise UnreadableFile(f"There is no {path}.")
    series: dict[str, list[Dataset]] = {}
    damaged = []
    for file in filter(Path.is_file, sorted(path.rglob("*")) if path.is_dir() else [path]):
        try:
            header = _header(file)
        except UNREADABLE:
            if _is_meant_as_dicom(file):
                damaged.append(str(file.relative_to(path)) if file != path else file.name)
            continue
        if header is not None:
            series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    found = Found(list(series.values()), damaged)
    if not series:
        raise UnreadableFile(" ".join([f"{path} holds no DICOM image.", *found.warnings]))
    return found


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
    """None for a DICOMDIR, which is DICOM but no instance. Raises: one of UNREADABLE."""
    header = dcmread(file, stop_before_pixels=True)
    if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    _decode(header)
    if "SeriesInstanceUID" not in header or "SOPInstanceUID" not in header:
        # pydicom takes what there is of a header that breaks off.
        raise EOFError("no UIDs")
    return header


def _is_meant_as_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            opened.seek(128)
            return opened.read(4) == b"DICM" or file.suffix.lower() == ".dcm"
    except OSError:
        return True


def _decode(dataset: Dataset) -> None:
    """Make pydicom read each value now, not when it is first used. Raises: one of UNREADABLE."""
    for tag in sorted(dataset.keys()):
        # A private element that its dictionary knows differently is no damage, and nobody asks for it.
        if not tag.is_private:
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                _decode(item)
