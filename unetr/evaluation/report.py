"""The report of an evaluation: report.json for machines, report.html, self-contained, for people."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from reports.pages import data_uri, render
from unetr.evaluation.case_scores import ScoredCase
from unetr.evaluation.figures import agreement_figure, froc_figure, reliability_figure
from unetr.evaluation.statistics import Difference, Estimate, Froc
from unetr.evaluation.summary import Summary, agreement_pairs

SUMMARY = TypeAdapter(Summary)


def save_report(summary: Summary, cases: Sequence[ScoredCase], pictures: Path, folder: Path) -> None:
    """Write report.json and report.html into the folder. pictures: the folder with the failures' pictures."""
    (folder / "report.json").write_bytes(SUMMARY.dump_json(summary, indent=1))
    pairs = agreement_pairs(cases)
    page = render(
        "evaluation.html",
        estimate=written,
        summary=summary,
        froc=froc_figure(
            [
                _curve(model_summary)
                for model_summary in (summary, summary.against)
                if model_summary is not None
            ],
            summary.origin.noun,
        ),
        agreement={
            name: agreement_figure(name, [pair for case in pairs[name] for pair in case], agreement)
            for name, agreement in summary.agreement.items()
        },
        calibration={
            name: reliability_figure(name, reliability) for name, reliability in summary.calibration.items()
        },
        pictures={
            failure.picture: data_uri("image/png", (pictures / failure.picture).read_bytes())
            for failure in summary.failures
        },
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _curve(summary: Summary) -> tuple[str, Froc, tuple[float, float]]:
    everyone = summary.kinds[-1]
    point = (everyone.false_positives.value or 0.0, everyone.sensitivity.value or 0.0)
    return f"{summary.model.id} {summary.model.version}", summary.froc, point


def written(estimate: Estimate | Difference, digits: int = 2) -> str:
    """Format a figure and its interval; a dash if there is no value."""
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def table(summary: Summary) -> str:
    """Return the main figures as Markdown tables, and the cases that cannot be used."""
    noun = summary.origin.noun
    lines = [
        f"| true diameter | lesions | sensitivity | Dice of found | HD95, mm | false positives per {noun} |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {size_bin.name} | {size_bin.lesions} | {written(size_bin.sensitivity)} "
        f"| {written(size_bin.dice)} | {written(size_bin.hd95_mm, 1)} | {written(size_bin.false_positives)} |"
        for size_bin in summary.bins
    ]
    lines += [
        "",
        f"| kind | {noun}s | sensitivity from 3 mm | false positives per {noun} | lesion-wise Dice |",
    ]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {kind.name} | {kind.heads} | {written(kind.sensitivity)} | {written(kind.false_positives)} "
        f"| {written(kind.lesion_wise_dice)} |"
        for kind in summary.kinds
    ]
    if summary.regions:
        lines += ["", "| label | cases | Dice | HD95, mm | surface Dice |", "|---|---|---|---|---|"]
        lines += [
            f"| {region.name} | {region.cases} | {written(region.dice)} | {written(region.hd95_mm, 1)} "
            f"| {written(region.surface_dice)} |"
            for region in summary.regions
        ]
    free = summary.lesion_free
    lines += [
        "",
        f"{noun.capitalize()}s without a lesion: {free.heads}, "
        f"of which {free.none_reported} with none reported.",
    ]
    if rejections := summary.origin.rejections():
        lines += ["", *rejections]
    return "\n".join(lines)
