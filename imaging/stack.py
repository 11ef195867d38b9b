"""A complete volume that remembers which DICOM slice each of its slices came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import highdicom as hd
from pydicom import Dataset


@dataclass(frozen=True)
class SliceReference:
    """Where a slice came from: a SOP Instance UID, and the 1-based frame of a multi-frame image."""

    sop_instance_uid: str | None
    frame: int | None = None


@dataclass(frozen=True)
class Stack:
    """One complete volume of a series.

    volume: float32 (slices, rows, columns), affine index -> LPS mm, rescaled to real values.
    slices: one reference per slice, in the order of the volume's first axis.
    headers: the instances without pixel data, one per slice (one in all for multi-frame images),
        in the order of the slices; what a SEG inherits patient, study and frame of reference from.
    warnings: sentences to be stored with the result.
    """

    volume: hd.Volume
    slices: Sequence[SliceReference]
    headers: Sequence[Dataset]
    warnings: Sequence[str] = field(default_factory=tuple)
