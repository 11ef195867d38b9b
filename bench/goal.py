"""Whether the shipped model meets its goal on held-out heads of every kind.

    python -m bench.goal [--heads 6]

Evaluates it as unetr.evaluate does and prints the same tables. The exit status is 1 where the goal is missed:
sensitivity 0.8 of lesions from 8 mm, with at most 3 false positives per head.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from settings import load
from unetr import kinds
from unetr.evaluate import chosen_heads, evaluate
from unetr.report import table
from unetr.spec import default_model
from unetr.statistics import bootstrap, mean, ratio
from unetr.summary import summarise

FROM_MM, SENSITIVITY, FALSE_POSITIVES = 8.0, 0.8, 3.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold the default model against its goal.")
    parser.add_argument("--heads", type=int, default=6, help="of each kind")
    options = parser.parse_args()
    settings = load()
    spec = default_model(settings.models_dir, settings.model_path)
    with tempfile.TemporaryDirectory() as folder:
        heads = chosen_heads("", options.heads, kinds.HELD_OUT_SEED)
        (cases,) = evaluate([spec], heads, Path(folder), settings.device)
    print(table(summarise(spec, cases)))
    large = [[lesion for lesion in case.lesions if lesion.diameter_mm >= FROM_MM] for case in cases]
    hits = [sum(lesion.found for lesion in lesions) for lesions in large]
    sensitivity = bootstrap(ratio, hits, [len(lesions) for lesions in large]).value or 0.0
    false_positives = mean([case.false_positives for case in cases]).value or 0.0
    print(
        f"\nSensitivity from {FROM_MM:g} mm: {sensitivity:.2f}, goal {SENSITIVITY}; "
        f"false positives per head: {false_positives:.2f}, goal at most {FALSE_POSITIVES:g}."
    )
    return int(sensitivity < SENSITIVITY or false_positives > FALSE_POSITIVES)


if __name__ == "__main__":
    sys.exit(main())
