"""The scores of one case: a model's findings where the lesions are known, as numbers and small pictures.

A case is stored as one JSON file, so that an interrupted evaluation can resume and no image is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydantic import TypeAdapter
from scipy import ndimage

from imaging.grid import MM3_PER_ML
from imaging.stack import SliceReference
from lesions.measure import Lesion, components, measure
from unetr.confidence import confidence
from unetr.evaluation.pictures import Failure, save_picture
from unetr.evaluation.scores import LesionWise, Match, Overlap, brats_mets, lesion_overlaps, match, overlap
from unetr.evaluation.statistics import binned
from unetr.evaluation.truth import Truth
from unetr.predict import Prediction
from unetr.spec import ModelSpec, PostProcessing

# Name, lower and upper end of the true diameter; the last two overlap the others.
BINS_MM = (
    ("2-3 mm", 2.0, 3.0),
    ("3-5 mm", 3.0, 5.0),
    ("5-10 mm", 5.0, 10.0),
    ("10 mm and more", 10.0, math.inf),
    ("3 mm and more", 3.0, math.inf),
    ("all", 0.0, math.inf),
)
# Smallest diameter of a lesion that counts for the sensitivity by which models are chosen.
COUNTED_FROM_MM = 3.0
# Post-processing of the FROC's candidates: many more than at the operating point.
CANDIDATES = PostProcessing(threshold=0.1, minimum_volume_mm3=10.0)
MAX_PICTURES = 3


@dataclass(frozen=True)
class ScoredLesion:
    """A true lesion and how well it was found.

    diameter_mm: of the sphere of its volume. covered: the fraction of its voxels that was predicted; found: a
    tenth or more. volume_ml, long_axis_mm: measured on its voxels. partner: the component that overlaps it
    most. overlap: with that component. candidate_score: the highest threshold on the candidates' probability
    at which the lesion is still found; None if no candidate finds it.
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
    """A predicted lesion. real: it touches a true lesion. confidence: None without a calibration."""

    number: int
    volume_ml: float
    long_axis_mm: float
    mean_probability: float
    confidence: float | None
    real: bool


@dataclass(frozen=True)
class ScoredCase:
    """The scores of one case. kind, name, seed: as in ``Truth``.

    seconds: time of the prediction. unseen: number of lesions too small for a voxel, which are not scored.
    refused: the model found no brain, which counts as an empty prediction. overall: all true against all
    predicted voxels, None without a true lesion. regions: the same for each label by its name, if there are
    several; None where truth and prediction lack it. false_scores: the highest probability of each candidate
    that touches no lesion. voxels: (3, 10), the output of ``binned`` for the voxels around the candidates.
    pictures: by file name in the folder of the case.
    """

    kind: str
    name: str
    seed: int | None
    spacing_mm: tuple[float, float, float]
    seconds: float
    refused: bool
    unseen: int
    overall: Overlap | None
    regions: dict[str, Overlap | None]
    lesion_wise: LesionWise
    lesions: tuple[ScoredLesion, ...]
    components: tuple[Component, ...]
    false_scores: tuple[float, ...]
    voxels: tuple[tuple[float, ...], ...]
    pictures: dict[str, Failure]

    @property
    def false_positives(self) -> int:
        """Count the components that touch no true lesion."""
        return sum(not component.real for component in self.components)

    def lesions_of(self, low_mm: float, high_mm: float = math.inf) -> list[ScoredLesion]:
        """Return the true lesions with those diameters, the upper end excluded."""
        return [lesion for lesion in self.lesions if low_mm <= lesion.diameter_mm < high_mm]


CASE = TypeAdapter(ScoredCase)


def found_of(
    cases: Sequence[ScoredCase], low_mm: float, high_mm: float = math.inf
) -> tuple[list[int], list[int]]:
    """Count, for each case, the found lesions and all lesions with those diameters."""
    chosen = [case.lesions_of(low_mm, high_mm) for case in cases]
    return [sum(lesion.found for lesion in group) for group in chosen], [len(group) for group in chosen]


def judge(truth: Truth, prediction: Prediction, candidates: Prediction, spec: ModelSpec) -> ScoredCase:
    """Compare a prediction with the truth.

    All labels together make a lesion. candidates: the same model's prediction with the post-processing
    CANDIDATES. Seconds and pictures stay empty. Raises: ValueError if truth and prediction are on different
    grids.
    """
    findings = found_lesions(prediction)
    outcome = match(truth.labels, findings)
    slices = [SliceReference(None)] * findings.spatial_shape[0]
    measured = measure(findings, slices, prediction.probability)
    overlaps = lesion_overlaps(truth.labels, findings, outcome.partners)
    loose = found_lesions(candidates)
    near = match(truth.labels, loose)
    numbers = np.arange(1, int(loose.array.max()) + 1)
    peaks = ndimage.maximum(candidates.probability.array, loose.array, numbers)
    scores = dict(zip(numbers.tolist(), map(float, peaks), strict=True))
    candidate_voxels = candidates.probability.array > 0
    true_voxels = truth.labels.array != 0
    diameters_mm = {lesion.number: lesion.diameter_mm for lesion in truth.lesions}
    return ScoredCase(
        kind=truth.kind,
        name=truth.name,
        seed=truth.seed,
        spacing_mm=truth.labels.spacing,
        seconds=0.0,
        refused=False,
        unseen=len(set(diameters_mm) - set(outcome.covered)),
        overall=overlap(truth.labels, findings) if true_voxels.any() else None,
        regions=_regions(truth.values, prediction.mask, spec),
        lesion_wise=brats_mets(truth.labels, findings),
        lesions=tuple(
            ScoredLesion(
                number=lesion.number,
                diameter_mm=diameters_mm[lesion.number],
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
            tuple(row)
            for row in binned(
                candidates.probability.array[candidate_voxels], true_voxels[candidate_voxels]
            ).tolist()
        ),
        pictures={},
    )


def found_lesions(prediction: Prediction) -> hd.Volume:
    """Number the components of all labels together, 0 elsewhere."""
    return components(prediction.mask.with_array(prediction.mask.array > 0))


def _regions(truth: hd.Volume, predicted: hd.Volume, spec: ModelSpec) -> dict[str, Overlap | None]:
    """Compare each label of a model with several, by its name; both volumes hold label values."""
    if len(spec.labels) == 1:
        return {}
    scores: dict[str, Overlap | None] = {}
    for label in spec.labels:
        pair = [volume.with_array(volume.array == label.value) for volume in (truth, predicted)]
        scores[label.name] = overlap(*pair) if any(volume.array.any() for volume in pair) else None
    return scores


def with_pictures(
    case: ScoredCase, image: hd.Volume, truth: hd.Volume, findings: hd.Volume, stem: Path
) -> ScoredCase:
    """Save pictures of the largest missed lesions and false positives; return the case with their names.

    image, truth, findings: on one grid; the last two are lesion numbers. stem: how the files' paths begin.
    """
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
    for failure in missed[:MAX_PICTURES] + false[:MAX_PICTURES]:
        labels = truth if failure.what == "missed" else findings
        name = f"{stem.name}-{failure.what}-{failure.number}.png"
        centre = labels.map_indices_to_reference(np.argwhere(labels.array == failure.number).mean(0)[None])[0]
        save_picture(image, truth, findings, centre, stem.with_name(name))
        pictures[name] = failure
    return replace(case, pictures=pictures)


def store(case: ScoredCase, path: Path) -> None:
    """Write the case; an interrupted run leaves no incomplete file."""
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
