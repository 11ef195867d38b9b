"""The time that the served models take for a head of 256 x 256 x 176, and the time to synthesise a head.

    python -m bench.prediction [--rounds 5]

Each round runs every model once, so that other load on the machine affects all. Loading is not counted.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from settings import load
from unetr.predict import Predictor
from unetr.served import served_models
from unetr.synthesis import cohorts


def seconds(act: Callable[[], object]) -> float:
    """Measure how long ``act`` takes, s."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the models on one head.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = load()
    models = served_models(settings.models_dir, settings.model_path)
    predictors = {name: Predictor.load(spec, settings.device) for name, spec in models.items()}
    image = cohorts.head("ordinary", cohorts.HELD_OUT_SEED).image
    durations_s: dict[str, list[float]] = {name: [] for name in predictors}
    for predictor in predictors.values():
        predictor(image)
    for _ in range(options.rounds):
        for name, predictor in predictors.items():
            durations_s[name].append(seconds(partial(predictor, image)))
    print(f"{' x '.join(map(str, image.spatial_shape))} voxels, {options.rounds} rounds")
    for name, times in durations_s.items():
        print(f"{name}: median {statistics.median(times):.2f} s, worst {max(times):.2f} s")
    torch.set_num_threads(1)
    head_durations_s = [
        seconds(partial(cohorts.training_head, seed))
        for seed in range(cohorts.VALIDATION_SEED, cohorts.VALIDATION_SEED + 2 * options.rounds)
    ]
    print(f"a head to train on, on one core: median {statistics.median(head_durations_s):.2f} s")


if __name__ == "__main__":
    main()
