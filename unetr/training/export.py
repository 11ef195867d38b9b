"""Export of a training's best checkpoints as a model that can be served.

    python -m unetr export --config NAME --run FOLDER --to MODELS_DIR

Writes ``<id>.safetensors``, ``<id>.json`` (the specification), ``<id>.md`` (the model card) and
``<id>.golden.npy`` (the network's logits of a window of seeded noise) into MODELS_DIR.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from errors import WeightsInvalid
from unetr.network import build, load_network, write_model
from unetr.spec import ModelSpec, Trained
from unetr.training.config import Course, Generated, Labelled, TrainingConfig, load_config
from unetr.training.preparation import TRAINED

Array = NDArray[np.float32]
PREFIX = "network."


def export(
    config: TrainingConfig, run: Path, models_dir: Path, base_weights: Path | None = None
) -> ModelSpec:
    """Write the model of a run into a folder and return its specification. Raises: WeightsInvalid.

    base_weights: a file with the networks that have no course.
    """
    spec = config.spec
    networks = build(spec)
    if base_weights is not None:
        for name, network in networks.items():
            load_network(network, base_weights, name)
    for course in config.courses:
        best = run / course.network / "best.ckpt"
        if not best.exists():
            raise WeightsInvalid(f"{run.name} does not contain {course.network}/best.ckpt. Train longer.")
        state = torch.load(best, weights_only=True, map_location="cpu")["state_dict"]
        networks[course.network].load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items()})
    if (range_file := run / TRAINED).exists():
        trained = Trained.model_validate_json(range_file.read_bytes())
        spec = spec.model_copy(update={"trained": trained})
    spec = write_model(spec, networks, models_dir)
    (models_dir / f"{spec.id}.md").write_text(_card(spec, config, run))
    return spec


def _card(spec: ModelSpec, config: TrainingConfig, run: Path) -> str:
    data = "\n".join(f"- {_data(entry)}" for entry in config.data)
    courses = "\n\n".join(_course(course, run) for course in config.courses)
    return f"""# {spec.title} {spec.version}

**Intended use**: {spec.intended_use}

**Licence**: {spec.licence}. **Training data**: {spec.training_data}

**Inputs**: {", ".join(spec.inputs)}. **Labels**: {", ".join(label.name for label in spec.labels)}.

**SHA-256 of the weights**: {spec.weights.sha256}

## Training

{data}

{courses}
"""


def _data(entry: Generated | Labelled) -> str:
    if isinstance(entry, Generated):
        inside = f" in real heads of {entry.heads.name}" if entry.heads is not None else ""
        return (
            f"Generated cases ({entry.generator}{inside}): {entry.training} for training and "
            f"{entry.validation} for validation; weight {entry.weight:g}."
        )
    return (
        f"Labelled cases of {entry.folder.name} ({entry.layout}), {entry.validation:.0%} of the patients "
        f"held out by the seed {entry.seed}; weight {entry.weight:g}."
    )


def _course(course: Course, run: Path) -> str:
    curve = run / f"{course.network}.csv"
    lines = curve.read_text().splitlines() if curve.exists() else []
    # A run that was interrupted and resumed lists some steps twice.
    rows = list({row["step"]: row for row in csv.DictReader(lines)}.values())
    kept = rows[:: max(len(rows) // 12, 1)]
    if rows and kept[-1] is not rows[-1]:
        kept.append(rows[-1])
    table = "\n".join(f"| {r['step']} | {r['training_loss']} | {r['validation_dice']} |" for r in kept)
    begun = f", started from {course.start_from.name}" if course.start_from else ""
    sentence = f"The {course.network} network: {course.steps} steps of {course.batch} windows{begun}."
    return f"{sentence}\n\n| step | loss | held-out Dice |\n|---|---|---|\n{table}" if rows else sentence


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m unetr export", description="Write a trained model.")
    parser.add_argument("--config", default="tiny", help="a name in unetr/configs, or a file")
    parser.add_argument("--run", type=Path, required=True, help="the output folder of the training")
    parser.add_argument("--to", type=Path, required=True, help="the folder of models (MODELS_DIR)")
    options = parser.parse_args(arguments)
    spec = export(load_config(options.config), options.run, options.to)
    print(f"{spec.folder / spec.id}.json {spec.weights.sha256}")


if __name__ == "__main__":
    main()
