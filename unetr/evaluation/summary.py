"""Summary statistics of a model over many cases, and of two models on the same cases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unetr.evaluation.case_scores import (
    BINS_MM,
    COUNTED_FROM_MM,
    Component,
    ScoredCase,
    ScoredLesion,
    found_of,
)
from unetr.evaluation.comparison import Compared, compare
from unetr.evaluation.statistics import (
    Agreement,
    Estimate,
    Froc,
    Reliability,
    binned,
    bland_altman,
    bootstrap,
    froc,
    mean,
    ratio,
    reliability,
)
from unetr.evaluation.truth import Origin, sphere_diameter_mm
from unetr.spec import Axis, ModelSpec

RULES = (
    "Found: predicted components cover a tenth or more of a true lesion's voxels. False positive: a "
    "component that touches no true lesion. Dice, HD95 and surface Dice (1 mm) of a lesion: against the "
    "component that overlaps it most, found lesions only. Lesion-wise Dice and HD95: by the rules of "
    "BraTS-METS 2023 (arXiv 2306.00838), where missed lesions and false positives count 0 and 374 mm. "
    "Diameters: of the sphere of equal volume. Intervals: 95 %, percentile bootstrap of 2000 resamples "
    "of whole {noun}s."
)


@dataclass(frozen=True)
class Model:
    """The evaluated model, its post-processing, and the axes of the mirror images it averages."""

    id: str
    version: str
    sha256: str
    threshold: float
    seed_threshold: float | None
    minimum_volume_mm3: float
    minimum_native_voxels: int
    mirroring_axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Bin:
    """The figures of a range of true diameters; false positives per case are binned by their own diameter."""

    name: str
    lesions: int
    found: int
    sensitivity: Estimate
    dice: Estimate
    hd95_mm: Estimate
    surface_dice: Estimate
    false_positives: Estimate


@dataclass(frozen=True)
class CohortSummary:
    """The figures of the cases of one kind, or of all. sensitivity: for lesions from 3 mm. Others: means.

    heads: number of cases, synthetic or not.
    """

    name: str
    heads: int
    lesions: int
    sensitivity: Estimate
    false_positives: Estimate
    lesion_wise_dice: Estimate
    lesion_wise_hd95_mm: Estimate
    dice: Estimate
    hd95_mm: Estimate
    surface_dice: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class LesionFree:
    """The cases without a lesion (``heads``), and the number of them in which none is reported."""

    heads: int
    none_reported: int
    share: Estimate


@dataclass(frozen=True)
class RegionSummary:
    """Means over the cases of a label's overlap; cases: those in which truth or prediction has the label."""

    name: str
    cases: int
    dice: Estimate
    hd95_mm: Estimate
    surface_dice: Estimate


@dataclass(frozen=True)
class Failed:
    """A failure with a picture. kind, name, seed: as in ``Truth``.

    size_mm: true diameter of a missed lesion, long axis of a false positive.
    """

    what: str
    kind: str
    name: str
    seed: int | None
    size_mm: float
    probability: float | None
    picture: str


@dataclass(frozen=True)
class Summary:
    """The content of the report.

    first_seed, last_seed: None if no case is synthetic. unseen: lesions not counted because no voxel shows
    them. refused: cases in which the model found no brain. regions: of each label, if the model has several.
    agreement, calibration: by the compared quantity. against: the summary of the other model.
    """

    research_use_only: bool
    rules: str
    model: Model
    origin: Origin
    first_seed: int | None
    last_seed: int | None
    unseen: int
    refused: int
    bins: tuple[Bin, ...]
    kinds: tuple[CohortSummary, ...]
    regions: tuple[RegionSummary, ...]
    lesion_free: LesionFree
    froc: Froc
    agreement: dict[str, Agreement]
    calibration: dict[str, Reliability]
    failures: tuple[Failed, ...]
    against: "Summary | None"
    comparison: tuple[Compared, ...]


MAX_FAILURES = 8


def summarise(
    spec: ModelSpec,
    cases: Sequence[ScoredCase],
    origin: Origin,
    against: "tuple[Summary, Sequence[ScoredCase]] | None" = None,
) -> Summary:
    """Summarise a model's cases, at least one. against: another model's, same cases in the same order."""
    seeds = [case.seed for case in cases if case.seed is not None]
    names = dict.fromkeys(case.kind for case in cases)
    groups = [(name, [case for case in cases if case.kind == name]) for name in names]
    free = [case for case in cases if not case.lesions and not case.unseen]
    return Summary(
        research_use_only=True,
        rules=RULES.format(noun=origin.noun),
        model=_model(spec),
        origin=origin,
        first_seed=min(seeds, default=None),
        last_seed=max(seeds, default=None),
        unseen=sum(case.unseen for case in cases),
        refused=sum(case.refused for case in cases),
        bins=tuple(_bin(cases, *size_bin) for size_bin in BINS_MM),
        kinds=tuple(_kind(name, group) for name, group in [*groups, ("all", cases)]),
        regions=tuple(_region(name, cases) for name in cases[0].regions),
        lesion_free=LesionFree(
            heads=len(free),
            none_reported=sum(not case.components for case in free),
            share=mean([float(not case.components) for case in free]),
        ),
        froc=froc(
            [[lesion.candidate_score for lesion in case.lesions_of(COUNTED_FROM_MM)] for case in cases],
            [case.false_scores for case in cases],
        ),
        agreement={
            name: bland_altman([[difference for _, difference in case] for case in pairs])
            for name, pairs in agreement_pairs(cases).items()
        },
        calibration=_calibration(cases),
        failures=_failures(cases),
        against=against[0] if against else None,
        comparison=compare(against[1], cases, origin.noun) if against else (),
    )


def agreement_pairs(cases: Sequence[ScoredCase]) -> dict[str, list[list[tuple[float, float]]]]:
    """Return, by quantity and case, pairs of the mean of true and predicted value and predicted minus true.

    Only found lesions. A component that joins two lesions is compared with each of them.
    """
    pairs: dict[str, list[list[tuple[float, float]]]] = {}
    for name, value, relative in (
        ("volume, ml", lambda lesion: lesion.volume_ml, False),
        ("volume, % of the mean", lambda lesion: lesion.volume_ml, True),
        ("longest diameter, mm", lambda lesion: lesion.long_axis_mm, False),
    ):
        pairs[name] = [_pairs(case, value, relative) for case in cases]
    return pairs


def _pairs(
    case: ScoredCase, value: Callable[[ScoredLesion | Component], float], relative: bool
) -> list[tuple[float, float]]:
    components = {component.number: component for component in case.components}
    pairs = []
    for lesion in case.lesions:
        if not lesion.found or lesion.partner is None:
            continue
        true, predicted = value(lesion), value(components[lesion.partner])
        middle = (true + predicted) / 2.0
        pairs.append((middle, (predicted - true) * (100.0 / middle if relative else 1.0)))
    return pairs


def _model(spec: ModelSpec) -> Model:
    return Model(
        spec.id,
        spec.version,
        spec.weights.sha256,
        mirroring_axes=spec.mirroring_axes,
        **spec.postprocessing.model_dump(),
    )


def _bin(cases: Sequence[ScoredCase], name: str, low_mm: float, high_mm: float) -> Bin:
    hits, totals = found_of(cases, low_mm, high_mm)
    scores = [
        [lesion.overlap for lesion in case.lesions_of(low_mm, high_mm) if lesion.found and lesion.overlap]
        for case in cases
    ]
    counts = [len(case_scores) for case_scores in scores]
    false = [
        sum(
            low_mm <= sphere_diameter_mm(component.volume_ml) < high_mm
            for component in case.components
            if not component.real
        )
        for case in cases
    ]
    return Bin(
        name=name,
        lesions=sum(totals),
        found=sum(hits),
        sensitivity=bootstrap(ratio, hits, totals),
        dice=bootstrap(ratio, [sum(score.dice for score in case_scores) for case_scores in scores], counts),
        hd95_mm=bootstrap(
            ratio, [sum(score.hd95_mm or 0.0 for score in case_scores) for case_scores in scores], counts
        ),
        surface_dice=bootstrap(
            ratio, [sum(score.surface_dice or 0.0 for score in case_scores) for case_scores in scores], counts
        ),
        false_positives=mean(false),
    )


def _kind(name: str, cases: Sequence[ScoredCase]) -> CohortSummary:
    overall = [case.overall for case in cases]
    return CohortSummary(
        name=name,
        heads=len(cases),
        lesions=sum(len(case.lesions) for case in cases),
        sensitivity=bootstrap(ratio, *found_of(cases, COUNTED_FROM_MM)),
        false_positives=mean([case.false_positives for case in cases]),
        lesion_wise_dice=mean([case.lesion_wise.dice for case in cases]),
        lesion_wise_hd95_mm=mean([case.lesion_wise.hd95_mm for case in cases]),
        dice=mean([score.dice if score else None for score in overall]),
        hd95_mm=mean([score.hd95_mm if score else None for score in overall]),
        surface_dice=mean([score.surface_dice if score else None for score in overall]),
        seconds=mean([case.seconds for case in cases]),
    )


def _region(name: str, cases: Sequence[ScoredCase]) -> RegionSummary:
    scores = [score for case in cases if (score := case.regions[name]) is not None]
    return RegionSummary(
        name=name,
        cases=len(scores),
        dice=mean([score.dice for score in scores]),
        hd95_mm=mean([score.hd95_mm for score in scores]),
        surface_dice=mean([score.surface_dice for score in scores]),
    )


def _calibration(cases: Sequence[ScoredCase]) -> dict[str, Reliability]:
    binned_sums = {
        "mean probability of a lesion": [
            binned([c.mean_probability for c in case.components], [c.real for c in case.components])
            for case in cases
        ],
        "probability of voxels around candidates": [np.array(case.voxels) for case in cases],
    }
    rated = [[c for c in case.components if c.confidence is not None] for case in cases]
    if any(rated):
        binned_sums["confidence of a lesion"] = [
            binned([c.confidence or 0.0 for c in components], [c.real for c in components])
            for components in rated
        ]
    return {name: reliability(*np.stack(sums, axis=1)) for name, sums in binned_sums.items()}


def _failures(cases: Sequence[ScoredCase]) -> tuple[Failed, ...]:
    """Return the largest missed lesions, then the largest false positives."""
    failures = [
        Failed(failure.what, case.kind, case.name, case.seed, failure.size_mm, failure.probability, picture)
        for case in cases
        for picture, failure in case.pictures.items()
    ]
    failures.sort(key=lambda failure: -failure.size_mm)
    return tuple(
        failure
        for kind in ("missed", "false")
        for failure in [failure for failure in failures if failure.what == kind][:MAX_FAILURES]
    )
