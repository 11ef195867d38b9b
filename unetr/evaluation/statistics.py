"""Estimates with intervals from resampled cases: lesions of one head are not independent of each other.

A figure is a function of sums over the cases, so a resample is a weighted sum. Intervals are 95 % percentile
bootstraps of 2000 resamples of whole cases with a fixed seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wilcoxon

Array = NDArray[Any]

RESAMPLES = 2000
SEED = 20_230_601
LOW, HIGH = 2.5, 97.5
LIMITS_SD = 1.96
CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None if there is no data to estimate it from."""

    value: float | None
    low: float | None
    high: float | None


def bootstrap(statistic: Callable[..., Array], *columns: ArrayLike) -> Estimate:
    """Estimate the statistic of all cases and its interval.

    columns: each case's contribution to a sum, (cases,) or (cases, n). statistic: maps the sums over cases,
    (...) or (..., n) with resamples along the first axes, to (...); a resample with NaN (no lesion drawn) is
    ignored.
    """
    value, resampled = _resampled(statistic, columns)
    if not np.isfinite(value):
        return Estimate(None, None, None)
    low, high = np.nanpercentile(resampled, [LOW, HIGH])
    return Estimate(value, float(low), float(high))


def mean(values: Sequence[float | None]) -> Estimate:
    """Estimate the mean over the cases that have a value."""
    return bootstrap(ratio, [value or 0.0 for value in values], [value is not None for value in values])


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide one sum by another: a mean, a sensitivity, false positives per case."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(numerator, denominator))


@dataclass(frozen=True)
class Difference:
    """The second model minus the first on the same cases, with a 95 % interval and a two-sided p value."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str


def paired_bootstrap(
    statistic: Callable[..., Array], first: Sequence[ArrayLike], second: Sequence[ArrayLike]
) -> Difference:
    """Compare a figure that is not a mean over cases, e.g. a sensitivity, on common resamples of both models.

    first, second: columns as for ``bootstrap``, of the same cases in the same order. The p value is twice the
    smaller share of resamples on either side of zero difference.
    """
    count = len(first)

    def difference(*sums: Array) -> Array:
        return np.asarray(statistic(*sums[count:]) - statistic(*sums[:count]))

    value, resampled = _resampled(difference, [*first, *second])
    if not np.isfinite(value):
        return Difference(None, None, None, None, "paired bootstrap")
    low, high = np.nanpercentile(resampled, [LOW, HIGH])
    valid = resampled[np.isfinite(resampled)]
    tail = min(np.mean(valid <= 0.0), np.mean(valid >= 0.0))
    # The resamples cannot resolve smaller p values.
    p = min(max(2.0 * float(tail), 1.0 / RESAMPLES), 1.0)
    return Difference(value, float(low), float(high), p, "paired bootstrap")


def paired_wilcoxon(first: Sequence[float | None], second: Sequence[float | None]) -> Difference:
    """Compare a figure that each case has: difference of means, and Wilcoxon's signed rank test.

    Cases that lack the figure in either model are ignored; equal pairs are ranked (Pratt 1959).
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    differences = np.array([b - a for a, b in pairs])
    estimate = mean(list(differences))
    p = None
    if pairs:
        p = float(wilcoxon(differences, zero_method="pratt").pvalue) if differences.any() else 1.0
    return Difference(estimate.value, estimate.low, estimate.high, p, "Wilcoxon signed rank")


@dataclass(frozen=True)
class Agreement:
    """The agreement of Bland and Altman (Lancet 1986;327:307). bias: mean of predicted minus true.

    low_limit, high_limit: bias minus and plus 1.96 standard deviations of the differences.
    """

    count: int
    bias: Estimate
    low_limit: Estimate
    high_limit: Estimate


def bland_altman(differences: Sequence[Sequence[float]]) -> Agreement:
    """Compute the agreement from the differences of each case's lesions."""
    counts = [len(case) for case in differences]
    sums = [sum(case) for case in differences]
    squares = [sum(value**2 for value in case) for case in differences]

    def limit(sign: float) -> Estimate:
        def of(count: Array, total: Array, square: Array) -> Array:
            bias = ratio(total, count)
            variance = ratio(np.maximum(square - bias * total, 0.0), np.where(count > 1, count - 1, np.nan))
            return np.asarray(bias + sign * LIMITS_SD * np.sqrt(variance))

        return bootstrap(of, counts, sums, squares)

    return Agreement(sum(counts), bootstrap(ratio, sums, counts), limit(-1.0), limit(1.0))


@dataclass(frozen=True)
class Froc:
    """A curve of sensitivity against false positives per case, at decreasing thresholds of a score.

    scores: the thresholds. at: sensitivity at rates of false positives per case.
    """

    scores: tuple[float, ...]
    sensitivity: tuple[float, ...]
    false_positives: tuple[float, ...]
    at: dict[float, Estimate]


MAX_THRESHOLDS = 400
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def froc(lesions: Sequence[Sequence[float | None]], false: Sequence[Sequence[float]]) -> Froc:
    """Compute the FROC (Chakraborty 1989).

    lesions: by case, the score at which each true lesion is found; None for never. false: by case, the scores
    of candidates that touch no lesion. For each rate, take the best sensitivity among thresholds with at most
    that many false positives.
    """
    lesion_scores = [score for case in lesions for score in case if score is not None]
    scores = np.unique([*lesion_scores, *(score for case in false for score in case)])[::-1]
    if len(scores) > MAX_THRESHOLDS:
        scores = scores[np.rint(np.linspace(0, len(scores) - 1, MAX_THRESHOLDS)).astype(int)]
    hits = [_reached([score for score in case if score is not None], scores) for case in lesions]
    wrong = [_reached(case, scores) for case in false]
    totals, ones = [len(case) for case in lesions], [1] * len(lesions)

    def sensitivity_at(rate: float) -> Callable[..., Array]:
        def of(hit_counts: Array, false_counts: Array, total: Array, cases: Array) -> Array:
            allowed = false_counts <= rate * np.asarray(cases)[..., None]
            return ratio(np.where(allowed, hit_counts, 0.0).max(axis=-1, initial=0.0), total)

        return of

    lesion_count, case_count = max(sum(totals), 1), max(len(lesions), 1)
    return Froc(
        scores=tuple(float(score) for score in scores),
        sensitivity=tuple(float(n) / lesion_count for n in np.sum(hits, axis=0)),
        false_positives=tuple(float(n) / case_count for n in np.sum(wrong, axis=0)),
        at={rate: bootstrap(sensitivity_at(rate), hits, wrong, totals, ones) for rate in RATES},
    )


@dataclass(frozen=True)
class Reliability:
    """Ten bins of confidence: count, mean confidence and share that was right; None in empty bins.

    ece: expected calibration error (Guo et al., ICML 2017): the bins' gaps weighted by their counts.
    """

    count: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    ece: Estimate


def reliability(count: ArrayLike, confidence: ArrayLike, right: ArrayLike) -> Reliability:
    """Compute the reliability from sums (cases, bins): counts, confidences, right items; see ``binned``."""
    columns = [np.asarray(column, dtype=float) for column in (count, confidence, right)]
    totals = [column.sum(axis=0) for column in columns]

    def ece(counts: Array, confidences: Array, rights: Array) -> Array:
        return ratio(np.abs(confidences - rights).sum(axis=-1), counts.sum(axis=-1))

    return Reliability(
        count=tuple(int(n) for n in totals[0]),
        confidence=tuple(_or_none(value) for value in ratio(totals[1], totals[0])),
        accuracy=tuple(_or_none(value) for value in ratio(totals[2], totals[0])),
        ece=bootstrap(ece, *columns),
    )


def binned(confidence: ArrayLike, right: ArrayLike) -> Array:
    """Return (3, 10): for each tenth of confidence the count, the summed confidence and the number right."""
    values = np.asarray(confidence, dtype=float).ravel()
    bins = np.minimum((values * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    weights = (np.ones_like(values), values, np.asarray(right, dtype=float).ravel())
    return np.stack([np.bincount(bins, weight, minlength=CONFIDENCE_BINS) for weight in weights])


def _resampled(statistic: Callable[..., Array], columns: Sequence[ArrayLike]) -> tuple[float, Array]:
    """Compute the statistic of all cases, and of each resample."""
    arrays = [np.asarray(column, dtype=float) for column in columns]
    cases = len(arrays[0])
    if not cases:
        return float("nan"), np.empty(0)
    # How often each case is drawn. scipy's bootstrap rejects a single case and resamples without a lesion.
    weights = np.random.default_rng(SEED).multinomial(cases, [1.0 / cases] * cases, RESAMPLES)
    value = float(statistic(*(array.sum(axis=0) for array in arrays)))
    return value, np.asarray(statistic(*(weights @ array for array in arrays)))


def _reached(scores: Sequence[float], thresholds: Array) -> Array:
    """Count the scores that reach each threshold."""
    return np.asarray((np.asarray(scores, dtype=float)[:, None] >= thresholds).sum(axis=0))


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
