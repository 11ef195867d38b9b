"""Uploaded DICOM files and ZIP archives of them. Nothing that they state is trusted.

Messages give the number of a file or member, because its name may be the patient's.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, cast

from pydicom import Dataset, Sequence
from pydicom.dataelem import RawDataElement
from pydicom.encaps import parse_fragments
from pydicom.filereader import read_sequence
from pydicom.hooks import hooks
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from errors import UploadRefused
from imaging.files import (
    PIXEL_KEYWORDS,
    PREAMBLE_BYTES,
    PREFIX,
    UIDS,
    UNDEFINED_LENGTH,
    UNREADABLE,
    check_whole,
    parse,
)
from imaging.frames import tag_name, text
from imaging.identity import is_uid
from imaging.upload_parts import START_BYTES, Upload, UploadLimits, damaged, mebibytes, parts

# Bytes that pydicom reads as the head of a data element.
ELEMENT_HEAD_BYTES = 8
# File meta information ends far below this.
META_BYTES = 65536
DAMAGE_ERRORS = (*UNREADABLE, TypeError, OverflowError, RecursionError)
ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
CHARACTER_SET_TAGS = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")
MEDIA_STORAGE_SOP_CLASS_UID, TRANSFER_SYNTAX_UID = 0x0002, 0x0010
# Bytes of one value, for the VRs whose values become one object each.
VALUE_BYTES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "AT": 4, "FD": 8, "SV": 8, "UV": 8}
VALUES_OF_TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI"}


def instances(
    files: Iterable[tuple[str, BinaryIO]], limits: UploadLimits = UploadLimits()
) -> Iterator[Dataset]:
    """Yield each DICOM instance of the uploaded files and of the ZIP archives among them, one at a time.

    files: name and seekable content. A DICOMDIR is skipped, and so are members of a ZIP archive that are not
    DICOM. Instances are yielded before a later one is refused: to store all or nothing, call it twice.
    Raises: UploadRefused.
    """
    upload = Upload(limits)
    has_instance = False
    for number, (_, file) in enumerate(files, start=1):
        for part_label, part in parts(f"File {number}", file, upload):
            instance = _instance(upload.read(part, part_label), part_label, limits)
            if instance is not None:
                has_instance = True
                yield instance
                # Otherwise it stays in memory while the next one is read.
                del instance
    if not has_instance:
        raise UploadRefused("The upload holds no DICOM instance.")


# One instance


@dataclass
class _Budget:
    """The elements, values and bytes that reading one instance may still take."""

    elements: int
    values: int
    bytes: int

    @property
    def spent(self) -> bool:
        return self.elements < 0 or self.values < 0 or self.bytes < 0


class _Reader(BytesIO):
    """The stream that pydicom reads piece by piece; it ends when the budget is spent.

    It does not raise, because pydicom turns any exception into an OSError where it expects an item.
    """

    def __init__(self, data: bytes, budget: _Budget) -> None:
        super().__init__(data)
        self._budget = budget
        self._in_character_set = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = b"" if self._budget.spent else super().read(size)
        self._budget.bytes -= len(data)
        # Only this element is decoded at once by pydicom, into one object for each value.
        self._budget.values -= 1 + len(data) * self._in_character_set
        if size == ELEMENT_HEAD_BYTES:
            self._budget.elements -= 1
            self._in_character_set = data.startswith(CHARACTER_SET_TAGS)
        return b"" if self._budget.spent else data


def _file_meta(data: bytes, part_label: str) -> dict[int, str]:
    """Return the file meta information by element number. Raises: UploadRefused.

    pydicom would parse it leniently, and inflate a deflated instance without limit.
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
            raise UploadRefused(f"{part_label} has damaged file meta information.") from None
        if position + length > META_BYTES:
            raise UploadRefused(
                f"The file meta information of {part_label.lower()} has over {META_BYTES} bytes."
            )
        values[element] = data[position : position + length].decode("ascii", "replace").strip("\0 ")
        position += length
    return values


def _instance(data: bytes, part_label: str, limits: UploadLimits) -> Dataset | None:
    """Return the instance within the limits; None for a DICOMDIR. Raises: UploadRefused."""
    meta = _file_meta(data, part_label)
    if meta.get(MEDIA_STORAGE_SOP_CLASS_UID) == MediaStorageDirectoryStorage:
        return None
    items = sum(data.count(tag) for tag in ITEM_TAGS)
    if items > limits.items:
        raise UploadRefused(f"{part_label} has {items} sequence items; at most {limits.items} are accepted.")
    if TRANSFER_SYNTAX_UID in meta or data.startswith(PREFIX, PREAMBLE_BYTES):
        _check_transfer_syntax(meta, part_label)
    elements = limits.elements + limits.elements_per_item * items
    budget = _Budget(elements, limits.values, 2 * limits.instance_bytes)
    try:
        instance = parse(_Reader(data, budget))
        # Otherwise it keeps all bytes of the file.
        instance.buffer = None
        _spend(instance, budget, part_label, limits.nesting)
        _check_spent(budget, part_label, limits, items)
        _check_uids(instance, part_label)
        _check_pixels(instance, UID(text(instance.file_meta, "TransferSyntaxUID")), part_label, limits)
        check_whole(instance)
    except DAMAGE_ERRORS as error:
        _check_spent(budget, part_label, limits, items)
        if isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError):
            raise UploadRefused(
                f"{part_label} has sequences nested more than {limits.nesting} deep."
            ) from None
        raise damaged(part_label, error) from None
    return instance


def _check_transfer_syntax(meta: dict[int, str], part_label: str) -> None:
    uid = meta.get(TRANSFER_SYNTAX_UID, "")
    if not is_uid(uid) or not UID(uid).is_transfer_syntax:
        raise UploadRefused(f"{part_label} has no known {tag_name('TransferSyntaxUID')}.")
    if uid == DeflatedExplicitVRLittleEndian:
        raise UploadRefused(f"{part_label} is a deflated data set; send it in another transfer syntax.")


def _check_spent(budget: _Budget, part_label: str, limits: UploadLimits, items: int) -> None:
    if budget.elements < 0:
        raise UploadRefused(
            f"{part_label} has more than {limits.elements} data elements and {limits.elements_per_item} for "
            f"each of its {items} sequence items."
        )
    if budget.values < 0:
        raise UploadRefused(f"{part_label} has more than {limits.values} data elements and values.")
    if budget.bytes < 0:
        raise UploadRefused(
            f"The nested sequences of {part_label.lower()} take more than "
            f"{mebibytes(2 * limits.instance_bytes)} to read."
        )


def _spend(dataset: Dataset, budget: _Budget, part_label: str, deeper: int) -> None:
    """Charge the budget for decoding the data set, most of which pydicom defers until it is accessed."""
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
            _spend(item, budget, part_label, deeper - 1)


def _check_uids(instance: Dataset, part_label: str) -> None:
    for keyword in UIDS:
        raw = instance.get_item(keyword)
        value = raw.value if isinstance(raw, RawDataElement) and raw.VR in (None, VR.UI, VR.UN) else b""
        uid = (value or b"").rstrip(b"\0 ").decode("ascii", "replace")
        if not uid:
            raise UploadRefused(f"{part_label} has no {tag_name(keyword)}.")
        if not is_uid(uid):
            raise UploadRefused(f"The {tag_name(keyword)} of {part_label.lower()} is not a valid UID.")


def _check_pixels(instance: Dataset, syntax: UID, part_label: str, limits: UploadLimits) -> None:
    """Raise UploadRefused unless there are as many pixels as the header claims, and not too many."""
    pixel_keywords = [keyword for keyword in PIXEL_KEYWORDS if keyword in instance]
    # Spectroscopy has rows and columns, but no pixels.
    if "BitsAllocated" not in instance and not pixel_keywords:
        return
    if len(pixel_keywords) != 1:
        raise UploadRefused(
            f"{part_label} is an image with {len(pixel_keywords)} elements of pixel data, not one."
        )
    rows, columns, bits = (
        _number(instance, key, 0, part_label) for key in ("Rows", "Columns", "BitsAllocated")
    )
    frames, samples = (_number(instance, key, 1, part_label) for key in ("NumberOfFrames", "SamplesPerPixel"))
    claim = f"{part_label} claims {frames} frames of {rows} x {columns} pixels, {samples} x {bits} bits each;"
    if min(frames, rows, columns, bits, samples) < 1:
        raise UploadRefused(f"{claim} each of these must be at least 1.")
    raw = instance.get_item(pixel_keywords[0])
    data = raw.value if raw is not None and isinstance(raw.value, bytes) else b""
    if syntax.is_encapsulated:
        # The first fragment is the offset table.
        fragments = parse_fragments(data)[0] - 1
        if frames > fragments:
            raise UploadRefused(f"{claim} its pixel data have {max(fragments, 0)} fragments.")
        needed = frames * rows * columns * samples * bits // 8
        if needed > limits.decoded_bytes:
            raise UploadRefused(
                f"{claim} decoded pixel data may have at most {mebibytes(limits.decoded_bytes)}."
            )
        return
    if text(instance, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    needed = (frames * rows * columns * samples * bits + 7) // 8
    # Padding is a few bytes; wrong rows, columns or frames change the length by at least a line of pixels.
    if not needed <= len(data) < needed + max(min(rows, columns) * samples * bits // 8, 2):
        raise UploadRefused(f"{claim} its pixel data have {len(data)} bytes, not {needed}.")


def size_bytes(dataset: Dataset) -> int:
    """Return the number of bytes of all values of a data set, including those of its sequences."""
    size = 0
    for element in dataset.elements():
        if isinstance(element.value, bytes):
            size += len(element.value)
        elif isinstance(element.value, Sequence):
            size += sum(map(size_bytes, element.value))
    return size


def _number(instance: Dataset, keyword: str, default: int, part_label: str) -> int:
    value = text(instance, keyword)
    try:
        return int(value or default)
    except ValueError:
        raise UploadRefused(f"The {tag_name(keyword)} of {part_label.lower()} is not a number.") from None
