"""Real cases below a folder, with and without truth, for ``bench.real`` and ``bench.implants``.

A folder in a layout of ``unetr.data.datasets`` is read as that layout. Of other NIfTI files each is an image,
unless its name says that it is a companion of the image beside it: NAME-label or NAME_seg is its lesions,
NAME_DLMUSE or NAME_brainmask its brain. Endings such as _image or _T1 do not count for the pairing.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter
from scipy import ndimage

from errors import InputRefused
from imaging.nifti import read_mask, read_stack
from imaging.sequences import T1_POST_CONTRAST
from lesions.measure import components
from unetr.data.cases import CaseSource, RejectedCase
from unetr.data.datasets import sources
from unetr.preprocess import head_mask

NIFTI = re.compile(r"\.nii(\.gz)?$")
LESION_ENDING = re.compile(r"[-_.](labels?|seg(mentation)?|masks?|gt|truth|lesions?|core)$", re.I)
BRAIN_ENDING = re.compile(r"[-_.](dlmuse|brain|brain[-_]?mask|parcellation)$", re.I)
IMAGE_ENDING = re.compile(r"[-_.](image|img|t1\w*)$", re.I)
KNOWN = Path(__file__).with_name("real.toml")
# The value of BraTS that is not the core, and the values of both editions.
BRATS_OEDEMA = 2
BRATS_VALUES = ({1, 2, 4}, {1, 2, 3})
# Half the width of a sulcus that a brain's outline bridges.
SULCI_MM = 4.0


class Known(BaseModel):
    """What is known of a case beyond its files; real.toml explains the fields.

    labels: None: all values but BraTS's oedema. smallest_mm3: by default, less than any lesion of interest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[int, ...] | None = None
    smallest_mm3: float = 10.0
    lesion_free: bool = False
    trained: bool = False
    brain_only: bool = False
    enhanced: bool = False


UNKNOWN = Known()


@cache
def _known_cases() -> dict[str, Known]:
    return TypeAdapter(dict[str, Known]).validate_python(tomllib.loads(KNOWN.read_text()))


def known_of(stem: str) -> Known:
    """Return what real.toml knows of the image of that name; the first pattern that fits counts."""
    return next((known for name, known in _known_cases().items() if fnmatch(stem, name)), UNKNOWN)


@dataclass(frozen=True)
class RealCase:
    """A real case on one grid (slice, row, column).

    truth: lesion numbers; None: not known. brain: 1 in the brain; None: not known. warnings: of the reader.
    """

    image: hd.Volume
    truth: hd.Volume | None
    brain: hd.Volume | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RealSource:
    """A case before it is read. load: raises InputRefused."""

    name: str
    load: Callable[[], RealCase]
    known: Known = UNKNOWN


def real_cases(folder: Path) -> Iterator[RealSource]:
    """Yield the cases of a folder and its subfolders, by name."""
    layout = _layout(folder)
    if layout is not None:
        yield from _of_layout(folder, layout)
        return
    yield from _of_files(folder)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            for source in real_cases(path):
                yield replace(source, name=f"{path.name}/{source.name}")


def _layout(folder: Path) -> Literal["nnunet", "msd", "brats", "dicom"] | None:
    if (folder / "dataset.json").is_file():
        numbered = any((folder / "imagesTr").glob("*_0000.nii*"))
        return "nnunet" if numbered else "msd"
    post_contrast = (*folder.glob("*/*-t1c.nii*"), *folder.glob("*/*_t1ce.nii*"))
    if any(path.name.startswith(path.parent.name) for path in post_contrast):
        return "brats"
    return "dicom" if any(folder.glob("*/*.dcm")) or any(folder.glob("*/*/*.dcm")) else None


def _of_layout(folder: Path, layout: str) -> Iterator[RealSource]:
    labels = {BRATS_OEDEMA: 0} if layout == "brats" else None
    for source in sources(folder, layout, labels, [T1_POST_CONTRAST]):
        yield RealSource(source.id, partial(_read_source, source))


def _read_source(source: CaseSource | RejectedCase) -> RealCase:
    case = source if isinstance(source, RejectedCase) else source.load()
    if isinstance(case, RejectedCase):
        raise InputRefused(case.reason)
    truth = _lesions(case.truth.with_array(case.truth.array > 0), UNKNOWN.smallest_mm3)
    return RealCase(case.images[T1_POST_CONTRAST], truth, case.brain)


@dataclass(frozen=True)
class _Files:
    """An image's file and those of its companions."""

    image: Path
    lesions: Path | None
    brain: Path | None
    known: Known


def _of_files(folder: Path) -> Iterator[RealSource]:
    stems = {NIFTI.sub("", path.name): path for path in sorted(folder.iterdir()) if NIFTI.search(path.name)}
    companions = [stem for stem in stems if LESION_ENDING.search(stem) or BRAIN_ENDING.search(stem)]
    for stem, path in stems.items():
        if stem in companions:
            continue
        bases = {stem, IMAGE_ENDING.sub("", stem)}
        lesions = [s for s in companions if LESION_ENDING.search(s) and LESION_ENDING.sub("", s) in bases]
        brains = [s for s in companions if BRAIN_ENDING.search(s) and BRAIN_ENDING.sub("", s) in bases]
        files = _Files(
            path,
            stems[lesions[0]] if lesions else None,
            stems[brains[0]] if brains else None,
            known_of(stem),
        )
        yield RealSource(stem, partial(_read_files, files), files.known)


def _read_files(files: _Files) -> RealCase:
    stack = read_stack(files.image)
    truth = None
    if files.known.lesion_free:
        truth = stack.volume.with_array(np.zeros(stack.volume.spatial_shape, dtype=np.int32))
    elif files.lesions is not None:
        chosen = _chosen(read_mask(files.lesions, stack), files.known.labels)
        truth = _lesions(chosen, files.known.smallest_mm3)
    brain = None
    if files.brain is not None:
        brain = _solid(read_mask(files.brain, stack))
    elif files.known.brain_only:
        brain = _solid(stack.volume.with_array(head_mask(stack.volume.array)))
    return RealCase(stack.volume, truth, brain, tuple(stack.warnings))


def _chosen(mask: hd.Volume, labels: tuple[int, ...] | None) -> hd.Volume:
    """Return which voxels of a label volume are lesions: those labels, or all but BraTS's oedema."""
    values = set(np.unique(mask.array).tolist()) - {0}
    chosen = np.isin(mask.array, labels or list(values))
    if labels is None and values in BRATS_VALUES:
        chosen &= mask.array != BRATS_OEDEMA
    return mask.with_array(chosen)


def _lesions(mask: hd.Volume, smallest_mm3: float) -> hd.Volume:
    """Number the components of that volume or more."""
    lesions = components(mask)
    kept = np.bincount(lesions.array.ravel()) >= smallest_mm3 / lesions.voxel_volume
    kept[0] = False
    numbers = np.cumsum(kept) * kept
    return lesions.with_array(numbers[lesions.array].astype(np.int32))


def _solid(mask: hd.Volume) -> hd.Volume:
    """Return the mask of a brain's outline: sulci closed and ventricles filled."""
    reach = [max(round(SULCI_MM / spacing), 1) for spacing in mask.spacing]
    padded = np.pad(mask.array > 0, [(n, n) for n in reach])
    ball = np.ones([2 * n + 1 for n in reach], dtype=bool)
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(padded, ball))
    inner = tuple(slice(n, -n) for n in reach)
    return mask.with_array(np.asarray(solid[inner]).astype(np.uint8))
