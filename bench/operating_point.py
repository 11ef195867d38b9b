"""Sensitivity and false positives of the default model by threshold and smallest volume.

    python -m bench.operating_point [--heads 16] [--first-seed 2500000]

Prints a Markdown table over heads that are neither trained on nor held out for the final figures; the
specification's ``postprocessing`` is chosen from it. Components are compared on the model's own grid.
"""

import argparse
import math
from collections import defaultdict

import cc3d
import numpy as np

from bench.heldout import make_head
from settings import load
from unetr.evaluate import match
from unetr.predict import Predictor
from unetr.preprocess import prepare, resample_labels
from unetr.spec import default_model

FIRST_SEED = 2_500_000
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
SMALLEST_MM3 = (15.0, 30.0, 50.0, 80.0, 120.0)
LARGE_MM = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare thresholds and smallest volumes.")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    settings = load()
    spec = default_model(settings.models_dir, settings.model_path)
    # Outside the brain the logits lie just below the specification's threshold: it must be the lowest of all.
    lowest = spec.postprocessing.model_copy(update={"threshold": min(THRESHOLDS)})
    predictor = Predictor.load(spec.model_copy(update={"postprocessing": lowest}), settings.device)
    hits: dict[tuple[float, float], list[tuple[float, bool]]] = defaultdict(list)
    false: dict[tuple[float, float], list[int]] = defaultdict(list)
    for seed in range(options.first_seed, options.first_seed + options.heads):
        head = make_head(seed)
        prepared = prepare(head.image, spec)
        truth = resample_labels(head.labels, prepared)
        diameters = {lesion.number: lesion.diameter_mm for lesion in head.lesions}
        logits = predictor.logits(prepared.volume).array
        for threshold in THRESHOLDS:
            parts = cc3d.connected_components(logits > math.log(threshold / (1 - threshold)), connectivity=26)
            volumes_mm3 = np.bincount(parts.ravel()) * truth.voxel_volume
            for smallest_mm3 in SMALLEST_MM3:
                kept = volumes_mm3 >= smallest_mm3
                found = truth.with_array(np.where(kept[parts], parts, 0))
                outcome = match(truth, found)
                hits[threshold, smallest_mm3] += [
                    (diameters[number], outcome.found(number)) for number in outcome.covered
                ]
                false[threshold, smallest_mm3].append(len(outcome.false_numbers))
    print("| threshold | smallest, mm3 | sensitivity | from 8 mm | false positives per head |")
    print("|---|---|---|---|---|")
    for point, rows in hits.items():
        large = [hit for diameter, hit in rows if diameter >= LARGE_MM]
        print(
            f"| {point[0]:g} | {point[1]:g} | {np.mean([hit for _, hit in rows]):.2f} | {np.mean(large):.2f} "
            f"({sum(large)} of {len(large)}) | {np.mean(false[point]):.2f} |"
        )


if __name__ == "__main__":
    main()
