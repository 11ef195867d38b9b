"""The default model on real cases: what it finds, with and without truth.

    python -m bench.real --data DIR --out DIR [--model ID_OR_JSON_PATH]

DIR is any folder of real cases (``bench/real_cases.py``). Writes real.json, a table, and sheet.png: each case
in three planes
through its largest lesion, or else its largest finding, with truth and findings outlined.
Research use only. Pictures and names are those of the cases: check them before you share them.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cc3d
import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.real_cases import RealCase, real_cases
from errors import BrainNotFound, InputRefused
from imaging.grid import MM3_PER_ML
from reports.slices import PLANES, draw_slice, grey_window, outline
from settings import load
from unetr.evaluation.case_scores import found_lesions
from unetr.evaluation.evaluate import find_model
from unetr.evaluation.scores import match, overlap
from unetr.evaluation.statistics import Estimate, bootstrap, mean, ratio
from unetr.predict import Predictor
from unetr.preprocess import prepare, resample_labels

TRUE_COLOUR, FOUND_COLOUR = "#4fd16b", "#ff5a4f"
COLUMNS = 2
SIDE_INCHES = 1.9


@dataclass(frozen=True)
class RealScore:
    """The figures of one case; None where the truth, or the brain, is not known.

    touched: lesions of the truth that a finding overlaps, of total. dice, hd95_mm: all lesions against all
    findings; dice is 0 if nothing was found. findings: their number. false_findings: those that touch no
    lesion. brain_ml, brain_dice: of the brain found, without its margin.
    refused: the code of the error if the case was refused.
    """

    name: str
    touched: int | None = None
    total: int | None = None
    dice: float | None = None
    hd95_mm: float | None = None
    findings: int = 0
    false_findings: int | None = None
    found_ml: float = 0.0
    truth_ml: float | None = None
    brain_ml: float | None = None
    brain_dice: float | None = None
    warnings: tuple[str, ...] = ()
    refused: str | None = None


def score(name: str, case: RealCase, predictor: Predictor) -> tuple[RealScore, hd.Volume]:
    """Segment a case and compare it with what is known; return its figures and its numbered findings."""
    empty = case.image.with_array(np.zeros(case.image.spatial_shape, dtype=np.int32))
    try:
        prediction = predictor(case.image)
    except BrainNotFound as error:
        return _compared(RealScore(name, warnings=(error.problem,), refused=error.code), case, empty), empty
    prepared = prepare(case.image, predictor.spec)
    brain = predictor.region(prepared.volume).brain
    brain_ml = brain_dice = None
    if brain is not None:
        brain_ml = float(brain.sum()) * prepared.volume.voxel_volume / MM3_PER_ML
        if case.brain is not None:
            true = resample_labels(case.brain, prepared).array > 0
            brain_dice = 2.0 * float((true & brain).sum()) / float(true.sum() + brain.sum())
    findings = found_lesions(prediction)
    figures = RealScore(
        name,
        findings=int(findings.array.max()),
        found_ml=_ml(findings),
        brain_ml=brain_ml,
        brain_dice=brain_dice,
        warnings=(*case.warnings, *prediction.warnings),
    )
    return _compared(figures, case, findings), findings


def _ml(mask: hd.Volume) -> float:
    return float((mask.array > 0).sum()) * mask.voxel_volume / MM3_PER_ML


def _compared(figures: RealScore, case: RealCase, findings: hd.Volume) -> RealScore:
    """Add the comparison with the truth, if it is known."""
    if case.truth is None:
        return figures
    outcome = match(case.truth, findings)
    compared = overlap(case.truth, findings) if case.truth.array.any() else None
    return RealScore(
        **{
            **vars(figures),
            "touched": sum(share > 0 for share in outcome.covered.values()),
            "total": len(outcome.covered),
            "dice": compared.dice if compared else None,
            "hd95_mm": compared.hd95_mm if compared else None,
            "false_findings": len(outcome.false_numbers),
            "truth_ml": _ml(case.truth),
        }
    )


@dataclass(frozen=True)
class Totals:
    """The figures of all cases; estimates have 95 % intervals over the cases."""

    cases: int
    refused: int
    touched: int
    lesions: int
    sensitivity: Estimate
    median_dice: Estimate
    lesion_free: int
    findings_per_lesion_free: Estimate
    brain_dice: Estimate


def totals(scores: Sequence[RealScore]) -> Totals:
    """Summarise the scores. The median Dice is over the cases with a lesion."""
    with_lesions = [s for s in scores if s.total]
    free = [s for s in scores if s.total == 0]
    touched, lesions = [s.touched or 0 for s in with_lesions], [s.total or 0 for s in with_lesions]
    dice = [s.dice or 0.0 for s in with_lesions]
    nothing = Estimate(None, None, None)
    return Totals(
        cases=len(scores),
        refused=sum(s.refused is not None for s in scores),
        touched=sum(touched),
        lesions=sum(lesions),
        sensitivity=bootstrap(ratio, touched, lesions) if with_lesions else nothing,
        median_dice=_median(dice) if dice else nothing,
        lesion_free=len(free),
        findings_per_lesion_free=mean([float(s.findings) for s in free]) if free else nothing,
        brain_dice=mean([s.brain_dice for s in scores if s.brain_dice is not None] or [None]),
    )


def _median(values: Sequence[float]) -> Estimate:
    """Return the median and its interval, from resamples of the cases."""
    rng = np.random.default_rng(0)
    resampled = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(np.median(values)), float(low), float(high))


def draw(row: Sequence[Axes], figures: RealScore, case: RealCase, findings: hd.Volume) -> None:
    """Draw a case in three planes, through the middle of its largest lesion or finding."""
    truth = case.truth if case.truth is not None else findings.with_array(np.zeros_like(findings.array))
    shown = truth if truth.array.any() else findings
    turned = [volume.to_patient_orientation("LPH") for volume in (case.image, truth, findings, shown)]
    largest = cc3d.largest_k(turned[3].array > 0, k=1) > 0
    middle = _middle(largest) if largest.any() else np.array(largest.shape) // 2
    window = grey_window(turned[0].array)
    for axes, plane in zip(row, PLANES, strict=True):
        size_mm = plane.size_mm(turned[0])
        draw_slice(axes, plane.cut(turned[0], middle), size_mm, window)
        for mask, hexadecimal in zip(turned[1:3], (TRUE_COLOUR, FOUND_COLOUR), strict=True):
            outline(axes, plane.cut(mask, middle) > 0, size_mm, hexadecimal)
    dice = "" if figures.dice is None else f", Dice {figures.dice:.2f}"
    lesions = "" if figures.total is None else f", {figures.touched} of {figures.total} lesions"
    row[0].set_title(
        f"{figures.name}{lesions}{dice}, {figures.findings} findings", color="white", size=6, loc="left"
    )


def _middle(mask: NDArray[Any]) -> NDArray[np.int64]:
    """Return the voxel of a mask that is nearest to its centre."""
    points = np.argwhere(mask)
    return np.asarray(points[np.abs(points - points.mean(0)).sum(1).argmin()])


def table(scores: Sequence[RealScore], whole: Totals) -> str:
    """Return the figures as Markdown."""

    def shown(value: float | None, digits: int = 2) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    lines = [
        "| case | touched | Dice | HD95, mm | findings | found ml | true ml | brain ml | Dice | warnings |",
        "|---" * 10 + "|",
    ]
    lines += [
        f"| {s.name} | {'–' if s.total is None else f'{s.touched} of {s.total}'} | {shown(s.dice)} "
        f"| {shown(s.hd95_mm, 1)} | {s.findings} | {shown(s.found_ml)} | {shown(s.truth_ml)} "
        f"| {shown(s.brain_ml, 0)} | {shown(s.brain_dice)} | {s.refused or len(s.warnings)} |"
        for s in scores
    ]
    lines += [
        "",
        f"{whole.touched} of {whole.lesions} lesions touched; median Dice {_interval(whole.median_dice)}; "
        f"{whole.lesion_free} lesion-free heads, {_interval(whole.findings_per_lesion_free)} findings each; "
        f"brain Dice {_interval(whole.brain_dice)}; {whole.refused} of {whole.cases} cases refused.",
    ]
    return "\n".join(lines)


def _interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description="The default model on real cases.")
    parser.add_argument("--data", type=Path, required=True, help="a folder of real cases")
    parser.add_argument("--out", type=Path, required=True, help="for real.json and sheet.png")
    parser.add_argument("--model", help="id of a served model, or its JSON file; the default one if absent")
    options = parser.parse_args()
    settings = load()
    spec = find_model(options.model, settings)
    predictor = Predictor.load(spec, settings.device)
    entries = list(real_cases(options.data))
    if not entries:
        print(f"{options.data} contains no cases.", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    rows = math.ceil(len(entries) / COLUMNS)
    figure = Figure(figsize=(3 * SIDE_INCHES * COLUMNS, SIDE_INCHES * rows), dpi=80, facecolor="black")
    grid = figure.subplots(rows, 3 * COLUMNS, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    scores = []
    for number, entry in enumerate(entries):
        try:
            case = entry.load()
        except InputRefused as error:
            scores.append(RealScore(entry.name, warnings=(error.problem,), refused=error.code))
        else:
            figures, findings = score(entry.name, case, predictor)
            scores.append(figures)
            first = 3 * (number % COLUMNS)
            draw(grid[number // COLUMNS, first : first + 3].tolist(), figures, case, findings)
        print(f"{number + 1} of {len(entries)}: {entry.name}", file=sys.stderr, flush=True)
    figure.tight_layout(pad=0.3)
    figure.savefig(options.out / "sheet.png")
    whole = totals(scores)
    report = {
        "model": {"id": spec.id, "version": spec.version, "sha256": spec.weights.sha256},
        "totals": asdict(whole),
        "cases": [asdict(s) for s in scores],
    }
    (options.out / "real.json").write_text(json.dumps(report, indent=2) + "\n")
    print(table(scores, whole))
    return 0


if __name__ == "__main__":
    sys.exit(main())
