"""Stored pixel values of an instance, frame by frame, whatever its transfer syntax."""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRBigEndian, RLELossless

from errors import UnreadablePixels
from imaging.frames import name_of, tag_name, text, whole_number

# Errors of pydicom's decoders, and of the libraries behind them, for pixel data that they cannot decode.
UNDECODABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    LookupError,
    OSError,
    EOFError,
    struct.error,
)

# The end marker of a JPEG image must lie in these last bytes, which may include padding.
JPEG_TAIL = 16

Pixels = NDArray[np.integer]

# Start Of Frame of JPEG (ISO 10918-1) and of JPEG-LS (ISO 14495-1), which describes the coded image.
JPEG_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# Start Of Codestream, directly followed by SIZ (ISO 15444-1).
JPEG_2000_SIZE = b"\xff\x4f\xff\x51"


def stored_values(instance: Dataset) -> Iterator[Pixels]:
    """Return the frames in stored order, integers (rows, columns), before any rescaling.

    The size of the pixel data is checked against the header at once; frames are decoded one by one.
    Uncompressed frames are views of the pixel data. Raises: UnreadablePixels naming the transfer syntax, or
    the number of bytes or pixels present.
    """
    instance_name = name_of(instance)
    if "PixelData" not in instance:
        raise UnreadablePixels(f"{instance_name} has no {tag_name('PixelData')}.")
    syntax = transfer_syntax(instance)
    if not syntax:
        raise UnreadablePixels(f"{instance_name} has no {tag_name('TransferSyntaxUID')}.")
    stored = _bits_stored(instance)
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        frames = decoded(instance)
    else:
        frames = _native_frames(instance, "big" if syntax == ExplicitVRBigEndian else "little")
    return (_own_bits(frame, stored, text(instance, "PixelRepresentation") == "1") for frame in frames)


def decoded(instance: Dataset) -> Iterator[Pixels]:
    """Return the frames of an image of any kind in stored order, decoded one by one.

    The sizes of compressed frames are checked at once. Raises: UnreadablePixels.
    """
    syntax = transfer_syntax(instance)
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        check_codestreams(instance, syntax, whole_number(instance, "SamplesPerPixel") or 1)
    return _decode(instance, syntax)


def transfer_syntax(instance: Dataset) -> UID:
    """Return the TransferSyntaxUID, empty if the instance has none."""
    return UID(text(getattr(instance, "file_meta", None) or Dataset(), "TransferSyntaxUID"))


def is_lossy(instance: Dataset) -> bool:
    return text(instance, "LossyImageCompression") == "01"


def _bits_stored(instance: Dataset) -> int:
    allocated, stored = int(text(instance, "BitsAllocated") or 0), int(text(instance, "BitsStored") or 0)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
        raise UnreadablePixels(
            f"{name_of(instance)}: {tag_name('BitsAllocated')} is {allocated}, "
            f"{tag_name('BitsStored')} {stored}."
        )
    return stored


def _own_bits(frame: Pixels, stored: int, signed: bool) -> Pixels:
    """Return the values of the lowest ``stored`` bits.

    Older images keep overlay planes in the bits above. Encoders leave zeros or the sign there, and decoders
    differ: codecs that have no sign give 4095 for -1 in 12 bits.
    """
    unused = 8 * frame.itemsize - stored
    if unused <= 0:
        return frame
    values = frame.astype(f"{frame.dtype.byteorder}{'i' if signed else 'u'}{frame.itemsize}", copy=False)
    return (values << unused) >> unused


def _native_frames(instance: Dataset, byte_order: str) -> Iterator[Pixels]:
    instance_name = name_of(instance)
    kind = "i" if text(instance, "PixelRepresentation") == "1" else "u"
    dtype = np.dtype(f"{'>' if byte_order == 'big' else '<'}{kind}{int(instance.BitsAllocated) // 8}")
    shape = (int(text(instance, "NumberOfFrames") or 1), int(instance.Rows), int(instance.Columns))
    data = instance.PixelData
    needed = math.prod(shape) * dtype.itemsize
    if len(data) < needed:
        raise UnreadablePixels(
            f"{instance_name}: {tag_name('PixelData')} holds {len(data)} bytes of {needed}; it is truncated."
        )
    # Padding is a few bytes; wrong rows, columns or frames change the length by at least a line of pixels.
    if len(data) - needed >= min(shape[1:]) * dtype.itemsize:
        raise UnreadablePixels(
            f"{instance_name}: {tag_name('PixelData')} holds {len(data)} bytes; {tag_name('Rows')}, "
            f"{tag_name('Columns')} and {tag_name('BitsAllocated')} make {needed}."
        )
    frames: Pixels = np.frombuffer(data, dtype, count=math.prod(shape)).reshape(shape)
    return iter(frames)


def _decode(instance: Dataset, syntax: UID) -> Iterator[Pixels]:
    with _report_undecodable(instance, syntax):
        for frame in iter_pixels(instance, raw=True):
            yield np.asarray(frame)


@contextmanager
def _report_undecodable(instance: Dataset, syntax: UID) -> Iterator[None]:
    try:
        yield
    except UNDECODABLE as error:
        raise UnreadablePixels(
            f"{name_of(instance)}: pixels in transfer syntax {syntax.name} ({syntax}) could not be decoded "
            f"({type(error).__name__})."
        ) from error


def check_codestreams(instance: Dataset, syntax: UID, samples: int = 1) -> None:
    """Check that each compressed frame has the image size of the header. Raises: UnreadablePixels.

    A frame of another size is decoded to other pixels, or makes the decoder (gdcm) end the whole process.
    """
    with _report_undecodable(instance, syntax):
        count = int(text(instance, "NumberOfFrames") or 1)
        for number, frame in enumerate(generate_frames(instance.PixelData, number_of_frames=count), start=1):
            misfit = _misfit(frame, instance, syntax, samples)
            if misfit:
                raise UnreadablePixels(
                    f"{name_of(instance)}: frame {number} in {tag_name('PixelData')} holds {misfit}; "
                    f"{tag_name('Rows')} is {instance.Rows}, {tag_name('Columns')} {instance.Columns}, "
                    f"{tag_name('BitsAllocated')} {instance.BitsAllocated}."
                )


def _misfit(frame: bytes, instance: Dataset, syntax: UID, samples: int) -> str:
    """Return what a compressed frame holds if that differs from the header; otherwise an empty text."""
    rows, columns, allocated = int(instance.Rows), int(instance.Columns), int(instance.BitsAllocated)
    if syntax == RLELossless:
        lengths = _rle_lengths(frame)
        spare = min(rows, columns)  # padding, see _native_frames
        fits = all(0 <= length - rows * columns < spare for length in lengths)
        return "" if fits and len(lengths) * 8 == allocated * samples else f"{sum(lengths)} bytes"
    size = _jpeg_2000_size(frame) if JPEG_2000_SIZE in frame[:256] else _jpeg_size(frame)
    fits = size[:2] == (rows, columns) and size[2] <= allocated and size[3] == samples
    return "" if fits else "{} rows and {} columns of {} bits and {} samples".format(*size)


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int]:
    """Return rows, columns, bits and samples per pixel. Raises: ValueError, struct.error."""
    # A JPEG-LS decoder never stops if the end of the image is cut off.
    if b"\xff\xd9" not in frame[-JPEG_TAIL:]:
        raise ValueError("no end of image")
    position = 2
    while frame[position : position + 1] == b"\xff":
        if frame[position + 1 : position + 2] == b"\xff":
            position += 1  # fill bytes may precede a marker
            continue
        marker, length = struct.unpack_from(">BH", frame, position + 1)
        if marker in JPEG_START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
            return rows, columns, bits, samples
        position += 2 + length
    raise ValueError("no start of frame")


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int, int]:
    """Return rows, columns, bits and samples per pixel. Raises: struct.error."""
    # After SIZ: length, capabilities, then the image, its offset, the tiles and their offset.
    right, bottom, left, top, *_, samples, depth = struct.unpack_from(
        ">8IHB", frame, frame.index(JPEG_2000_SIZE) + len(JPEG_2000_SIZE) + 4
    )
    return bottom - top, right - left, (depth & 0x7F) + 1, samples


def _rle_lengths(frame: bytes) -> list[int]:
    """Return the number of bytes that each segment decodes to (PS3.5 annex G). Raises: struct.error."""
    count, *offsets = struct.unpack_from("<16I", frame)
    ends = [*offsets[1:count], len(frame)]
    return [_rle_length(frame[start:end]) for start, end in zip(offsets[:count], ends, strict=True)]


def _rle_length(segment: bytes) -> int:
    length = position = 0
    while position < len(segment):
        code = segment[position]
        if code < 128:
            length += min(code + 1, len(segment) - position - 1)
            position += code + 2
        else:
            # 128 is a no-op.
            length += 257 - code if code > 128 else 0
            position += 2 if code > 128 else 1
    return length
