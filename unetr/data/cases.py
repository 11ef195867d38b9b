"""A labelled study, as every layout of unetr/data/datasets.py is read, and the selection of its labels."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np

from errors import DataRefused, MetScopeError
from unetr.spec import ModelSpec

MAX_LABEL_VALUE = 255


@dataclass(frozen=True)
class Case:
    """A labelled study, all of it on one grid (slice, row, column), affine index -> LPS mm.

    images: float32, by sequence name (``imaging.sequences.SEQUENCES``, or the data set's own name).
    truth: uint8 label values, 0 background; it may be empty. brain: uint8, 1 in the brain; None if unknown.
    share: float32, the share of each voxel that is labelled, for one label; None if unknown.
    """

    id: str
    images: Mapping[str, hd.Volume]
    truth: hd.Volume
    brain: hd.Volume | None = None
    share: hd.Volume | None = None


@dataclass(frozen=True)
class RejectedCase:
    """A case that cannot be used. reason: one sentence."""

    id: str
    reason: str


@dataclass(frozen=True)
class CaseSource:
    """A case that has not been read yet.

    patient: a text that differs between patients. files: the files to read. read: can be pickled for another
    process; raises MetScopeError.
    """

    id: str
    patient: str
    files: tuple[Path, ...]
    read: Callable[[], Case]

    @property
    def versions(self) -> list[tuple[str, int, int]]:
        """Return path, size in bytes and time of change in ns of each file."""
        changes = ((file, file.stat()) for file in self.files)
        return [(str(file), change.st_size, change.st_mtime_ns) for file, change in changes]

    def load(self) -> Case | RejectedCase:
        try:
            return self.read()
        except MetScopeError as error:
            return RejectedCase(self.id, error.problem)


@dataclass(frozen=True)
class LabelSelection:
    """A caller's selection of labels and sequences for each case. Raises: ValueError for values beyond 0-255.

    labels: new values by the data set's own; others are kept, 0 drops a label. "merge": all become 1.
    sequences: the images to read, all of which are required; None: all that the layout has.
    """

    labels: Mapping[int, int] | Literal["merge"] = field(default_factory=dict)
    sequences: Sequence[str] | None = None

    def __post_init__(self) -> None:
        pairs = () if isinstance(self.labels, str) else self.labels.items()
        if not all(0 <= value <= MAX_LABEL_VALUE for pair in pairs for value in pair):
            raise ValueError(f"label values are 0 to {MAX_LABEL_VALUE}, not {self.labels}")

    def of(self, promised: Collection[str]) -> list[str]:
        """Return the sequences to read from those of the layout. Raises: DataRefused if one is missing."""
        missing = [name for name in self.sequences or () if name not in promised]
        if missing:
            raise DataRefused(f"There is no {missing[0]} among {', '.join(promised) or 'no sequences'}.")
        return list(promised if self.sequences is None else self.sequences)


def truth_of(label: hd.Volume, known_values: Collection[int], selection: LabelSelection) -> hd.Volume:
    """Return the label volume, uint8, with the caller's label values.

    label: integers from 0; all 0 if a reader found nothing. known_values: the layout's, other than 0.
    Raises: DataRefused if a value is neither known nor named by the caller.
    """
    values = np.unique(label.array[label.array > 0]).tolist()
    renamed = dict.fromkeys(known_values, 1) if isinstance(selection.labels, str) else selection.labels
    odd = [value for value in values if value not in known_values and value not in renamed]
    if odd:
        raise DataRefused(
            f"The label holds the value {odd[0]}; "
            f"the layout knows {', '.join(map(str, sorted(known_values)))}."
        )
    new = np.arange(MAX_LABEL_VALUE + 1, dtype=np.uint8)
    for value, new_value in renamed.items():
        new[value] = new_value
    return label.with_array(new[label.array])


def unknown_label(case: Case, spec: ModelSpec) -> RejectedCase | None:
    """Return why the model cannot learn or be scored on the case: a label that it does not have."""
    largest, label_count = int(case.truth.array.max()), len(spec.labels)
    if largest <= label_count:
        return None
    reason = (
        f"The label holds the value {largest}; {spec.id} has 1 to {label_count} (rename, drop or merge it)."
    )
    return RejectedCase(case.id, reason)


def subfolders(folder: Path) -> list[Path]:
    """List the folders of a layout with one per case, except hidden ones. Raises: DataRefused if none."""
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataRefused(f"{folder} cannot be read: {error.strerror}.") from error
    if not folders:
        raise DataRefused(f"{folder} contains no folders; this layout has one folder per case.")
    return folders
