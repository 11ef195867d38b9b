"""The report's figures, as SVG."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.pages import data_uri
from unetr.evaluation.statistics import Agreement, Froc, Reliability

WIDTH, HEIGHT = 4.6, 3.4
INK, OTHER = "#1f5fa8", "#c44a1c"
# Without a fixed salt SVG identifiers are random, and the same results would give a different file.
SETTINGS: Any = {"svg.hashsalt": "metscope", "svg.fonttype": "none", "font.size": 9}


def froc_figure(curves: Sequence[tuple[str, Froc, tuple[float, float]]], noun: str) -> str:
    """Draw the FROC of one or two models.

    Each: name, curve, (false positives per case, sensitivity) at its operating point. noun: of a case.
    """
    figure, axes = _figure()
    for (name, curve, point), colour in zip(curves, (INK, OTHER), strict=False):
        axes.step(curve.false_positives, curve.sensitivity, where="post", color=colour, label=name)
        axes.plot(*point, marker="o", color=colour)
        rates = [rate for rate, estimate in curve.at.items() if estimate.value is not None]
        ends = [(curve.at[rate].low, curve.at[rate].high) for rate in rates]
        axes.vlines(rates, *zip(*ends, strict=True), color=colour, alpha=0.35, linewidth=3) if ends else None
    axes.set_xscale("symlog", linthresh=0.125)
    axes.set_xlim(0.0, 16.0)
    axes.set_xticks([0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    axes.set_xticklabels(["0", "⅛", "¼", "½", "1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel(f"false positives per {noun}")
    axes.set_ylabel("sensitivity, lesions from 3 mm")
    axes.legend(loc="lower right", frameon=False)
    return _uri(figure)


def agreement_figure(name: str, pairs: Sequence[tuple[float, float]], agreement: Agreement) -> str:
    """Draw Bland and Altman's plot. pairs: mean of both values, predicted minus true."""
    figure, axes = _figure()
    axes.scatter([middle for middle, _ in pairs], [away for _, away in pairs], s=9, color=INK, alpha=0.5)
    for estimate, style in (
        (agreement.bias, "-"),
        (agreement.low_limit, "--"),
        (agreement.high_limit, "--"),
    ):
        if estimate.value is not None and estimate.low is not None and estimate.high is not None:
            axes.axhline(estimate.value, color=OTHER, linestyle=style, linewidth=1.0)
            axes.axhspan(estimate.low, estimate.high, color=OTHER, alpha=0.12, linewidth=0)
    axes.axhline(0.0, color="black", linewidth=0.6)
    if pairs and "mm" not in name:
        axes.set_xscale("log")
    unit = "ml" if "mm" not in name else "mm"
    axes.set_xlabel(f"mean of true and predicted, {unit}")
    axes.set_ylabel(f"difference: {name}")
    return _uri(figure)


def reliability_figure(name: str, reliability: Reliability) -> str:
    """Draw the share that was right against the confidence, with a bar for the count in each bin."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6)
    points = [
        (confidence, accuracy)
        for confidence, accuracy in zip(reliability.confidence, reliability.accuracy, strict=True)
        if confidence is not None and accuracy is not None
    ]
    axes.plot(*zip(*points, strict=True), marker="o", color=INK) if points else None
    most = max(*reliability.count, 1)
    middles = [(n + 0.5) / len(reliability.count) for n in range(len(reliability.count))]
    axes.bar(middles, [0.25 * n / most for n in reliability.count], width=0.09, color="grey", alpha=0.35)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel(name)
    axes.set_ylabel("share that is truly lesion")
    return _uri(figure)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _uri(figure: Figure) -> str:
    """Return the figure as a data URI, so that identifiers of several SVGs in one page cannot clash."""
    buffer = BytesIO()
    with rc_context(SETTINGS):
        figure.tight_layout()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri("image/svg+xml", buffer.getvalue())
