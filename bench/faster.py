"""The cost in accuracy and the savings of a smaller field and of int8, on held-out heads.

    python -m bench.faster --model ID_OR_JSON_PATH [--heads 2] [--first-seed 3000000]

Runs the same network over the whole volume, over the head's box, over the brain's box (as the service does)
and over that in int8 (NNCF, calibrated on windows of training heads), always in the detected brain.
Prints for each: windows and seconds per head, Dice of all lesions of a head, its mean and largest change
against the first. Needs `pip install nncf==3.4.0`; runs on a CPU.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence

import nncf
import numpy as np

from settings import load
from unetr.backends import Array, Backend, Logit, load_backends, openvino_backend, openvino_model
from unetr.evaluation.evaluate import find_model
from unetr.evaluation.scores import overlap
from unetr.network import build, load_weights
from unetr.predict import Predictor
from unetr.preprocess import Mask, prepare
from unetr.sliding import Progress
from unetr.spec import Axis, Crop, ModelSpec
from unetr.synthesis import cohorts

KINDS = ("ordinary", "other contrast", "noisy", "oblique")
CALIBRATION_HEADS = 6
CALIBRATION_WINDOWS = 36


class Everywhere(Predictor):
    """A predictor that runs the network over the whole prepared volume."""

    def logits_around(
        self,
        array: Array,
        region: Mask,
        axes: Sequence[Axis],
        on_progress: Progress = lambda fraction: None,
    ) -> Array:
        return super().logits_around(array, np.ones_like(region), axes, on_progress)


class Counted:
    """A backend that counts its windows."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.windows = backend, 0

    def __call__(self, window: Array) -> Array:
        self.windows += 1
        return self.backend(window)


def calibration(predictor: Predictor) -> list[Array]:
    """Return windows of training heads, as the predictor would see them."""
    windows: list[Array] = []

    def remember(window: Array) -> Array:
        windows.append(window[None].copy())
        return np.zeros((len(predictor.spec.labels), *window.shape[1:]), dtype=np.float32)

    for seed in range(cohorts.TRAINING_SEED, cohorts.TRAINING_SEED + CALIBRATION_HEADS):
        prepared = prepare(cohorts.training_head(seed).image, predictor.spec)
        Predictor(predictor.spec, remember, predictor.brain_backend).logits(prepared)
    chosen = np.random.default_rng(0).permutation(len(windows))[:CALIBRATION_WINDOWS]
    return [windows[index] for index in chosen]


def int8(spec: ModelSpec, windows: list[Array]) -> Backend:
    """Return the lesion network, quantized after its training."""
    networks = build(spec)
    load_weights(networks, spec.weights_path, spec.weights.sha256)
    model = openvino_model(Logit(networks["lesion"]).eval(), (len(spec.inputs), *spec.window.shape))
    kind = nncf.ModelType.TRANSFORMER if spec.network.name == "UNETR" else None
    quantized = nncf.quantize(model, nncf.Dataset(windows), model_type=kind, subset_size=len(windows))
    return openvino_backend(quantized)


def ways(spec: ModelSpec) -> Iterator[tuple[str, Predictor, Counted]]:
    """Yield each variant's name, its predictor and the backend that counts its windows."""
    lesion, brain = load_backends(spec, "cpu")
    whole = spec.model_copy(update={"crop": Crop(to="none", margin_mm=0.0)})
    served = Predictor(spec, lesion, brain)
    quantized = int8(spec, calibration(served))
    for name, kind, its_spec, backend in (
        ("whole volume", Everywhere, whole, lesion),
        ("the head's box", Everywhere, spec, lesion),
        ("the brain's box", Predictor, spec, lesion),
        ("the brain's box, int8", Predictor, spec, quantized),
    ):
        counted = Counted(backend)
        yield name, kind(its_spec, counted, brain), counted


def main() -> None:
    parser = argparse.ArgumentParser(description="What cropping and int8 cost and save.")
    parser.add_argument("--model", required=True, help="id of a served model, or its JSON file")
    parser.add_argument("--heads", type=int, default=2, help="of each kind")
    parser.add_argument("--first-seed", type=int, default=cohorts.HELD_OUT_SEED)
    options = parser.parse_args()
    predictors = list(ways(find_model(options.model, load())))
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in predictors}
    dice: dict[str, list[float]] = {name: [] for name, _, _ in predictors}
    heads = [(kind, options.first_seed + number) for kind in KINDS for number in range(options.heads)]
    for kind, seed in heads:
        head = cohorts.head(kind, seed)
        for name, predictor, _ in predictors:
            started = time.perf_counter()
            mask = predictor(head.image).mask
            seconds[name].append(time.perf_counter() - started)
            dice[name].append(overlap(head.labels, mask).dice)
    print(f"{len(heads)} heads: {', '.join(KINDS)}, seeds from {options.first_seed}")
    print("| way | windows | seconds | Dice | mean change | largest change |\n|---|---|---|---|---|---|")
    first = np.array(dice[predictors[0][0]])
    for name, _, counted in predictors:
        change = np.array(dice[name]) - first
        print(
            f"| {name} | {counted.windows / len(heads):.0f} | {statistics.median(seconds[name]):.1f} "
            f"| {np.mean(dice[name]):.4f} | {change.mean():+.4f} | {change[np.abs(change).argmax()]:+.4f} |"
        )


if __name__ == "__main__":
    main()
