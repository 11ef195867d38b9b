"""Labelled studies as NIfTI files, in the layouts of nnU-Net, the Medical Segmentation Decathlon and BraTS.

nnunet  FOLDER/dataset.json, imagesTr/NAME_0000.nii.gz, imagesTr/NAME_0001.nii.gz ..., labelsTr/NAME.nii.gz.
        The four digits are the channels that dataset.json names, {"channel_names": {"0": "T1", ...},
        "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}; nnU-Net 1 has "modality" and
        {"0": "background"}. (nnU-Net's documentation/dataset_format.md)
msd     FOLDER/dataset.json with "modality", "labels" and "training": [{"image": "./imagesTr/NAME.nii.gz",
        "label": "./labelsTr/NAME.nii.gz"}]; an image's fourth axis is the modality. Task01_BrainTumour
        has FLAIR, T1w, t1gd, T2w and 1 edema, 2 non-enhancing tumor, 3 enhancing tumour. (Antonelli et al.,
        "The Medical Segmentation Decathlon", Nature Communications 2022)
brats   FOLDER/BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz: 1 necrotic core, 2 edema,
        4 enhancing (Baid et al., arXiv:2107.02314); FOLDER/BraTS-MET-00001-000/BraTS-MET-00001-000-
        {t1n,t1c,t2w,t2f,seg}.nii.gz, since 2023: 1 NETC (non-enhancing tumour core), 2 SNFH (oedema), 3 ET
        (Moawad et al., arXiv:2306.00838).

Files whose names begin with a dot, which macOS leaves in archives, are ignored.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from errors import DataRefused, InconsistentImages, InputRefused
from imaging.grid import steps_on_grid
from imaging.nifti import read_channels, read_mask, read_stack
from imaging.sequences import FLAIR, T1, T1_POST_CONTRAST, T2
from imaging.stack import Stack
from unetr.data.cases import Case, CaseSource, LabelSelection, RejectedCase, subfolders, truth_of

# Known names of channels, regardless of case and separators; other names are kept as they are.
USUAL_NAMES = {
    T1: ("t1", "t1w", "t1n", "t1native", "t1pre"),
    T1_POST_CONTRAST: ("t1c", "t1ce", "t1gd", "t1post", "t1wce", "t1wgd", "t1postcontrast", "t1cpost"),
    T2: ("t2", "t2w"),
    FLAIR: ("flair", "t2f", "t2flair", "fla"),
}
ENDINGS = (".nii.gz", ".nii")
# BraTS-MET-00001-000 and BraTS-MET-00001-001 are one patient at two times.
TIME_POINT = re.compile(r"(?<=-\d{5})-\d{3}$")


@dataclass(frozen=True)
class _Edition:
    """The file names of one edition of BraTS. known_values: of its labels."""

    separator: str
    ends: Mapping[str, str]
    known_values: tuple[int, ...]


BRATS = (
    _Edition("-", {T1: "t1n", T1_POST_CONTRAST: "t1c", T2: "t2w", FLAIR: "t2f"}, (1, 2, 3)),
    _Edition("_", {T1: "t1", T1_POST_CONTRAST: "t1ce", T2: "t2", FLAIR: "flair"}, (1, 2, 4)),
)


class _Pair(BaseModel):
    image: str
    label: str


class _Description(BaseModel):
    """The relevant fields of a dataset.json."""

    channels: dict[int, str] = Field(validation_alias=AliasChoices("channel_names", "modality"))
    labels: dict[str, int | list[int] | str]
    file_ending: str = ENDINGS[0]
    training: list[_Pair] = []

    @property
    def names(self) -> dict[int, str]:
        """Return the sequence of each channel, in order; the data set's own names if two would coincide."""
        usual = {number: _usual(name) for number, name in sorted(self.channels.items())}
        return usual if len(set(usual.values())) == len(usual) else dict(sorted(self.channels.items()))

    @property
    def known_values(self) -> set[int]:
        """Return the label values; if a key maps to a name, the key is the value."""
        entries = (int(key) if isinstance(value, str) else value for key, value in self.labels.items())
        return {int(value) for entry in entries for value in np.atleast_1d(entry)} - {0}


def nnunet(folder: Path, selection: LabelSelection) -> Iterator[CaseSource | RejectedCase]:
    """Yield the training cases of an nnU-Net folder. Raises: DataRefused if it has another layout."""
    description = _description(folder)
    names, ending = description.names, description.file_ending
    chosen = selection.of(list(names.values()))
    labels = {path.name.removesuffix(ending): path for path in _files(folder, "labelsTr", ending)}
    images: dict[str, dict[str, Path]] = {}
    for path in _files(folder, "imagesTr", ending):
        parts = re.fullmatch(r"(.+)_(\d{4})", path.name.removesuffix(ending))
        if parts and int(parts[2]) in names:
            images.setdefault(parts[1], {})[names[int(parts[2])]] = path
    for case_id in sorted(labels.keys() | images.keys()):
        channels = images.get(case_id, {})
        missing = [number for number, name in names.items() if name in chosen and name not in channels]
        if case_id not in labels:
            yield RejectedCase(case_id, f"The label is missing: there is no labelsTr/{case_id}{ending}.")
        elif missing:
            name = f"imagesTr/{case_id}_{missing[0]:04}{ending}"
            yield RejectedCase(case_id, f"{names[missing[0]]} is missing: there is no {name}.")
        else:
            paths = {name: channels[name] for name in chosen}
            read = partial(_of_files, case_id, paths, labels[case_id], description.known_values, selection)
            yield CaseSource(case_id, case_id, (*paths.values(), labels[case_id]), read)


def msd(folder: Path, selection: LabelSelection) -> Iterator[CaseSource | RejectedCase]:
    """Yield the training cases of a Decathlon task. Raises: DataRefused if it has another layout."""
    description = _description(folder)
    names = list(description.names.values())
    selection.of(names)
    if not description.training:
        raise DataRefused(f"{folder / 'dataset.json'} lists no training case.")
    for pair in description.training:
        image, label = folder / pair.image, folder / pair.label
        case_id = image.name.removesuffix(".gz").removesuffix(".nii")
        missing = [name for name, path in ((pair.image, image), (pair.label, label)) if not path.is_file()]
        if missing:
            yield RejectedCase(case_id, f"dataset.json lists {missing[0]}, which is missing.")
        else:
            read = partial(_of_channels, case_id, image, names, label, description.known_values, selection)
            yield CaseSource(case_id, case_id, (image, label), read)


def brats(folder: Path, selection: LabelSelection) -> Iterator[CaseSource | RejectedCase]:
    """Yield the cases of a BraTS training folder, one in each subfolder. Raises: DataRefused if none."""
    for case_id in [path.name for path in subfolders(folder)]:
        edition = next(
            (
                edition
                for edition in BRATS
                if any((folder / case_id).glob(f"{case_id}{edition.separator}*.nii*"))
            ),
            None,
        )
        if edition is None:
            names = f"{case_id}-t1c.nii.gz (2023) and no {case_id}_t1ce.nii.gz (2021)"
            yield RejectedCase(case_id, f"The folder holds no {names}.")
            continue
        ends = {name: edition.ends[name] for name in selection.of(list(edition.ends))}
        stem = folder / case_id / f"{case_id}{edition.separator}"
        paths = {name: _with_ending(f"{stem}{end}") for name, end in {**ends, "The label": "seg"}.items()}
        missing = [name for name, path in paths.items() if not path.is_file()]
        if missing:
            yield RejectedCase(case_id, f"{missing[0]} is missing: there is no {paths[missing[0]].name}.")
            continue
        files = tuple(paths.values())
        label = paths.pop("The label")
        read = partial(_of_files, case_id, paths, label, edition.known_values, selection)
        yield CaseSource(case_id, TIME_POINT.sub("", case_id), files, read)


def _of_files(
    case_id: str,
    paths: Mapping[str, Path],
    label: Path,
    known_values: Collection[int],
    selection: LabelSelection,
) -> Case:
    """Read a case with one file per sequence. Raises: InputRefused."""
    stacks = {}
    for name, path in paths.items():
        with _naming(path):
            stacks[name] = read_stack(path)
    first = next(iter(paths.values()))
    reference = next(iter(stacks.values()))
    for name, path in paths.items():
        with _naming(path):
            _check_grid(stacks[name].volume, reference.volume, first.name)
    return _case(case_id, stacks, label, known_values, selection)


def _of_channels(
    case_id: str,
    image: Path,
    names: Sequence[str],
    label: Path,
    known_values: Collection[int],
    selection: LabelSelection,
) -> Case:
    """Read a case from one file with a channel per sequence. Raises: InputRefused."""
    with _naming(image):
        stacks = read_channels(image)
        if len(stacks) != len(names):
            raise DataRefused(
                f"The file has {len(stacks)} channels, dataset.json names {len(names)}: {', '.join(names)}."
            )
    named = dict(zip(names, stacks, strict=True))
    return _case(case_id, {name: named[name] for name in selection.of(names)}, label, known_values, selection)


def _case(
    case_id: str,
    stacks: Mapping[str, Stack],
    label: Path,
    known_values: Collection[int],
    selection: LabelSelection,
) -> Case:
    with _naming(label):
        mask = read_mask(label, next(iter(stacks.values())))
        truth = truth_of(mask, known_values, selection)
    return Case(case_id, {name: stack.volume for name, stack in stacks.items()}, truth)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise any InputRefused from inside as a DataRefused that names the file."""
    try:
        yield
    except InputRefused as error:
        raise DataRefused(f"{path.name}: {error.problem}") from error


def _check_grid(volume: hd.Volume, reference: hd.Volume, name: str) -> None:
    steps = steps_on_grid(volume.affine, volume.spatial_shape, reference, f"Compared with {name}")
    ours, theirs = (
        f"{' x '.join(map(str, grid.spatial_shape))} voxels (slices, rows, columns) from LPS "
        f"{', '.join(f'{mm:.1f}' for mm in grid.affine[:3, 3])} mm on"
        for grid in (volume, reference)
    )
    if volume.spatial_shape != reference.spatial_shape or not np.array_equal(steps, np.eye(3, 4)):
        raise InconsistentImages(f"It covers {ours}; {name} covers {theirs}.")


def _description(folder: Path) -> _Description:
    path = folder / "dataset.json"
    try:
        return _Description.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataRefused(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataRefused(
            f"{path} does not follow the format of nnU-Net or the Decathlon: {place}: {first['msg']}."
        ) from error


def _files(folder: Path, name: str, ending: str) -> list[Path]:
    if ending not in ENDINGS:
        raise DataRefused(f"dataset.json says {ending!r}; only {' and '.join(ENDINGS)} are read.")
    try:
        paths = sorted((folder / name).iterdir())
    except OSError as error:
        raise DataRefused(f"{folder / name} cannot be read: {error.strerror}.") from error
    return [path for path in paths if path.name.endswith(ending) and not path.name.startswith(".")]


def _with_ending(path: str) -> Path:
    """Return the file of that name with an ending that exists, otherwise with the usual one."""
    files = [Path(path + ending) for ending in ENDINGS if Path(path + ending).is_file()]
    return files[0] if files else Path(path + ENDINGS[0])


def _usual(name: str) -> str:
    letters = re.sub(r"[\W_]+", "", name.lower())
    return next((usual for usual, names in USUAL_NAMES.items() if letters in names), name)
