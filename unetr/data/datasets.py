"""Labelled studies to learn from, read one at a time from the layouts that data sets come in.

    for case in cases(Path("Task01_BrainTumour"), "msd", labels="merge"):
        if isinstance(case, BadCase):
            print(case.id, case.reason)

cases.py says what a case is, nifti_layouts.py and dicom_layout.py which files make one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from unetr.data.cases import BadCase, Case, Source, Wanted
from unetr.data.dicom_layout import dicom
from unetr.data.nifti_layouts import brats, msd, nnunet

__all__ = ["LAYOUTS", "BadCase", "Case", "Source", "cases", "sources"]

LAYOUTS: Mapping[str, Callable[[Path, Wanted], Iterator[Source | BadCase]]] = {
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
) -> Iterator[Source | BadCase]:
    """The cases of a folder before they are read, to be divided or sent to other processes.

    layout: one of LAYOUTS. labels: new label values by the data set's own, e.g. {4: 3}; those not named stay,
    0 leaves out, "merge" makes all 1. sequences: the images wanted; others may be missing and cost no time.
    Raises: DataRefused where the folder is not of that layout, ValueError for label values beyond 0 to 255.
    """
    return LAYOUTS[layout](folder, Wanted({} if labels is None else labels, sequences))


def cases(
    folder: Path,
    layout: str,
    labels: Mapping[int, int] | Literal["merge"] | None = None,
    sequences: Sequence[str] | None = None,
) -> Iterator[Case | BadCase]:
    """Each case of a folder, read when it is asked for; one that cannot be learnt from says why, and the next
    one follows. Arguments and errors: as of ``sources``.
    """
    found = sources(folder, layout, labels, sequences)
    return (source if isinstance(source, BadCase) else source.load() for source in found)
