"""The comparison of two models on the same cases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unetr.evaluation.case_scores import BINS_MM, ScoredCase, found_of
from unetr.evaluation.statistics import (
    Difference,
    Estimate,
    bootstrap,
    mean,
    paired_bootstrap,
    paired_wilcoxon,
    ratio,
)


@dataclass(frozen=True)
class Compared:
    """One figure of both models, and the difference: the model minus the one it is compared with."""

    name: str
    against: Estimate
    model: Estimate
    difference: Difference


def compare(against: Sequence[ScoredCase], cases: Sequence[ScoredCase], noun: str) -> tuple[Compared, ...]:
    """Compare each figure of both models, on the same cases in the same order. noun: of a case.

    Sensitivities, which are not means over cases, by a paired bootstrap; figures per case by Wilcoxon's test.
    """
    rows = []
    for name, low_mm, high_mm in BINS_MM:
        new, old = found_of(cases, low_mm, high_mm), found_of(against, low_mm, high_mm)
        rows.append(
            Compared(
                f"sensitivity, {name}",
                bootstrap(ratio, *old),
                bootstrap(ratio, *new),
                paired_bootstrap(ratio, old, new),
            )
        )
    figures: tuple[tuple[str, Callable[[ScoredCase], float | None]], ...] = (
        (f"false positives per {noun}", lambda case: float(case.false_positives)),
        ("lesion-wise Dice", lambda case: case.lesion_wise.dice),
        ("lesion-wise HD95, mm", lambda case: case.lesion_wise.hd95_mm),
        (f"Dice of a {noun}", lambda case: case.overall.dice if case.overall else None),
    )
    for name, figure in figures:
        old_values, new_values = [figure(case) for case in against], [figure(case) for case in cases]
        rows.append(
            Compared(name, mean(old_values), mean(new_values), paired_wilcoxon(old_values, new_values))
        )
    return tuple(rows)
