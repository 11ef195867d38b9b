"""Labelled studies for training, read one at a time from common layouts of data sets.

    for case in cases(Path("Task01_BrainTumour"), "msd", labels="merge"):
        if isinstance(case, RejectedCase):
            print(case.id, case.reason)

cases.py defines a case; nifti_layouts.py and dicom_layout.py define its files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from unetr.data.cases import Case, CaseSource, LabelSelection, RejectedCase
from unetr.data.dicom_layout import dicom
from unetr.data.nifti_layouts import brats, msd, nnunet

__all__ = ["LAYOUTS", "Case", "CaseSource", "RejectedCase", "cases", "sources"]

LAYOUTS: Mapping[str, Callable[[Path, LabelSelection], Iterator[CaseSource | RejectedCase]]] = {
    "nnunet": nnunet,
    "msd": msd,
    "brats": brats,
    "dicom": dicom,
}


def sources(
    folder: Path,
    layout: str,
    labels: Mapping[int, int] | Literal["merge"] | None = None,
    sequences: Sequence[str] | None = None,
) -> Iterator[CaseSource | RejectedCase]:
    """Yield the cases of a folder before they are read, to be split or sent to other processes.

    layout: one of LAYOUTS. labels: new label values by the data set's own, e.g. {4: 3}; others are kept, 0
    drops a label, "merge" makes all 1. sequences: the images to read; others may be missing and are not read.
    Raises: DataRefused if the folder has another layout, ValueError for label values outside 0 to 255.
    """
    return LAYOUTS[layout](folder, LabelSelection({} if labels is None else labels, sequences))


def cases(
    folder: Path,
    layout: str,
    labels: Mapping[int, int] | Literal["merge"] | None = None,
    sequences: Sequence[str] | None = None,
) -> Iterator[Case | RejectedCase]:
    """Yield each case of a folder, read on demand; an unusable one as a RejectedCase with its reason.

    Arguments and errors: as for ``sources``.
    """
    case_sources = sources(folder, layout, labels, sequences)
    return (source if isinstance(source, RejectedCase) else source.load() for source in case_sources)
