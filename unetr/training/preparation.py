"""Preparation of training data: synthetic and labelled cases, each prepared once and stored on disk.

Whole patients of the labelled cases are held out, selected by a hash of the patient and a seed. The selection
does not change when cases are added, so that a model trained further is not validated on cases it has seen.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from errors import DataRefused
from imaging.grid import MM3_PER_ML
from imaging.sequences import T1_POST_CONTRAST
from unetr.brain import spread
from unetr.cautions import brain_intensities
from unetr.data.backgrounds import backgrounds, metastases_in
from unetr.data.cases import Case, CaseSource, LabelSelection, RejectedCase, truth_of, unknown_label
from unetr.data.datasets import sources
from unetr.evaluation.truth import sphere_diameter_mm
from unetr.preprocess import prepare, resample_labels, resample_share
from unetr.spec import ModelSpec, Trained
from unetr.synthesis import cohorts, glioma, spine
from unetr.training.config import Generated, Labelled
from unetr.training.samples import Sample, arrays, load

# Version of the arrays in a prepared folder; increase it when they change.
ARRAYS_VERSION = 4
KEY_DIGITS = 16
# In the folder of a run: the range of its training cases, for the model's specification.
TRAINED = "trained.json"
HELD_OUT_DIGITS = 8
# Percentile of the lesions' volumes up to which a model is said to be trained.
LARGEST_PERCENTILE = 99.0


@dataclass(frozen=True)
class CaseRecipe:
    """A case before its preparation. key: a text of everything but the spec that determines the result."""

    id: str
    key: str
    read: Callable[[], Case | RejectedCase]


@dataclass(frozen=True)
class Group:
    """The samples of one entry of a configuration's data, and its unusable cases.

    negatives: number of samples without a label.
    """

    name: str
    weight: float
    training: list[Sample]
    held_out: list[Sample]
    bad: list[RejectedCase]

    @property
    def negatives(self) -> int:
        return sum(len(sample.values) == 0 for sample in (*self.training, *self.held_out))


def metastases(
    seed: int, spacing_mm: float, without: str | None = None, heads: Sequence[CaseSource] = ()
) -> Case:
    """Make a head with brain metastases, all labelled 1, acquired with one of several protocols.

    without: a component of ``unetr.synthesis.cohorts.COMPONENTS`` to leave out. heads: real heads, one of
    which is the background; without any, the head is drawn.
    """
    head = metastases_in(heads, seed) if heads else cohorts.training_head(seed, without)
    truth = head.labels.with_array((head.labels.array > 0).astype(np.uint8))
    return Case(str(seed), {T1_POST_CONTRAST: head.image}, truth, head.brain, head.share)


# Generators by their name in a configuration: seed and approximate spacing, mm, to a case.
GENERATORS: Mapping[str, Callable[[int, float], Case]] = {
    "metastases": metastases,
    "glioma": glioma.case,
    "spine": spine.case,
}


def gather(data: Generated | Labelled, spec: ModelSpec, folder: Path, processes: int) -> Group:
    """Prepare the cases of one entry of the data that are not yet in the folder, and load them all.

    processes: number of parallel processes; 0: work in this one. Raises: DataRefused if the data's folder has
    another layout, or no case can be used for training.
    """
    bad: list[RejectedCase] = []
    if isinstance(data, Generated):
        training, held_out = generated(data, spec)
        name = f"made ({data.generator})"
    else:
        training, held_out, bad = labelled(data, spec)
        name = data.folder.name
    refused = _make_all(folder, [*training, *held_out], spec, processes)
    bad += refused.values()
    group = Group(
        name,
        data.weight,
        [load(path_of(folder, recipe, spec)) for recipe in training if recipe.id not in refused],
        [load(path_of(folder, recipe, spec)) for recipe in held_out if recipe.id not in refused],
        bad,
    )
    if not group.training:
        reason = f", as {bad[0].id}: {bad[0].reason}" if bad else ": the only patient is held out."
        raise DataRefused(f"None of the cases of {name} can be used for training{reason}")
    return group


def generated(data: Generated, spec: ModelSpec) -> tuple[list[CaseRecipe], list[CaseRecipe]]:
    """Return the synthetic cases for training and the held-out ones."""
    spacing_mm = min(spec.spacing_mm)

    heads = backgrounds(data.heads) if data.heads is not None else []
    versions = [head.versions for head in heads]

    def recipe_of(seed: int) -> CaseRecipe:
        read = partial(_generate, data, heads, seed, spacing_mm)
        key = (
            data.generator,
            data.labels,
            seed,
            data.without,
            versions[seed % len(heads)] if heads else None,
        )
        return CaseRecipe(str(seed), repr(key), read)

    first, first_held_out = cohorts.TRAINING_SEED, cohorts.VALIDATION_SEED
    training = [recipe_of(seed) for seed in range(first, first + data.training)]
    return training, [recipe_of(seed) for seed in range(first_held_out, first_held_out + data.validation)]


def _generate(data: Generated, heads: Sequence[CaseSource], seed: int, spacing_mm: float) -> Case:
    generator = GENERATORS[data.generator]
    if data.generator == "metastases":
        generator = partial(metastases, without=data.without, heads=heads)
    case = generator(seed, spacing_mm)
    if data.without == "partial volumes":
        case = replace(case, share=None)
    values = np.unique(case.truth.array[case.truth.array > 0]).tolist()
    return replace(case, truth=truth_of(case.truth, values, LabelSelection(data.labels)))


def labelled(
    data: Labelled, spec: ModelSpec
) -> tuple[list[CaseRecipe], list[CaseRecipe], list[RejectedCase]]:
    """Return a folder's cases for training, the held-out ones, and those known to be bad before reading.

    Raises: DataRefused.
    """
    entries = list(sources(data.folder, data.layout, data.labels, spec.inputs))
    cases = [source for source in entries if isinstance(source, CaseSource)]
    apart = held_out_patients({source.patient for source in cases}, data.validation, data.seed)
    training, held_out = (
        [
            CaseRecipe(source.id, _identity(source, data), source.load)
            for source in cases
            if (source.patient in apart) is held
        ]
        for held in (False, True)
    )
    return training, held_out, [case for case in entries if isinstance(case, RejectedCase)]


def held_out_patients(patients: set[str], share: float, seed: int) -> set[str]:
    """Select about that share of the patients, at least one if there are patients and a share."""
    if not patients or not share:
        return set()
    place = {
        patient: int(hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()[:HELD_OUT_DIGITS], 16)
        for patient in patients
    }
    chosen = {patient for patient in patients if place[patient] < share * 16**HELD_OUT_DIGITS}
    return chosen or {min(patients, key=lambda patient: place[patient])}


def _identity(source: CaseSource, data: Labelled) -> str:
    """Return a text that changes with the case's files and the labels selected from it."""
    return repr((source.id, data.labels, source.versions))


def path_of(folder: Path, recipe: CaseRecipe, spec: ModelSpec) -> Path:
    """Return the folder of that case, prepared for that spec."""
    brain = spec.brain.factor if spec.brain is not None else None
    labels = [(label.value, label.whole) for label in spec.labels]
    steps = (spec.acquired_intensity, spec.resampling, spec.intensity)
    grid = (spec.orientation, spec.spacing_mm, steps, spec.crop, spec.inputs)
    parts = repr((ARRAYS_VERSION, grid, labels, brain, recipe.key))
    return folder / hashlib.sha256(parts.encode()).hexdigest()[:KEY_DIGITS]


def _make_all(
    folder: Path, recipes: Sequence[CaseRecipe], spec: ModelSpec, processes: int
) -> dict[str, RejectedCase]:
    """Prepare the missing cases; return the unusable ones by id."""
    missing = [(folder, recipe, spec) for recipe in recipes if not path_of(folder, recipe, spec).exists()]
    if processes and missing:
        with get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
            rejections = pool.starmap(make, missing, chunksize=1)
    else:
        rejections = [make(*arguments) for arguments in missing]
    return {bad.id: bad for bad in rejections if bad is not None}


def make(folder: Path, recipe: CaseRecipe, spec: ModelSpec) -> RejectedCase | None:
    """Read one case, prepare it as inference does and save it; return a RejectedCase if it is unusable."""
    case = recipe.read()
    if isinstance(case, RejectedCase):
        return case
    if (bad := unknown_label(case, spec)) is not None:
        return bad
    first, *others = (case.images[name] for name in spec.inputs)
    prepared = prepare(first, spec, others)
    truth = resample_labels(case.truth, prepared).array.astype(np.uint8)
    brain = resample_labels(case.brain, prepared).array > 0 if case.brain is not None else None
    share = resample_share(case.share, prepared, spec) if case.share is not None else None
    path = path_of(folder, recipe, spec)
    unfinished = path.with_suffix(".part")
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, array in arrays(prepared, truth, brain, spec, share).items():
        np.save(unfinished / f"{name}.npy", array)
    unfinished.rename(path)
    return None


def trained_range(samples: Sequence[Sample], factor: int) -> Trained | None:
    """Return the range of the training cases; None if no lesion is known.

    factor: voxels of the model's grid along a side of a voxel of the brain's grid.
    """
    volumes_mm3 = np.concatenate([sample.volumes_mm3 for sample in samples])
    if not len(volumes_mm3):
        return None
    intensities = []
    for sample in samples:
        if sample.brain is not None:
            brain = spread(sample.brain > 0.5, factor, sample.search_mask.shape)
            intensities.append(brain_intensities(sample.image[0].astype(np.float32), brain))
    limits = None
    if intensities:
        extremes = (np.min(intensities, axis=0), np.max(intensities, axis=0))
        limits = np.round(extremes, 3).T.tolist()
    largest_ml = float(np.percentile(volumes_mm3, LARGEST_PERCENTILE)) / MM3_PER_ML
    largest_mm = round(sphere_diameter_mm(largest_ml), 1)
    return Trained.model_validate({"largest_mm": largest_mm, "brain_intensities": limits})
