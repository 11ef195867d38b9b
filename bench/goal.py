"""The check of the default model against its goals, on held-out heads of every kind.

    python -m bench.goal [--heads 14] [--first-seed 3000200] [--out FOLDER]

Evaluates the model as `python -m unetr evaluate` does, prints the same tables, then each goal with the
measured value. The exit status is 1 if one is missed. FOLDER keeps the cases and the report; a stopped run
resumes there.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from settings import load
from unetr.evaluation.case_scores import ScoredCase
from unetr.evaluation.evaluate import chosen_heads, evaluate, folder_of
from unetr.evaluation.report import save_report, table
from unetr.evaluation.summary import Summary, summarise
from unetr.evaluation.truth import synthetic
from unetr.served import default_model
from unetr.synthesis.cohorts import HELD_OUT_SEED, head

# metscope-unet was evaluated on the seeds before this one during its training.
FIRST_SEED = HELD_OUT_SEED + 200
SENSITIVITIES = {"3-5 mm": 0.70, "5-10 mm": 0.90, "10 mm and more": 0.98}
DICE_FROM_MM = 5.0


@dataclass(frozen=True)
class Goal:
    """A goal. limit: the lowest measured value that meets it, or the highest (is_least False)."""

    name: str
    measured: float
    limit: float
    is_least: bool = True

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.is_least else self.measured <= self.limit


def goals(summary: Summary, cases: list[ScoredCase]) -> Iterator[Goal]:
    """Yield each goal with the measured value."""
    for size_bin in summary.bins:
        if size_bin.name in SENSITIVITIES:
            yield Goal(
                f"sensitivity, {size_bin.name}",
                size_bin.sensitivity.value or 0.0,
                SENSITIVITIES[size_bin.name],
            )
    false_positives = summary.kinds[-1].false_positives.value or 0.0
    yield Goal("false positives per head", false_positives, 1.0, is_least=False)
    large = [lesion.overlap for case in cases for lesion in case.lesions_of(DICE_FROM_MM) if lesion.found]
    dice = float(np.median([overlap.dice for overlap in large if overlap]))
    yield Goal(f"median Dice of found lesions from {DICE_FROM_MM:g} mm", dice, 0.75)
    yield Goal("heads without a lesion, none reported", summary.lesion_free.share.value or 0.0, 0.90)
    error = summary.calibration["confidence of a lesion"].ece.value or 0.0
    yield Goal("calibration error of the confidence (ECE)", error, 0.05, is_least=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold the default model against its goals.")
    parser.add_argument("--heads", type=int, default=14, help="of each kind")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--out", type=Path, help="folder for the cases and the report")
    options = parser.parse_args()
    settings = load()
    spec = default_model(settings.models_dir, settings.model_path)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        heads = chosen_heads("", options.heads, options.first_seed)
        (cases,), origin = evaluate([spec], synthetic(heads, head), out, settings.device)
        summary = summarise(spec, cases, origin)
        save_report(summary, cases, folder_of(spec, out), out)
    print(table(summary))
    print("\n| goal | asked | measured | met |\n|---|---|---|---|")
    measured = list(goals(summary, cases))
    for goal in measured:
        bound = "at least" if goal.is_least else "at most"
        print(
            f"| {goal.name} | {bound} {goal.limit:g} | {goal.measured:.3f} | {'yes' if goal.met else 'NO'} |"
        )
    return int(not all(goal.met for goal in measured))


if __name__ == "__main__":
    sys.exit(main())
