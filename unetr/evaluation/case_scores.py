"""One case: what a model found in a head whose lesions are known, as numbers and small pictures.

A case is stored as one JSON file, so that an evaluation that was stopped goes on and no head is kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydantic import TypeAdapter
from scipy import ndimage

from imaging.stack import SliceReference
from lesions.measure import MM3_PER_ML, Lesion, components, measure
from unetr.confidence import confidence
from unetr.evaluation.pictures import Failure, save_picture
from unetr.evaluation.scores import LesionWise, Match, Overlap, brats_mets, lesion_overlaps, match, overlap
from unetr.evaluation.statistics import binned
from unetr.predict import Prediction
from unetr.spec import ModelSpec, PostProcessing

# Name, lower and upper end of the true diameter; the last two hold all that the others hold.
BINS_MM = (
    ("2-3 mm", 2.0, 3.0),
    ("3-5 mm", 3.0, 5.0),
    ("5-10 mm", 5.0, 10.0),
    ("10 mm and more", 10.0, math.inf),
    ("3 mm and more", 3.0, math.inf),
    ("all", 0.0, math.inf),
)
# From this diameter on a lesion counts for the sensitivity that models are chosen by.
COUNTED_FROM_MM = 3.0
# What the FROC ranks: many more candidates than the operating point leaves.
CANDIDATES = PostProcessing(threshold=0.1, minimum_volume_mm3=10.0)
MOST_PICTURES = 3


@dataclass(frozen=True)
class TrueLesion:
    """One true lesion and what was found of it.

    diameter_mm: of the sphere of its volume. covered: the fraction of its voxels that was predicted; found: a
    tenth or more. volume_ml, long_axis_mm: as its voxels measure. partner: the component that overlaps it
    most. overlap: with that one. candidate_score: the highest probability that a candidate must reach for
    the lesion still to be found; None where no candidate finds it.
    """

    number: int
    diameter_mm: float
    volume_ml: float
    long_axis_mm: float
    covered: float
    found: bool
    partner: int | None
    overlap: Overlap | None
    candidate_score: float | None


@dataclass(frozen=True)
class Component:
    """What the model calls a lesion. real: it touches a true one. confidence: None without a calibration."""

    number: int
    volume_ml: float
    long_axis_mm: float
    mean_probability: float
    confidence: float | None
    real: bool


@dataclass(frozen=True)
class Case:
    """One head. seconds: of the prediction. unseen: lesions too small for a voxel, which do not count.

    refused: the model found no brain and gave no answer, which counts as nothing found. overall: all true
    against all predicted voxels, None where there is no true lesion. false_scores: the highest probability of
    each candidate that touches no lesion. voxels: (3, 10), as ``binned`` gives them, of the voxels around the
    candidates. pictures: by file name in the folder of the case.
    """

    kind: str
    seed: int
    spacing_mm: tuple[float, float, float]
    seconds: float
    refused: bool
    unseen: int
    overall: Overlap | None
    lesion_wise: LesionWise
    lesions: tuple[TrueLesion, ...]
    components: tuple[Component, ...]
    false_scores: tuple[float, ...]
    voxels: tuple[tuple[float, ...], ...]
    pictures: dict[str, Failure]

    @property
    def false_positives(self) -> int:
        """Components that touch no true lesion."""
        return sum(not component.real for component in self.components)

    def lesions_of(self, low_mm: float, high_mm: float = math.inf) -> list[TrueLesion]:
        """The true lesions of those diameters, the upper end excluded."""
        return [lesion for lesion in self.lesions if low_mm <= lesion.diameter_mm < high_mm]


CASE = TypeAdapter(Case)


def found_of(cases: Sequence[Case], low_mm: float, high_mm: float = math.inf) -> tuple[list[int], list[int]]:
    """Of those diameters the lesions found and all lesions, by case."""
    chosen = [case.lesions_of(low_mm, high_mm) for case in cases]
    return [sum(lesion.found for lesion in some) for some in chosen], [len(some) for some in chosen]


@dataclass(frozen=True)
class Truth:
    """A head whose lesions are known. image, labels: on one grid; labels: lesion numbers, 0 elsewhere.

    diameters_mm: by lesion number, where something better is known than what the voxels say.
    """

    kind: str
    seed: int
    image: hd.Volume
    labels: hd.Volume
    diameters_mm: Mapping[int, float]


def judge(truth: Truth, prediction: Prediction, candidates: Prediction, spec: ModelSpec) -> Case:
    """Compare a prediction with the truth.

    candidates: the same model's with the post-processing CANDIDATES. Seconds and pictures stay empty here.
    Raises: ValueError where truth and prediction are on different grids.
    """
    found = components(prediction.mask)
    outcome = match(truth.labels, found)
    slices = [SliceReference(None)] * found.spatial_shape[0]
    measured = measure(found, slices, prediction.probability)
    overlaps = lesion_overlaps(truth.labels, found, outcome.partners)
    loose = components(candidates.mask)
    near = match(truth.labels, loose)
    numbers = np.arange(1, int(loose.array.max()) + 1)
    peaks = ndimage.maximum(candidates.probability.array, loose.array, numbers)
    scores = dict(zip(numbers.tolist(), map(float, peaks), strict=True))
    seen = candidates.probability.array > 0
    true_voxels = truth.labels.array != 0
    return Case(
        kind=truth.kind,
        seed=truth.seed,
        spacing_mm=truth.image.spacing,
        seconds=0.0,
        refused=False,
        unseen=len(set(truth.diameters_mm) - set(outcome.covered)),
        overall=overlap(truth.labels, found) if true_voxels.any() else None,
        lesion_wise=brats_mets(truth.labels, found),
        lesions=tuple(
            TrueLesion(
                number=lesion.number,
                diameter_mm=truth.diameters_mm.get(lesion.number, _sphere_mm(lesion.volume_ml)),
                volume_ml=lesion.volume_ml,
                long_axis_mm=lesion.long_axis_mm,
                covered=outcome.covered[lesion.number],
                found=outcome.found(lesion.number),
                partner=outcome.partners.get(lesion.number),
                overlap=overlaps.get(lesion.number),
                candidate_score=near.score(lesion.number, scores),
            )
            for lesion in measure(truth.labels, slices)
        ),
        components=tuple(_component(lesion, outcome, spec) for lesion in measured),
        false_scores=tuple(scores[number] for number in near.false_numbers),
        voxels=tuple(
            tuple(row) for row in binned(candidates.probability.array[seen], true_voxels[seen]).tolist()
        ),
        pictures={},
    )


def with_pictures(case: Case, truth: Truth, prediction: Prediction, folder: Path) -> Case:
    """The case with pictures of its largest missed lesions and false positives, saved in the folder."""
    found = components(prediction.mask)
    missed = [
        Failure("missed", lesion.number, lesion.diameter_mm, None)
        for lesion in sorted(case.lesions, key=lambda lesion: -lesion.diameter_mm)
        if not lesion.found and lesion.diameter_mm >= COUNTED_FROM_MM
    ]
    false = [
        Failure("false", component.number, component.long_axis_mm, component.mean_probability)
        for component in case.components
        if not component.real
    ]
    pictures = {}
    for failure in missed[:MOST_PICTURES] + false[:MOST_PICTURES]:
        labels = truth.labels if failure.what == "missed" else found
        name = f"{case.kind}-{case.seed}-{failure.what}-{failure.number}.png".replace(" ", "-")
        centre = labels.map_indices_to_reference(np.argwhere(labels.array == failure.number).mean(0)[None])[0]
        save_picture(truth.image, truth.labels, found, centre, folder / name)
        pictures[name] = failure
    return replace(case, pictures=pictures)


def store(case: Case, path: Path) -> None:
    """Write the case; a stopped run leaves no half file."""
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(CASE.dump_json(case, indent=1))
    unfinished.rename(path)


def _component(lesion: Lesion, outcome: Match, spec: ModelSpec) -> Component:
    probability = lesion.mean_probability or 0.0
    return Component(
        number=lesion.number,
        volume_ml=lesion.volume_ml,
        long_axis_mm=lesion.long_axis_mm,
        mean_probability=probability,
        confidence=confidence(spec, probability, lesion.volume_ml * MM3_PER_ML),
        real=lesion.number not in outcome.false_numbers,
    )


def _sphere_mm(volume_ml: float) -> float:
    return float((6.0 * volume_ml * MM3_PER_ML / np.pi) ** (1.0 / 3.0))
