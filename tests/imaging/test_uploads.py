"""Uploads: what is whole comes through as it was sent; what is made to do harm is refused and costs little.

`pytest -sq` prints what each bomb cost.
"""

import json
import re
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from errors import UploadRefused
from imaging.files import MIB
from imaging.upload_parts import UploadLimits
from imaging.uploads import instances
from unetr.synthesis.phantom import SeriesOptions, to_instances

ROOT = Path(__file__).parents[2]
ARRAY = np.random.default_rng(6).integers(0, 4000, (3, 20, 15)).astype(np.uint16)
GEOMETRY = np.array([[0, 0, 0.9, -40], [0, 0.8, 0, -55], [2, 0, 0, 12], [0, 0, 0, 1.0]])
VOLUME = hd.Volume(ARRAY, GEOMETRY, "PATIENT")
# Small enough that a bomb is made in a moment, large enough that one which went off would be seen.
LIMITS = UploadLimits(
    members=500, upload_bytes=96 * MIB, instance_bytes=32 * MIB, decoded_bytes=64 * MIB, items=20_000,
    values=100_000,
)  # fmt: skip
KIB_PER_VALUE = 1


def encode(instance: Dataset, **how: bool) -> bytes:
    file = BytesIO()
    dcmwrite(file, instance, enforce_file_format=True, **how)
    return file.getvalue()


def phantom(**options: object) -> list[Dataset]:
    return to_instances(VOLUME, SeriesOptions(**options))


def edit(syntax: str = ExplicitVRLittleEndian, **values: object) -> bytes:
    """One slice with other values."""
    [first, *_] = phantom(transfer_syntax=syntax)
    for keyword, value in values.items():
        if value is None:
            del first[keyword]
        else:
            setattr(first, keyword, value)
    return encode(first)


def upload(*contents: bytes) -> list[tuple[str, BytesIO]]:
    return [("DOE^JANE.dcm", BytesIO(content)) for content in contents]


def to_zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def zipped_link(name: str, target: str) -> bytes:
    """As Unix's zip -y writes a symbolic link."""
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, target)
    return file.getvalue()


# What is whole comes through

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
COMPRESSED = [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1]


@pytest.mark.parametrize("enhanced", [None, "shared", "per_frame"])
@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED])
def test_instances_come_through_as_they_were_sent(syntax, enhanced):
    series = phantom(transfer_syntax=syntax, enhanced=enhanced)
    files = [encode(instance) for instance in series]
    archive = to_zip({f"MR/{number}.dcm": file for number, file in enumerate(files)})
    expected = [dcmread(BytesIO(file)) for file in files]
    for parts in (upload(*files), upload(archive), upload(to_zip({"a": files[0]}, zipfile.ZIP_STORED))):
        received = list(instances(parts))
        assert received == expected[: len(received)]
        assert [encode(instance) for instance in received] == files[: len(received)]
        assert {instance.file_meta.TransferSyntaxUID for instance in received} == {syntax}
    assert len(list(instances(upload(archive)))) == len(series)


def test_sequences_of_undefined_length_come_through():
    [instance] = phantom(enhanced="per_frame")
    for element in instance.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    file = encode(instance)
    assert b"\xfe\xff\xdd\xe0" in file
    [received] = instances(upload(file))
    assert encode(received) == file


def test_one_bit_pixels_and_a_padded_end_come_through():
    mask = edit(Rows=5, Columns=5, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0,
                   PixelData=bytes(10))  # fmt: skip
    padded = edit(PixelData=ARRAY[0].tobytes() + bytes(20))
    assert len(list(instances(upload(mask, padded)))) == 2


def without_prefix(instance: Dataset) -> bytes:
    """As old exports write it: neither preamble nor prefix nor file meta information."""
    file = encode(instance)
    (meta_bytes,) = struct.unpack_from("<L", file, 140)
    return file[144 + meta_bytes :]


@pytest.mark.parametrize("syntax", NATIVE)
def test_instances_without_a_prefix_are_read(syntax):
    series = phantom(transfer_syntax=syntax)
    bare = [without_prefix(instance) for instance in series]
    for parts in (
        upload(*bare),
        upload(to_zip({f"IM{number}": file for number, file in enumerate(bare)})),
    ):
        received = list(instances(parts))
        assert received == series
        assert {instance.file_meta.TransferSyntaxUID for instance in received} == {syntax}
        # What is stored has them, or no archive would serve it.
        assert all(encode(instance)[128:132] == b"DICM" for instance in received)


def test_an_instance_without_pixels_comes_through():
    report = edit(
        SOPClassUID=ComprehensiveSRStorage, Rows=None, Columns=None, PixelData=None, BitsAllocated=None
    )
    assert len(list(instances(upload(report)))) == 1


def test_what_lies_beside_the_images_of_a_study_is_passed_over():
    series = phantom()
    directory = phantom()[0]
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    slices = {f"IMAGES/IM{number}": encode(instance) for number, instance in enumerate(series)}
    beside = {
        "DICOMDIR": encode(directory), "README.TXT": b"read me", "autorun.inf": b"", "VIEWER/run.exe": b"MZ",
        "VIEWER/lib.jar": to_zip({"Main.class": b"x"}), ".DS_Store": b"x", "__MACOSX/IMAGES/._IM0.dcm": b"x",
        "IMAGES/._IM0.dcm": b"x", "IMAGES/": b"",
    }  # fmt: skip
    received = instances(upload(to_zip(beside | slices), encode(directory)))
    assert [i.SOPInstanceUID for i in received] == [i.SOPInstanceUID for i in series]


def test_files_and_archives_keep_their_order_and_may_lie_on_disk():
    series = phantom()
    files = [encode(instance) for instance in series]
    with SpooledTemporaryFile(max_size=100) as last, SpooledTemporaryFile(max_size=100) as others:
        last.write(files[2])
        others.write(to_zip({"0": files[0], "1": files[1]}))
        for _ in ("to check all", "to store all"):
            received = [instance.SOPInstanceUID for instance in instances([("", last), ("", others)])]
            assert received == [series[number].SOPInstanceUID for number in (2, 0, 1)]


# What is not is refused, without a name


def patch(archive: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Bytes written over the first header that has this signature."""
    content = bytearray(archive)
    for signature, offset, value in changes:
        start = content.index(signature) + offset
        content[start : start + len(value)] = value
    return bytes(content)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
SERIES_UID = b"1.2.3.45"
SLICE = encode(phantom(series_instance_uid=SERIES_UID.decode())[0])
META_END = SLICE.index(b"\x08\x00\x05\x00")
LONG_UID = struct.pack("<H", 66) + b"1." + b"2" * 64
ONE_MEMBER = to_zip({"DOE^JANE.dcm": SLICE})
STORED = to_zip({"DOE^JANE.dcm": SLICE}, zipfile.ZIP_STORED)

REFUSED = {
    "nothing": ([], "The upload holds no DICOM instance"),
    "text": ([SLICE, b"DOE^JANE was here"], "File 2 is neither a DICOM file nor a ZIP archive"),
    "empty file": ([b""], "File 1 is neither"),
    "empty ZIP": ([to_zip({})], "holds no DICOM instance"),
    "ZIP of texts": ([to_zip({"DOE^JANE.txt": b"hello"})], "holds no DICOM instance"),
    "text as .dcm": ([to_zip({"a": SLICE, "DOE^JANE.DCM": b"hello"})], "Member 2 of file 1 is named .dcm"),
    "ZIP in ZIP": ([to_zip({"DOE^JANE.zip": ONE_MEMBER})], "Member 1 of file 1 is itself a ZIP archive"),
    "parent folder": ([to_zip({"../../DOE^JANE.dcm": SLICE})], "name of member 1 of file 1 leads out"),
    "absolute path": ([to_zip({"/DOE^JANE": SLICE})], "name of member 1 of file 1 leads out"),
    "backslashes": ([to_zip({"DOE\\..\\..\\JANE": SLICE})], "name of member 1 of file 1 leads out"),
    "link": ([zipped_link("DOE^JANE.dcm", "/etc/passwd")], "Member 1 of file 1 is named .dcm"),
    "drive": ([to_zip({"C:\\DOE^JANE": SLICE})], "name of member 1 of file 1 leads out"),
    "encrypted": (
        [patch(ONE_MEMBER, (LOCAL, 6, b"\x01"), (CENTRAL, 8, b"\x01"))],
        "Member 1 of file 1 is encrypted",
    ),
    "bzip2": ([to_zip({"DOE^JANE": SLICE}, zipfile.ZIP_BZIP2)], "compressed by method 12; .* or deflated"),
    "lzma": ([to_zip({"DOE^JANE": SLICE}, zipfile.ZIP_LZMA)], "compressed by method 14;"),
    "CRC": ([STORED.replace(ARRAY[0].tobytes(), bytes(600))], r"Member 1 of file 1 is damaged \(BadZip"),
    "deflate stream": ([patch(ONE_MEMBER, (LOCAL, 60, b"\xff" * 40))], "Member 1 of file 1 is damaged"),
    "cut off ZIP": ([ONE_MEMBER[:-30]], r"File 1 is damaged \(BadZipFile\)"),
    "cut off before its end": ([ONE_MEMBER[:900] + ONE_MEMBER[1000:]], "ile 1 is damaged"),
    "another name inside": ([patch(ONE_MEMBER, (LOCAL, 30, b"X"))], r"is damaged \(BadZipFile\)"),
    "less declared": ([patch(ONE_MEMBER, (CENTRAL, 24, b"\x00\x02\0\0"))], "Member 1 of file 1 is damaged"),
    "no SOP Instance UID": ([edit(SOPInstanceUID=None)], r"no SOPInstanceUID \(0008,0018\)"),
    "path as UID": (
        [SLICE.replace(SERIES_UID, b"../../ab")],
        r"SeriesInstanceUID \(0020,000E\) of file 1 is not a valid UID",
    ),
    "line break in UID": ([SLICE.replace(SERIES_UID, SERIES_UID[:-1] + b"\n")], "is not a valid UID"),
    "UID of 66": ([SLICE.replace(b"\x08\0" + SERIES_UID, LONG_UID)], "is not a valid UID"),
    "no Study Instance UID": ([edit(StudyInstanceUID=None)], r"no StudyInstanceUID \(0020,000D\)"),
    "no Series Instance UID": ([edit(SeriesInstanceUID="")], r"no SeriesInstanceUID \(0020,000E\)"),
    "cut off": ([SLICE[:-100]], r"File 1 is damaged \(EOFError\)"),
    **{
        f"{name} cut off inside its pixel data": ([edit(syntax)[:-8]], r"File 1 is damaged \(EOFError\)")
        for name, syntax in (("JPEG Lossless", JPEGLosslessSV1), ("JPEG 2000", JPEG2000Lossless))
    },
    "cut off before its pixel data": ([SLICE[:-620]], r"File 1 is damaged \(EOFError\)"),
    "cut off before what describes them": ([SLICE[:-900]], r"File 1 is damaged \(EOFError\)"),
    "cut off without a prefix": ([SLICE[META_END:-100]], r"File 1 is damaged \(EOFError\)"),
    "cut off in the meta": ([SLICE[:200]], "File 1 has"),
    "no meta": ([SLICE[:132] + SLICE[META_END:]], r"no known TransferSyntaxUID \(0002,0010"),
    "another syntax": (
        [SLICE.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.1\0")],
        "has no known TransferSyntaxUID",
    ),
    "too few pixels": (
        [edit(Rows=40)],
        "claims 1 frames of 40 x 15 pixels, 1 x 16 bits each; its pixel data have 600 bytes, not 1200",
    ),
    "a frame too many": ([edit(PixelData=ARRAY[:2].tobytes())], "have 1200 bytes, not 600"),
    "no rows": ([edit(Rows=0)], "each of these must be at least 1"),
    "no pixels": ([edit(PixelData=None)], "0 elements of pixel data"),
    "frames compressed": (
        [edit(RLELossless, NumberOfFrames=2)],
        "claims 2 frames of .*; its pixel data have 1 fragments",
    ),
    "large once decoded": (
        [edit(JPEG2000Lossless, Rows=40_000, Columns=40_000)],
        "claims 1 frames of 40000 x 40000 .* may have at most 64 MiB",
    ),
}  # fmt: skip


# pydicom warns where compressed pixel data break off.
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(("contents", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_damaged_forged_or_something_else_is_refused_without_a_name(contents, sentence):
    with pytest.raises(UploadRefused, match=sentence) as refused:
        list(instances(upload(*contents), LIMITS))
    assert refused.value.status == 422
    assert not re.search("DOE|JANE", refused.value.message + str(refused.value.details))
    # The handler logs an error with its cause, whose words hold the name.
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_the_limits_themselves_are_taken():
    files = [encode(instance) for instance in phantom()]
    # UIDs differ in length.
    sizes = [len(file) for file in files]
    exact = UploadLimits(members=4, upload_bytes=sum(sizes), instance_bytes=max(sizes))
    archive = to_zip({str(number): file for number, file in enumerate(files)})
    assert len(list(instances(upload(archive), exact))) == 3
    for less, sentence in (
        (UploadLimits(members=3), "With file 1 the upload has 4 files and members; at most 3 are accepted"),
        (UploadLimits(upload_bytes=sum(sizes) - 1), "Up to member 3 of file 1 the upload has more than"),
        (UploadLimits(instance_bytes=sizes[0] - 1), "Member 1 of file 1 has more than"),
    ):
        with pytest.raises(UploadRefused, match=sentence):
            list(instances(upload(archive), less))


# Bombs


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Explicit VR little endian."""
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("SQ", "OB", "UC"):
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length) + value


UNDEFINED = 0xFFFFFFFF
# After the pixel data, so that nothing else is amiss.
LAST = 0x7FE10000
SEQUENCE = 0x7FE11010
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
NO_ITEM = b"\x01\x00\x01\x00\0\0\0\0"
MILLION = 1_000_000


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


def empty_elements(count: int) -> bytes:
    return b"".join(struct.pack("<HH2sH", 0x7FE1 + 2 * (i >> 16), i & 0xFFFF, b"LO", 0) for i in range(count))


def nest(depth: int, core: bytes) -> bytes:
    """Defined lengths, outermost last, without copying the core for each level."""
    heads = []
    size = len(core)
    for _ in range(depth):
        heads.append(struct.pack("<HH2sHLHHL", 0x7FE1, 0x1010, b"SQ", 0, size + 8, 0xFFFE, 0xE000, size))
        size += 20
    return b"".join(reversed(heads)) + core


def with_charset(values: int) -> bytes:
    implicit = edit(ImplicitVRLittleEndian)
    start = implicit.index(b"\x08\x00\x05\x00")
    (length,) = struct.unpack_from("<L", implicit, start + 4)
    charset = struct.pack("<HHL", 8, 5, values) + b"\\" * values
    return implicit[:start] + charset + implicit[start + 8 + length :]


def with_syntax_of_many_values(values: int) -> bytes:
    syntax = element(0x00020010, "UC", b"\\" * values)
    return SLICE[:132] + syntax + SLICE[META_END:]


def many_fallbacks(values: int, fragments: int) -> bytes:
    """Each value's first fragment leads to one chain of fragments, which ends in something else.

    Only then does pydicom look for the value's end, which is close by.
    """
    size = 28
    chained = b"".join(
        element(LAST, "OB", ITEM[:4] + struct.pack("<L", size * left - 8) + SEQUENCE_END, UNDEFINED)
        for left in range(values, 0, -1)
    )
    return SLICE + chained + element(LAST + 1, "OB", ITEM * fragments + bytes(8))


def deflate_zeros(size: int) -> bytes:
    explicit, deflate = b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x001.2.840.10008.1.2.1.99"
    meta = SLICE[:META_END].replace(explicit, deflate)
    assert deflate in meta
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return meta + block * (size // (16 * MIB)) + packer.flush()


def zip_of_zeros(size: int, count: int) -> bytes:
    """Whole instances, each with a last element of zeros."""
    member = SLICE + element(LAST, "OB", bytes(size))
    return to_zip({f"{number}.dcm": member for number in range(count)})


def zip_bomb(size: int, declared: int) -> bytes:
    """One member of zeros, whose blocks are compressed once only."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = packer.compress(SLICE + element(LAST, "OB", b"", UNDEFINED)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    stream = first + block * (size // (16 * MIB)) + packer.flush()
    deflate = struct.pack("<H", zipfile.ZIP_DEFLATED)
    return patch(
        to_zip({"0.dcm": stream}, zipfile.ZIP_STORED),
        (LOCAL, 8, deflate), (CENTRAL, 10, deflate), (CENTRAL, 24, struct.pack("<L", declared)),
    )  # fmt: skip


def overlapping(count: int) -> bytes:
    """One member that the table of contents lists many times."""
    archive = zip_of_zeros(16 * MIB, 1)
    start = archive.index(CENTRAL)
    end = archive.index(b"PK\x05\x06")
    table = archive[start:end] * count
    closing = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(table), start, 0)
    return archive[:start] + table + closing


def empty_members(count: int) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(str(number), b"")
    return file.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "10 GB of zeros in a member": (
        lambda: zip_bomb(10_000 * MIB, declared=2**32 - 2), "Member 1 of file 1 has more than 32 MiB"),
    "10 GB declared as 500 bytes": (lambda: zip_bomb(10_000 * MIB, declared=500), "is damaged"),
    "160 MB of zeros in 8 members": (
        lambda: zip_of_zeros(20 * MIB, 8), "Up to member 5 of file 1 the upload has more than 96 MiB"),
    "one member listed 400 times": (lambda: overlapping(400), "is damaged|the upload has more than 96 MiB"),
    "the bomb in a ZIP in a ZIP": (
        lambda: to_zip({"a.zip": zip_bomb(10_000 * MIB, 500)}), "Member 1 of file 1 is itself a ZIP archive"),
    "501 members": (lambda: empty_members(501), "has 502 files and members; at most 500"),
    "30 000 members": (lambda: empty_members(30_000), "table of contents of file 1 has .* bytes; at most"),
    "a million items, undefined length": (
        lambda: SLICE + element(SEQUENCE, "SQ", ITEM * MILLION + SEQUENCE_END, UNDEFINED),
        "has 1000000 sequence items; at most 20000"),
    "a million items, defined length": (
        lambda: SLICE + element(SEQUENCE, "SQ", ITEM * MILLION), "has 1000000 sequence items; at most 20000"),
    "a million of another tag for items": (
        lambda: SLICE + element(SEQUENCE, "SQ", NO_ITEM * MILLION + SEQUENCE_END, UNDEFINED),
        "more than 20000 data elements and"),
    "those, defined length": (
        lambda: SLICE + element(SEQUENCE, "SQ", NO_ITEM * MILLION), "more than 20000 data elements and"),
    "a million fragments": (
        lambda: edit(RLELossless) + element(LAST, "OB", ITEM * MILLION + SEQUENCE_END, UNDEFINED),
        "has 10000.. sequence items; at most 20000"),
    "a million elements": (
        lambda: SLICE + empty_elements(MILLION), "more than 20000 data elements and 100 for each of its 0"),
    "a million elements in an item": (
        lambda: SLICE + element(SEQUENCE, "SQ", item(empty_elements(MILLION))), "more than 20000 data eleme"),
    "a value of 20 million numbers": (
        # Encapsulated Pixel Data Value Total Length, whose VR is UV.
        lambda: edit(ImplicitVRLittleEndian)
        + struct.pack("<HHL", 0x7FE0, 0x0003, 20 * MILLION) + bytes(20 * MILLION), "more than 100000 data"),
    "20 million character sets": (lambda: with_charset(20 * MILLION), "more than 100000 data elements and"),
    "20 million transfer syntaxes": (
        lambda: with_syntax_of_many_values(20 * MILLION), "meta information of file 1 has over 65536 bytes"),
    "nested 5000 deep, undefined length": (
        lambda: SLICE + element(SEQUENCE, "SQ", ITEM[:4] + b"\xff" * 4, UNDEFINED) * 5000,
        "nested more than 32 deep"),
    "nested 5000 deep, defined length": (lambda: SLICE + nest(5000, b""), "nested more than 32 deep"),
    "30 MB nested 30 deep": (
        lambda: SLICE + nest(30, element(LAST, "OB", bytes(30 * MIB))), "take more than 64 MiB to read"),
    "4000 values of one chain of fragments": (
        lambda: many_fallbacks(4000, 15_000), "more than 100000 data elements and values"),
    "10 GB deflated": (lambda: deflate_zeros(10_000 * MIB), "is a deflated data set"),
    "a billion frames": (
        lambda: edit(NumberOfFrames=10**9), "claims 1000000000 frames .* have 600 bytes, not 6000000000"),
    "a billion frames, compressed": (
        lambda: edit(RLELossless, NumberOfFrames=10**9, Rows=1, Columns=1), "pixel data have 1 fragments"),
    "65535 x 65535 pixels, compressed": (
        lambda: edit(JPEGLSLossless, Rows=65535, Columns=65535), "decoded pixel data may have at most 64"),
}  # fmt: skip

# In a process of its own, whose peak is the bomb's alone.
READER = """
import json, re, sys, time
from pathlib import Path
from errors import UploadRefused
from imaging.uploads import instances
from imaging.upload_parts import UploadLimits

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000

limits = UploadLimits(**json.loads(sys.argv[2]))
taken, refusal = 0, None
idle, start = peak_mb(), time.process_time()
with open(sys.argv[1], "rb") as file:
    try:
        for instance in instances([("", file)], limits):
            taken += 1
            del instance
    except UploadRefused as error:
        refusal = f"{error.code}: {error.problem}"
print(json.dumps([taken, refusal, peak_mb() - idle, time.process_time() - start]))
"""


def read_apart(path: Path, limits: UploadLimits) -> tuple[int, str | None, float, float]:
    """Instances taken, refusal, MB above the idle process, seconds of computing."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path), json.dumps(vars(limits))],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return tuple(json.loads(done.stdout))


def most_mb(limits: UploadLimits) -> float:
    """What the docstring of Limits promises."""
    return (4 * limits.instance_bytes + KIB_PER_VALUE * 1024 * limits.values) / 1e6


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_little_cost(name, tmp_path):
    build, sentence = BOMBS[name]
    path = tmp_path / "bomb"
    path.write_bytes(build())
    _, refusal, peak_mb, seconds = read_apart(path, LIMITS)
    print(f"\n{name} | {refusal} | {peak_mb:.0f} | {seconds:.2f}")
    assert refusal is not None
    assert re.search(f"upload_refused: .*(?:{sentence})", refusal)
    assert peak_mb < most_mb(LIMITS)
    assert seconds < 20


def test_a_study_takes_no_more_memory_than_its_largest_instance(tmp_path):
    archive = tmp_path / "study"
    archive.write_bytes(zip_of_zeros(8 * MIB, 20))
    limits = UploadLimits(instance_bytes=9 * MIB, values=1000)
    count, refusal, peak_mb, seconds = read_apart(archive, limits)
    print(f"\n20 instances of 8 MiB | {refusal} | {peak_mb:.0f} | {seconds:.2f}")
    assert (count, refusal) == (20, None)
    assert peak_mb < most_mb(limits)
