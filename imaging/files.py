"""DICOM files on disk, read completely or not at all, and grouped by series."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import VR

from errors import InputRefused, UnreadableFile
from imaging.frames import text

MIB = 2**20
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Errors of pydicom for data that are not DICOM, or damaged, or a file that is still being copied.
UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    NotImplementedError,
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RecursionError,  # sequences nested thousands deep
    ValueError,
    struct.error,
)
# UIDs that identify an instance.
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
PREAMBLE_BYTES = 128
PREFIX = b"DICM"
# A file without preamble and prefix begins with group 2 or 8, an element, then a VR or a length.
FIRST_GROUPS = (0x0002, 0x0008)
FIRST_ELEMENT_BYTES = 8
# Longer than any first element; a text file that begins with these two bytes claims far more.
MAX_FIRST_VALUE_BYTES = 0x10000
VRS = {vr.value.encode() for vr in VR}


# Number of damaged files that a warning names.
DAMAGED_NAMED = 3


@dataclass(frozen=True)
class SeriesHeaders:
    """The DICOM content of a folder. series: headers without pixel data, each with its file name.

    damaged: names, relative to the folder, of the files that are meant to be DICOM but cannot be read.
    """

    series: Sequence[Sequence[Dataset]]
    damaged: Sequence[str]

    @property
    def warnings(self) -> list[str]:
        """Return a warning that a series may lack images; empty if every file could be read."""
        return damage_warnings(self.damaged)


class DamagedSeries(list[Dataset]):
    """The readable instances of a series; damaged files of its study may be further instances of it."""

    def __init__(self, instances: Iterable[Dataset], damaged: Sequence[str]) -> None:
        super().__init__(instances)
        self.warnings = damage_warnings(damaged)


def damage_warnings(damaged: Sequence[str]) -> list[str]:
    """Return a list of one sentence that names the damaged files; empty without damaged files."""
    if not damaged:
        return []
    named = ", ".join(damaged[:DAMAGED_NAMED]) + (" ..." if damaged[DAMAGED_NAMED:] else "")
    return [f"Damaged files that could not be read: {len(damaged)} ({named})."]


def warnings_of(instances: Sequence[Dataset]) -> Sequence[str]:
    """Return the warnings about images that a series may lack."""
    return instances.warnings if isinstance(instances, DamagedSeries) else ()


def with_warnings(refusal: InputRefused, warnings: Iterable[str]) -> InputRefused:
    """Return the refusal with its possible cause: a damaged file may be the missing slice."""
    sentences = dict.fromkeys(sentence for sentence in warnings if sentence not in refusal.problem)
    return type(refusal)(" ".join([refusal.problem, *sentences]), refusal.details)


def read_headers(path: Path) -> SeriesHeaders:
    """Read the headers of the DICOM instances of a file, or of a folder with its subfolders, by series.

    Files that are not DICOM are skipped. Raises: UnreadableFile.
    """
    if not path.exists():
        raise UnreadableFile(f"There is no {path}.")
    series: dict[tuple[str, str], list[Dataset]] = {}
    damaged = []
    for file in filter(Path.is_file, sorted(path.rglob("*")) if path.is_dir() else [path]):
        try:
            header = _header(file)
        except UNREADABLE:
            if is_meant_as_dicom(file):
                damaged.append(str(file.relative_to(path)) if file != path else file.name)
            continue
        if header is not None:
            # The same series UID in another study is another series.
            uids = text(header, "StudyInstanceUID"), text(header, "SeriesInstanceUID")
            series.setdefault(uids, []).append(header)
    content = SeriesHeaders(list(series.values()), damaged)
    if not series:
        raise UnreadableFile(" ".join([f"{path} contains no DICOM image.", *content.warnings]))
    return content


def with_pixels(headers: Sequence[Dataset]) -> list[Dataset]:
    """Read the same instances again, complete. Raises: UnreadableFile."""
    return [read(Path(str(header.filename))) for header in headers]


def read(file: Path) -> Dataset:
    """Read one instance, complete. Raises: UnreadableFile if it is missing, not DICOM or damaged."""
    if not file.exists():
        raise UnreadableFile(f"There is no {file}.")
    try:
        instance = read_whole(file)
        _decode(instance)
    except UNREADABLE as error:
        raise UnreadableFile(f"{file} is not a DICOM file, or it is damaged.") from error
    return instance


def read_whole(source: Path | bytes) -> Dataset:
    """Read a complete instance, with or without preamble and prefix. Raises: one of UNREADABLE."""
    if isinstance(source, bytes):
        instance = parse(BytesIO(source))
        # Otherwise it keeps the bytes of the file in addition to the values.
        instance.buffer = None
    else:
        with source.open("rb") as file:
            instance = parse(file)
            instance.filename = str(source)
    check_whole(instance)
    return instance


def read_header(path: Path, keywords: list[str] | None = None) -> Dataset:
    """Read the elements before the pixel data, all or only ``keywords``. Raises: one of UNREADABLE."""
    with path.open("rb") as file:
        header = parse(file, header_only=True, keywords=keywords)
    header.filename = str(path)
    return header


def parse(file: BinaryIO, header_only: bool = False, keywords: list[str] | None = None) -> Dataset:
    """Read a data set; ``check_whole`` checks whether it is truncated. Raises: one of UNREADABLE."""
    start = file.read(PREAMBLE_BYTES + len(PREFIX))
    file.seek(0)
    dataset = dcmread(
        file, stop_before_pixels=header_only, specific_tags=keywords, force=has_dicom_start(start)
    )
    # If a value of undefined length is truncated, pydicom only warns and returns an empty data set.
    if not dataset:
        raise EOFError("no data elements")
    if "TransferSyntaxUID" not in dataset.file_meta and not _is_encapsulated(dataset):
        # pydicom has inferred byte order and VRs from the first element.
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = native if little else ExplicitVRBigEndian
    return dataset


def has_dicom_start(start: bytes) -> bool:
    """Return whether these are the first bytes of a DICOM file; old exports lack preamble and prefix."""
    if start[PREAMBLE_BYTES : PREAMBLE_BYTES + len(PREFIX)] == PREFIX:
        return True
    if len(start) < FIRST_ELEMENT_BYTES:
        return False
    vr, length = start[4:6], int.from_bytes(start[4:8], "little")
    little, big = (int.from_bytes(start[:2], order) in FIRST_GROUPS for order in ("little", "big"))
    return (vr in VRS and (little or big)) or (little and length < MAX_FIRST_VALUE_BYTES)


def check_uids(header: Dataset, keywords: Iterable[str] = UIDS) -> None:
    """Raise EOFError unless an instance has exactly one value of each of these UIDs.

    pydicom accepts a truncated header as far as it goes.
    """
    for keyword in keywords:
        uid = text(header, keyword)
        if not uid or "\\" in uid:
            raise EOFError(f"no {keyword}")


def check_whole(instance: Dataset) -> None:
    """Raise EOFError if an instance is truncated, which pydicom ignores."""
    check_uids(instance, UIDS[:2])
    for element in instance.elements():
        if not isinstance(element, RawDataElement) or element.length == UNDEFINED_LENGTH:
            continue
        if len(element.value or b"") != element.length:
            raise EOFError("a value ends early")
    if has_pixels(instance) and not any(keyword in instance for keyword in PIXEL_KEYWORDS):
        raise EOFError("no pixel data")


def has_pixels(header: Dataset) -> bool:
    """Return whether an instance with this header has pixel data, unless it is truncated."""
    # Spectroscopy has rows and columns, but no pixels.
    return "BitsAllocated" in header or UID(header.SOPClassUID).keyword.endswith("ImageStorage")


def _is_encapsulated(dataset: Dataset) -> bool:
    pixels = dataset.get_item("PixelData")
    return getattr(pixels, "length", 0) == UNDEFINED_LENGTH or getattr(pixels, "is_undefined_length", False)


def _header(file: Path) -> Dataset | None:
    """Return the header of an instance; None for a DICOMDIR. Raises: one of UNREADABLE."""
    header = read_header(file)
    if is_directory_record(header):
        return None
    _decode(header)
    check_uids(header)
    if has_pixels(header) and "BitsAllocated" not in header:
        raise EOFError("no description of the pixels")
    return header


def is_directory_record(header: Dataset) -> bool:
    """Return whether a file is a DICOMDIR, which is DICOM but not an instance."""
    return bool(header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage)


def is_meant_as_dicom(file: Path) -> bool:
    """Return whether a file begins or is named like a DICOM file, or cannot be opened."""
    try:
        with file.open("rb") as opened:
            start = opened.read(PREAMBLE_BYTES + len(PREFIX))
    except OSError:
        return True
    return has_dicom_start(start) or file.suffix.lower() == ".dcm"


def _decode(dataset: Dataset) -> None:
    """Make pydicom decode each value now, not at its first use. Raises: one of UNREADABLE."""
    for tag in sorted(dataset.keys()):
        # A private element that contradicts pydicom's dictionary is not damage, and nothing reads it.
        if not tag.is_private:
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                _decode(item)
