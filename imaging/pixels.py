"""Stored pixel values of an instance, frame by frame, whatever its transfer syntax."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRBigEndian

from errors import UnreadablePixels
from imaging.frames import name_of, tag_name, text

# What pydicom's decoders and the libraries behind them raise for pixel data that they cannot decode.
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

Pixels = NDArray[np.integer]


def stored_values(instance: Dataset) -> Iterator[Pixels]:
    """The frames in stored order, integers (rows, columns), before any rescaling.

    Uncompressed frames are views of the pixel data. Raises: UnreadablePixels naming the transfer syntax, or
    how many bytes are there.
    """
    who = name_of(instance)
    if "PixelData" not in instance:
        raise UnreadablePixels(f"{who} has no {tag_name('PixelData')}.")
    meta = getattr(instance, "file_meta", None) or Dataset()
    syntax = UID(text(meta, "TransferSyntaxUID"))
    if not syntax:
        raise UnreadablePixels(f"{who} has no {tag_name('TransferSyntaxUID')}.")
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        yield from _decoded(instance, syntax)
    else:
        yield from _native(instance, "big" if syntax == ExplicitVRBigEndian else "little")


def is_lossy(instance: Dataset) -> bool:
    return text(instance, "LossyImageCompression") == "01"


def _native(instance: Dataset, byte_order: str) -> Iterator[Pixels]:
    who = name_of(instance)
    allocated, stored = int(text(instance, "BitsAllocated") or 0), int(text(instance, "BitsStored") or 0)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
        raise UnreadablePixels(
            f"{who}: {tag_name('BitsAllocated')} is {allocated}, {tag_name('BitsStored')} {stored}."
        )
    signed = text(instance, "PixelRepresentation") == "1"
    dtype = np.dtype(f"{'>' if byte_order == 'big' else '<'}{'i' if signed else 'u'}{allocated // 8}")
    shape = (int(text(instance, "NumberOfFrames") or 1), int(instance.Rows), int(instance.Columns))
    needed = int(np.prod(shape)) * dtype.itemsize
    data = instance.PixelData
    if len(data) < needed:
        raise UnreadablePixels(
            f"{who}: {tag_name('PixelData')} holds {len(data)} bytes of {needed}; it is truncated."
        )
    frames: Pixels = np.frombuffer(data, dtype, count=int(np.prod(shape))).reshape(shape)
    unused = allocated - stored
    for frame in frames:
        # Older images keep overlay planes in the bits above the stored ones.
        yield (frame << unused) >> unused if unused else frame


def _decoded(instance: Dataset, syntax: UID) -> Iterator[Pixels]:
    try:
        for frame in iter_pixels(instance, raw=True):
            yield np.asarray(frame)
    except UNDECODABLE as error:
        raise UnreadablePixels(
            f"{name_of(instance)}: pixels in transfer syntax {syntax.name} ({syntax}) could not be decoded "
            f"({type(error).__name__})."
        ) from error
