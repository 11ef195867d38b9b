"""The parts of an upload: DICOM files, and the DICOM members of ZIP archives, read within limits."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from errors import UploadRefused
from imaging.files import MIB, PREAMBLE_BYTES, PREFIX, has_dicom_start


@dataclass(frozen=True)
class UploadLimits:
    """Limits of one upload.

    Whatever is sent, reading an instance takes less memory than four times instance_bytes plus 1 KiB for
    each of values.
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

# A member's entry in the table of contents has 46 bytes and its name; the rest is for additions by tools.
TABLE_BYTES_PER_MEMBER = 256

ENCRYPTED_FLAG = 0x1

ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")

# Suffixes of files that may hold images; a ZIP of another kind, e.g. a viewer's .jar, is skipped.
IMAGE_SUFFIXES = ("", ".dcm", ".zip")

# Errors of zipfile for an archive that is damaged or made to look damaged.
ZIP_DAMAGE_ERRORS = (BadZipFile, EOFError, LookupError, NotImplementedError, OSError, RuntimeError,
                     ValueError, OverflowError, struct.error, zlib.error)  # fmt: skip


class Upload:
    """The members and bytes that have been read of the upload so far."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._members = 0
        self._bytes = 0

    def count(self, members: int, part_label: str) -> None:
        self._members += members
        if self._members > self.limits.members:
            raise UploadRefused(
                f"With {part_label.lower()} the upload has {self._members} files and members; at most "
                f"{self.limits.members} are accepted."
            )

    def read(self, part: BinaryIO, part_label: str) -> bytes:
        """Read a part completely, limited by its actual, not its declared size. Raises: UploadRefused."""
        content = BytesIO()
        try:
            while chunk := part.read(CHUNK):
                content.write(chunk)
                self._bytes += len(chunk)
                if content.tell() > self.limits.instance_bytes:
                    raise UploadRefused(
                        f"{part_label} has more than {mebibytes(self.limits.instance_bytes)}."
                    )
                if self._bytes > self.limits.upload_bytes:
                    raise UploadRefused(
                        f"Up to {part_label.lower()} the upload has more than "
                        f"{mebibytes(self.limits.upload_bytes)}."
                    )
        except ZIP_DAMAGE_ERRORS as error:
            raise damaged(part_label, error) from None
        return content.getvalue()


def parts(file_label: str, file: BinaryIO, upload: Upload) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the file itself, or the DICOM members of a ZIP archive. Raises: UploadRefused."""
    upload.count(1, file_label)
    file.seek(0)
    start = file.read(START_BYTES)
    file.seek(0)
    if has_dicom_start(start):
        yield file_label, file
    elif start.startswith(ZIP_SIGNATURES):
        yield from _members(file_label, file, upload)
    else:
        raise UploadRefused(f"{file_label} is neither a DICOM file nor a ZIP archive.")


class _Archive:
    """The file of a ZIP archive, with a limit on the table of contents, which zipfile reads in one piece."""

    def __init__(self, file: BinaryIO, archive_label: str, limits: UploadLimits) -> None:
        self._read, self._label = file.read, archive_label
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._most = max(CHUNK, limits.members * TABLE_BYTES_PER_MEMBER)

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise UploadRefused(
                f"The table of contents of {self._label.lower()} has {size} bytes; at most {self._most} are "
                "accepted."
            )
        return self._read(size if size >= 0 else self._most)


def _members(archive_label: str, file: BinaryIO, upload: Upload) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the DICOM members, each opened on demand and never unpacked to disk."""
    try:
        archive = ZipFile(cast(BinaryIO, _Archive(file, archive_label, upload.limits)))
    except ZIP_DAMAGE_ERRORS as error:
        raise damaged(archive_label, error) from None
    infos = archive.infolist()
    upload.count(len(infos), archive_label)
    for number, info in enumerate(infos, start=1):
        _check_member(info, f"Member {number} of {archive_label.lower()}")
    for number, info in enumerate(infos, start=1):
        name = PurePosixPath(info.filename)
        if info.is_dir() or name.name.startswith(".") or info.filename.startswith("__MACOSX/"):
            continue
        member_label = f"Member {number} of {archive_label.lower()}"
        try:
            with archive.open(info) as start:
                head = start.read(START_BYTES)
            suffix = name.suffix.lower()
            if has_dicom_start(head):
                with archive.open(info) as content:
                    yield member_label, cast(BinaryIO, content)
            elif head.startswith(ZIP_SIGNATURES) and suffix in IMAGE_SUFFIXES:
                raise UploadRefused(
                    f"{member_label} is itself a ZIP archive; nested archives are not accepted."
                )
            elif suffix == ".dcm":
                raise UploadRefused(f"{member_label} is named .dcm but is not a DICOM file.")
        except ZIP_DAMAGE_ERRORS as error:
            raise damaged(member_label, error) from None


def _check_member(info: ZipInfo, member_label: str) -> None:
    parts = info.filename.replace("\\", "/").split("/")
    # Nothing is unpacked, but no honest tool writes these names.
    if ".." in parts or not parts[0] or parts[0].endswith(":"):
        raise UploadRefused(f"The name of {member_label.lower()} leads out of its ZIP archive.")
    if info.flag_bits & ENCRYPTED_FLAG:
        raise UploadRefused(f"{member_label} is encrypted.")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise UploadRefused(
            f"{member_label} is compressed by method {info.compress_type}; ZIP archives may be stored (0) or "
            f"deflated ({ZIP_DEFLATED})."
        )


def damaged(part_label: str, error: BaseException) -> UploadRefused:
    # Without the error's own text: zipfile's contains the name of the member.
    return UploadRefused(f"{part_label} is damaged ({type(error).__name__}).")


def mebibytes(size: int) -> str:
    return f"{size / MIB:g} MiB"
