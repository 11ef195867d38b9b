"""How the default model does on held-out synthetic heads.

    python -m bench.heldout [--heads 30] [--first-seed 3000000]

Prints a Markdown table: lesion-wise sensitivity by diameter (a hit: predicted components cover at least a
tenth of the lesion's volume), Dice of the lesions that were found, and false positives for each head. The
exit status is 1 where the goal is missed: sensitivity 0.8 from 8 mm with at most 3 false positives per head.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lesions.measure import components
from settings import load
from unetr import synth
from unetr.evaluate import match
from unetr.predict import Predictor
from unetr.spec import default_model

FIRST_SEED = 3_000_000
ACQUISITIONS = (  # shape (slices, rows, columns), spacing mm, plane
    ((176, 256, 256), (1.0, 0.94, 0.94), "axial"),
    ((170, 240, 240), (1.0, 1.0, 1.0), "sagittal"),
    ((60, 256, 256), (3.0, 0.9, 0.9), "axial"),
    ((120, 200, 200), (1.6, 1.1, 1.1), "coronal"),
)
BINS_MM = (2.0, 3.0, 5.0, 8.0, 10.0, 20.0, 50.0)
GOAL_FROM_MM, GOAL_SENSITIVITY, GOAL_FALSE_POSITIVES = 8.0, 0.8, 3.0


@dataclass(frozen=True)
class Outcome:
    """One head: (diameter mm, kind, found, Dice) of each lesion, false positives, seconds of prediction."""

    lesions: list[tuple[float, str, bool, float]]
    false_positives: int
    seconds: float


def make_head(seed: int) -> synth.Head:
    """The head of that seed, with skull and 2 to 12 lesions."""
    shape, spacing, plane = ACQUISITIONS[seed % len(ACQUISITIONS)]
    return synth.head(synth.grid(shape, spacing, plane), seed, synth.HeadOptions(lesion_count=(2, 12)))


def run(predictor: Predictor, seed: int) -> Outcome:
    """Make the head of that seed, predict it, match."""
    head = make_head(seed)
    started = time.perf_counter()
    prediction = predictor(head.image)
    seconds = time.perf_counter() - started
    found = components(prediction.mask)
    outcome = match(head.labels, found)
    rows = []
    for lesion in head.lesions:
        if lesion.number not in outcome.covered:
            continue  # smaller than the voxels that would show it
        hit = outcome.found(lesion.number)
        truth = head.labels.array == lesion.number
        partner = found.array == outcome.partners.get(lesion.number, -1)
        dice = 2.0 * float((truth & partner).sum()) / max(float(truth.sum() + partner.sum()), 1.0)
        rows.append((lesion.diameter_mm, lesion.kind, hit, dice if hit else 0.0))
    return Outcome(rows, len(outcome.false_numbers), seconds)


def table(outcomes: list[Outcome]) -> str:
    """The Markdown table."""
    rows = [row for outcome in outcomes for row in outcome.lesions]
    lines = ["| diameter, mm | lesions | sensitivity | median Dice of found |", "|---|---|---|---|"]
    for low, high in [*pairwise(BINS_MM), (GOAL_FROM_MM, BINS_MM[-1])]:
        inside = [row for row in rows if low <= row[0] < high]
        hits = [row for row in inside if row[2]]
        if not inside:
            continue
        name = f"{low:g}-{high:g}" if (low, high) != (GOAL_FROM_MM, BINS_MM[-1]) else "**8 and more**"
        dice = float(np.median([row[3] for row in hits])) if hits else 0.0
        lines.append(f"| {name} | {len(inside)} | {len(hits) / len(inside):.2f} | {dice:.2f} |")
    false = [outcome.false_positives for outcome in outcomes]
    lines.append("")
    lines.append(
        f"False positives per head: mean {np.mean(false):.2f}, median {np.median(false):g}, "
        f"most {max(false)}; heads: {len(outcomes)}."
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate the default model on held-out synthetic heads.")
    parser.add_argument("--heads", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    settings = load()
    predictor = Predictor.load(default_model(settings.models_dir, settings.model_path), settings.device)
    outcomes = [run(predictor, options.first_seed + number) for number in range(options.heads)]
    print(table(outcomes))
    print(f"Seconds of prediction: median {np.median([outcome.seconds for outcome in outcomes]):.1f}.")
    hits = [hit for o in outcomes for diameter_mm, _, hit, _ in o.lesions if diameter_mm >= GOAL_FROM_MM]
    false = np.mean([outcome.false_positives for outcome in outcomes])
    return int(np.mean(hits) < GOAL_SENSITIVITY or false > GOAL_FALSE_POSITIVES)


if __name__ == "__main__":
    sys.exit(main())
