"""DICOM files as people upload them, ZIP archives of them too. Nothing that they say is trusted.

Messages say which file and which member by number: a name may be the patient's.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pydicom import Dataset, Sequence
from pydicom.dataelem import RawDataElement
from pydicom.encaps import parse_fragments
from pydicom.filereader import read_sequence
from pydicom.hooks import hooks
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from errors import UploadRefused
from imaging.files import (
    MIB,
    PIXEL_KEYWORDS,
    PREAMBLE_BYTES,
    PREFIX,
    UNDEFINED_LENGTH,
    UNREADABLE,
    check_whole,
    has_dicom_start,
    parse,
)
from imaging.frames import tag_name, text


@dataclass(frozen=True)
class Limits:
    """How much one upload may hold.

    Whatever is sent, reading an instance takes less memory than four times instance_bytes and 1 KiB for each
    of values.
    """

    members: int = 20_000
    """Files and members of ZIP archives; the largest MR study of a day has some 10 000 instances."""
    upload_bytes: int = 4096 * MIB
    """Of all files and all members, decompressed."""
    instance_bytes: int = 512 * MIB
    """Of one instance: 10 000 frames of a perfusion series, 128 x 128 each, take 330 MB."""
    decoded_bytes: int = 1024 * MIB
    """Of the pixels of one compressed instance, once they are decoded."""
    items: int = 200_000
    """Sequence items and fragments of one instance; a multi-frame image has about ten for each frame."""
    elements: int = 20_000
    """Data elements of one instance beside those of its items; scanners write some hundreds."""
    elements_per_item: int = 100
    """Further data elements for each item; a private one of a multi-frame image has a few dozen."""
    values: int = 3_000_000
    """Values of one instance, and pieces that it is read in: some 300 for each frame of an enhanced image."""
    nesting: int = 32
    """Sequences within sequences; structured reports go a dozen deep."""


CHUNK = MIB
START_BYTES = PREAMBLE_BYTES + len(PREFIX)
# Bytes in which pydicom reads the head of a data element.
ELEMENT_HEAD_BYTES = 8
# The group of the file's meta information ends far below it.
META_BYTES = 65536
# A member's entry in the table of contents is 46 bytes and its name, with room for what tools add.
TABLE_BYTES_PER_MEMBER = 256
ENCRYPTED = 0x1
ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
# Under which names images come; a ZIP of another kind, such as a viewer's .jar, is passed over.
IMAGE_SUFFIXES = ("", ".dcm", ".zip")
# What zipfile raises for an archive that is damaged or made to look so.
DAMAGED_ZIP = (BadZipFile, EOFError, LookupError, NotImplementedError, OSError, RuntimeError, ValueError,
               OverflowError, struct.error, zlib.error)  # fmt: skip
DAMAGED = (*UNREADABLE, TypeError, OverflowError, RecursionError)
ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
CHARACTER_SET_TAGS = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")
MEDIA_STORAGE_SOP_CLASS_UID, TRANSFER_SYNTAX_UID = 0x0002, 0x0010
UID_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# They become names of folders. Looser than the standard: leading zeros do occur.
UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*")
UID_LENGTH = 64
# Of VRs whose values become one object each, the bytes that one takes.
VALUE_BYTES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "AT": 4, "FD": 8, "SV": 8, "UV": 8}
VALUES_OF_TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI"}


def instances(files: Iterable[tuple[str, BinaryIO]], limits: Limits = Limits()) -> Iterator[Dataset]:
    """Each DICOM instance of the uploaded files and of the ZIP archives among them, one at a time.

    files: name and content, which can be sought in. Of a ZIP archive, members that are no DICOM are passed
    over, and so is a DICOMDIR. Instances come before a later one is refused: to store all or nothing, call
    it twice. Raises: UploadRefused.
    """
    upload = _Upload(limits)
    found = False
    for number, (_, file) in enumerate(files, start=1):
        for who, part in _parts(f"File {number}", file, upload):
            instance = _instance(upload.read(part, who), who, limits)
            if instance is not None:
                found = True
                yield instance
                # Else it stays while the next one is read.
                del instance
    if not found:
        raise UploadRefused("The upload holds no DICOM instance.")


class _Upload:
    """What has been read of the upload so far."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._members = 0
        self._bytes = 0

    def count(self, members: int, who: str) -> None:
        self._members += members
        if self._members > self.limits.members:
            raise UploadRefused(
                f"With {who.lower()} the upload has {self._members} files and members; at most "
                f"{self.limits.members} are taken."
            )

    def read(self, part: BinaryIO, who: str) -> bytes:
        """Everything, by what is there and not by what is declared."""
        content = BytesIO()
        try:
            while chunk := part.read(CHUNK):
                content.write(chunk)
                self._bytes += len(chunk)
                if content.tell() > self.limits.instance_bytes:
                    raise UploadRefused(f"{who} has more than {_mib(self.limits.instance_bytes)}.")
                if self._bytes > self.limits.upload_bytes:
                    raise UploadRefused(
                        f"Up to {who.lower()} the upload has more than {_mib(self.limits.upload_bytes)}."
                    )
        except DAMAGED_ZIP as error:
            raise _damaged(who, error) from None
        return content.getvalue()


def _parts(who: str, file: BinaryIO, upload: _Upload) -> Iterator[tuple[str, BinaryIO]]:
    """The file itself, or the members of it that are DICOM."""
    upload.count(1, who)
    file.seek(0)
    start = file.read(START_BYTES)
    file.seek(0)
    if has_dicom_start(start):
        yield who, file
    elif start.startswith(ZIP_SIGNATURES):
        yield from _members(who, file, upload)
    else:
        raise UploadRefused(f"{who} is neither a DICOM file nor a ZIP archive.")


# ZIP archives


class _Archive:
    """The file of a ZIP archive; zipfile would read its table of contents at one go, however long it is."""

    def __init__(self, file: BinaryIO, who: str, limits: Limits) -> None:
        self._read, self._who = file.read, who
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._most = max(CHUNK, limits.members * TABLE_BYTES_PER_MEMBER)

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise UploadRefused(
                f"The table of contents of {self._who.lower()} has {size} bytes; at most {self._most} are "
                "taken."
            )
        return self._read(size if size >= 0 else self._most)


def _members(who: str, file: BinaryIO, upload: _Upload) -> Iterator[tuple[str, BinaryIO]]:
    """The DICOM members, each opened while it is asked for and nowhere unpacked."""
    try:
        archive = ZipFile(cast(BinaryIO, _Archive(file, who, upload.limits)))
    except DAMAGED_ZIP as error:
        raise _damaged(who, error) from None
    infos = archive.infolist()
    upload.count(len(infos), who)
    for number, info in enumerate(infos, start=1):
        _check_member(info, f"Member {number} of {who.lower()}")
    for number, info in enumerate(infos, start=1):
        name = PurePosixPath(info.filename)
        if info.is_dir() or name.name.startswith(".") or info.filename.startswith("__MACOSX/"):
            continue
        member = f"Member {number} of {who.lower()}"
        try:
            with archive.open(info) as start:
                head = start.read(START_BYTES)
            suffix = name.suffix.lower()
            if has_dicom_start(head):
                with archive.open(info) as content:
                    yield member, cast(BinaryIO, content)
            elif head.startswith(ZIP_SIGNATURES) and suffix in IMAGE_SUFFIXES:
                raise UploadRefused(f"{member} is itself a ZIP archive, which is not opened.")
            elif suffix == ".dcm":
                raise UploadRefused(f"{member} is named .dcm and is no DICOM file.")
        except DAMAGED_ZIP as error:
            raise _damaged(member, error) from None


def _check_member(info: ZipInfo, who: str) -> None:
    parts = info.filename.replace("\\", "/").split("/")
    # Nothing is unpacked; but an honest tool writes no such name.
    if ".." in parts or not parts[0] or parts[0].endswith(":"):
        raise UploadRefused(f"The name of {who.lower()} leads out of its ZIP archive.")
    if info.flag_bits & ENCRYPTED:
        raise UploadRefused(f"{who} is encrypted.")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise UploadRefused(
            f"{who} is compressed by method {info.compress_type}; ZIP archives may be stored (0) or "
            f"deflated ({ZIP_DEFLATED})."
        )


# One instance


@dataclass
class _Budget:
    """What reading one instance may still take."""

    elements: int
    values: int
    bytes: int

    @property
    def spent(self) -> bool:
        return self.elements < 0 or self.values < 0 or self.bytes < 0


class _Reader(BytesIO):
    """What pydicom reads from, piece by piece; it ends where the budget is spent.

    It does not raise, because pydicom makes an OSError of any exception where it expects an item.
    """

    def __init__(self, data: bytes, budget: _Budget) -> None:
        super().__init__(data)
        self._budget = budget
        self._in_character_set = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = b"" if self._budget.spent else super().read(size)
        self._budget.bytes -= len(data)
        # pydicom decodes this element alone at once, into an object for each of its values.
        self._budget.values -= 1 + len(data) * self._in_character_set
        if size == ELEMENT_HEAD_BYTES:
            self._budget.elements -= 1
            self._in_character_set = data.startswith(CHARACTER_SET_TAGS)
        return b"" if self._budget.spent else data


def _file_meta(data: bytes, who: str) -> dict[int, str]:
    """The file's meta information, by element number.

    pydicom would look into it leniently, and inflate a deflated instance without bound.
    """
    values = {}
    position = START_BYTES if data.startswith(PREFIX, PREAMBLE_BYTES) else 0
    while data.startswith(b"\x02\x00", position):
        try:
            element, vr, length = struct.unpack_from("<H2sH", data, position + 2)
            position += 8
            if VR(vr.decode("ascii")) in EXPLICIT_VR_LENGTH_32:
                (length,) = struct.unpack_from("<L", data, position)
                position += 4
        except (ValueError, struct.error):
            raise UploadRefused(f"{who} has damaged file meta information.") from None
        if position + length > META_BYTES:
            raise UploadRefused(f"The file meta information of {who.lower()} has over {META_BYTES} bytes.")
        values[element] = data[position : position + length].decode("ascii", "replace").strip("\0 ")
        position += length
    return values


def _instance(data: bytes, who: str, limits: Limits) -> Dataset | None:
    """None for a DICOMDIR."""
    meta = _file_meta(data, who)
    if meta.get(MEDIA_STORAGE_SOP_CLASS_UID) == MediaStorageDirectoryStorage:
        return None
    items = sum(data.count(tag) for tag in ITEM_TAGS)
    if items > limits.items:
        raise UploadRefused(f"{who} has {items} sequence items; at most {limits.items} are taken.")
    if TRANSFER_SYNTAX_UID in meta or data.startswith(PREFIX, PREAMBLE_BYTES):
        _check_transfer_syntax(meta, who)
    elements = limits.elements + limits.elements_per_item * items
    budget = _Budget(elements, limits.values, 2 * limits.instance_bytes)
    try:
        instance = parse(_Reader(data, budget))
        # Else it keeps all bytes of the file.
        instance.buffer = None
        _spend(instance, budget, who, limits.nesting)
        _check_spent(budget, who, limits, items)
        _check_uids(instance, who)
        _check_pixels(instance, UID(text(instance.file_meta, "TransferSyntaxUID")), who, limits)
        check_whole(instance)
    except DAMAGED as error:
        _check_spent(budget, who, limits, items)
        if isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError):
            raise UploadRefused(f"{who} has sequences nested more than {limits.nesting} deep.") from None
        raise _damaged(who, error) from None
    return instance


def _check_transfer_syntax(meta: dict[int, str], who: str) -> None:
    uid = meta.get(TRANSFER_SYNTAX_UID, "")
    if not UID_PATTERN.fullmatch(uid) or not UID(uid).is_transfer_syntax:
        raise UploadRefused(f"{who} has no {tag_name('TransferSyntaxUID')} that is known.")
    if uid == DeflatedExplicitVRLittleEndian:
        raise UploadRefused(f"{who} is a deflated data set; send it in another transfer syntax.")


def _check_spent(budget: _Budget, who: str, limits: Limits, items: int) -> None:
    if budget.elements < 0:
        raise UploadRefused(
            f"{who} has more than {limits.elements} data elements and {limits.elements_per_item} for each of "
            f"its {items} sequence items."
        )
    if budget.values < 0:
        raise UploadRefused(f"{who} has more than {limits.values} data elements and values.")
    if budget.bytes < 0:
        raise UploadRefused(
            f"The nested sequences of {who.lower()} take more than {_mib(2 * limits.instance_bytes)} to read."
        )


def _spend(dataset: Dataset, budget: _Budget, who: str, deeper: int) -> None:
    """Count what a later look at the data set would cost. pydicom leaves most of it undecoded till then."""
    for element in dataset.elements():
        if budget.spent:
            return
        items: Iterable[Dataset] = ()
        if not isinstance(element, RawDataElement):
            items = element.value if element.VR == VR.SQ else ()
        else:
            value = element.value or b""
            if len(value) != element.length != UNDEFINED_LENGTH:
                raise EOFError("a value is cut off")
            resolved: dict[str, str] = {}
            hooks.raw_element_vr(element, resolved, ds=dataset)
            vr = resolved["VR"]
            if vr == VR.SQ:
                reader = cast(BinaryIO, _Reader(value, budget))
                items = read_sequence(
                    reader, element.is_implicit_VR, element.is_little_endian, len(value), "iso8859"
                )
            elif vr in VALUE_BYTES:
                budget.values -= len(value) // VALUE_BYTES[vr]
            elif vr in VALUES_OF_TEXT:
                budget.values -= 1 + value.count(b"\\")
        for item in items:
            if deeper == 0:
                raise RecursionError
            _spend(item, budget, who, deeper - 1)


def _check_uids(instance: Dataset, who: str) -> None:
    for keyword in UID_KEYWORDS:
        raw = instance.get_item(keyword)
        value = raw.value if isinstance(raw, RawDataElement) and raw.VR in (None, VR.UI, VR.UN) else b""
        uid = (value or b"").rstrip(b"\0 ").decode("ascii", "replace")
        if not uid:
            raise UploadRefused(f"{who} has no {tag_name(keyword)}.")
        if not UID_PATTERN.fullmatch(uid) or len(uid) > UID_LENGTH:
            raise UploadRefused(f"The {tag_name(keyword)} of {who.lower()} is not a valid UID.")


def _check_pixels(instance: Dataset, syntax: UID, who: str, limits: Limits) -> None:
    """Whether there are as many pixels as the header claims, and not too many."""
    found = [keyword for keyword in PIXEL_KEYWORDS if keyword in instance]
    # Spectroscopy has rows and columns, but no pixels.
    if "BitsAllocated" not in instance and not found:
        return
    if len(found) != 1:
        raise UploadRefused(f"{who} is an image with {len(found)} elements of pixel data, not one.")
    rows, columns, bits = (_number(instance, key, 0, who) for key in ("Rows", "Columns", "BitsAllocated"))
    frames, samples = (_number(instance, key, 1, who) for key in ("NumberOfFrames", "SamplesPerPixel"))
    claim = f"{who} claims {frames} frames of {rows} x {columns} pixels, {samples} x {bits} bits each;"
    if min(frames, rows, columns, bits, samples) < 1:
        raise UploadRefused(f"{claim} none of these may be below 1.")
    raw = instance.get_item(found[0])
    data = raw.value if raw is not None and isinstance(raw.value, bytes) else b""
    if syntax.is_encapsulated:
        # The first one is the table of offsets.
        fragments = parse_fragments(data)[0] - 1
        if frames > fragments:
            raise UploadRefused(f"{claim} its pixel data have {max(fragments, 0)} fragments.")
        needed = frames * rows * columns * samples * bits // 8
        if needed > limits.decoded_bytes:
            raise UploadRefused(f"{claim} decoded pixel data may have {_mib(limits.decoded_bytes)}.")
        return
    if text(instance, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    needed = (frames * rows * columns * samples * bits + 7) // 8
    # Padding is a few bytes; a wrong number of rows, columns or frames leaves a line of pixels or more.
    if not needed <= len(data) < needed + max(min(rows, columns) * samples * bits // 8, 2):
        raise UploadRefused(f"{claim} its pixel data have {len(data)} bytes, not {needed}.")


def size_bytes(dataset: Dataset) -> int:
    """Return how many bytes all values of a data set take, those of its sequences included."""
    size = 0
    for element in dataset.elements():
        if isinstance(element.value, bytes):
            size += len(element.value)
        elif isinstance(element.value, Sequence):
            size += sum(map(size_bytes, element.value))
    return size


def _number(instance: Dataset, keyword: str, default: int, who: str) -> int:
    value = text(instance, keyword)
    try:
        return int(value or default)
    except ValueError:
        raise UploadRefused(f"The {tag_name(keyword)} of {who.lower()} is not a number.") from None


def _damaged(who: str, error: BaseException) -> UploadRefused:
    # Not the error's own words: zipfile's hold the name of the member.
    return UploadRefused(f"{who} is damaged ({type(error).__name__}).")


def _mib(size: int) -> str:
    return f"{size / MIB:g} MiB"
