"""Adaptation of a served model to a department's own corrected studies.

    python -m unetr adapt --data STUDIES --out FOLDER [--layout dicom] [--model ID_OR_JSON_PATH]
        [--labels 2=0] [--steps 400]

Holds out about a third of the patients, trains the lesion network further on the others' studies together
with synthetic heads, and compares both models on the held-out studies and on other synthetic heads. A table
says what changed. FOLDER/models receives the adapted model only if it is not worse; otherwise the exit status
is 1. 5 to 50 studies are enough. FOLDER keeps cases and checkpoints, so that a stopped run resumes.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from errors import DataRefused
from settings import load
from unetr.data.cases import CaseSource
from unetr.data.datasets import LAYOUTS, sources
from unetr.data.options import add_labels_option, label_values
from unetr.evaluation.case_scores import COUNTED_FROM_MM, ScoredCase, found_of
from unetr.evaluation.evaluate import chosen_heads, evaluate, find_model
from unetr.evaluation.report import written
from unetr.evaluation.statistics import Estimate, bootstrap, mean, ratio
from unetr.evaluation.truth import CaseSet, labelled, synthetic
from unetr.spec import ModelSpec
from unetr.synthesis import cohorts
from unetr.training.config import Course, Generated, Labelled, TrainingConfig
from unetr.training.export import export
from unetr.training.preparation import held_out_patients
from unetr.training.train import Run, train

Labels = Mapping[int, int] | Literal["merge"]

MIN_PATIENTS = 3
HELD_OUT = 0.34
SEED = 1
# Synthetic heads that are trained with, and those that the models are compared on, of each of these kinds.
REPLAYED, COMPARED, KINDS = 24, 3, "ordinary,thick slices,no lesion"
LEARNING_RATE = 1.0e-4
# The adapted model may lose this much of each figure, and find this many more false positives per case.
MAX_LOSS, MAX_MORE_FALSE = 0.02, 0.25
# Labels are taken for wrong if the model touches fewer than this share of the lesions from this diameter.
LARGE_FROM_MM, MIN_TOUCHED = 10.0, 0.3
FIRST_HEAD = 900


@dataclass(frozen=True)
class Figures:
    """What is compared. Lesions count from 3 mm."""

    sensitivity: Estimate
    lesion_wise_dice: Estimate
    false_positives: Estimate


def figures_of(cases: Sequence[ScoredCase]) -> Figures:
    """Compute the figures of a model's cases, with intervals over the cases."""
    found, known = found_of(cases, COUNTED_FROM_MM)
    return Figures(
        bootstrap(ratio, found, known),
        mean([case.lesion_wise.dice for case in cases]),
        mean([float(case.false_positives) for case in cases]),
    )


def labelled_patients(
    folder: Path, layout: str, labels: Labels, spec: ModelSpec
) -> tuple[set[str], set[str]]:
    """Return the ids of the cases to train on, and of those held out, by patient. Raises: DataRefused."""
    cases = [s for s in sources(folder, layout, labels, spec.inputs) if isinstance(s, CaseSource)]
    patients = {case.patient for case in cases}
    if len(patients) < MIN_PATIENTS:
        raise DataRefused(
            f"{folder.name} has labelled studies of {len(patients)} patients; at least {MIN_PATIENTS} are "
            "needed, as some are held out for the comparison."
        )
    apart = held_out_patients(patients, HELD_OUT, SEED)
    held_out = {case.id for case in cases if case.patient in apart}
    return {case.id for case in cases} - held_out, held_out


def configuration(spec: ModelSpec, data: Labelled, steps: int) -> TrainingConfig:
    """Return the training of an adapted model, which starts from the weights of ``spec``."""
    adapted = spec.model_copy(update={"id": f"{spec.id}-adapted", "version": f"{spec.version}+adapted"})
    weights = spec.weights.model_copy(update={"file": f"{adapted.id}.safetensors"})
    course = Course(
        network="lesion",
        start_from=spec.weights_path,
        steps=steps,
        batch=1,
        learning_rate=LEARNING_RATE,
        warm_up=min(40, steps),
        weight_decay=1e-4,
        cross_entropy=5.0,
        foreground=2.0,
        size_exponent=0.35,
    )
    replay = Generated(generator="metastases", training=REPLAYED, validation=4)
    return TrainingConfig(
        spec=adapted.model_copy(update={"weights": weights}),
        data=(data, replay),
        courses=(course,),
        validate_every=max(steps // 4, 1),
        windows=24,
    )


def faults(before: Figures, after: Figures, noun: str) -> list[str]:
    """Return a sentence for each figure by which the adapted model is worse."""
    told = []
    for name, old, new in (
        ("sensitivity", before.sensitivity, after.sensitivity),
        ("lesion-wise Dice", before.lesion_wise_dice, after.lesion_wise_dice),
    ):
        if (new.value or 0.0) < (old.value or 0.0) - MAX_LOSS:
            told.append(f"{name} on {noun} falls from {old.value or 0:.2f} to {new.value or 0:.2f}")
    old, new = before.false_positives, after.false_positives
    if (new.value or 0.0) > (old.value or 0.0) + MAX_MORE_FALSE:
        told.append(f"false positives on {noun} rise from {old.value or 0:.2f} to {new.value or 0:.2f}")
    return told


def table(rows: Sequence[tuple[str, Figures, Figures]]) -> str:
    """Return the figures before and after, with 95 % intervals, as Markdown."""
    lines = ["| cases | figure | before | after |", "|---|---|---|---|"]
    for noun, before, after in rows:
        for name in ("sensitivity", "lesion_wise_dice", "false_positives"):
            old, new = written(getattr(before, name)), written(getattr(after, name))
            lines.append(f"| {noun} | {name.replace('_', ' ')} | {old} | {new} |")
    return "\n".join(lines)


def require_plausible_labels(cases: Sequence[ScoredCase]) -> None:
    """Check that the labels lie where the model finds something. Raises: DataRefused.

    A model may miss small lesions of a department, but not most of the large ones.
    """
    large = [lesion for case in cases for lesion in case.lesions_of(LARGE_FROM_MM)]
    touched = sum(lesion.covered > 0 for lesion in large)
    if large and touched < MIN_TOUCHED * len(large):
        raise DataRefused(
            f"The model touches {touched} of the {len(large)} labelled lesions from {LARGE_FROM_MM:g} mm. "
            "Labels that lie elsewhere than the lesions would spoil the model: check with "
            "`python -m unetr explore` that they belong to these images."
        )


def adapt(spec: ModelSpec, data: Labelled, out: Path, device: str, steps: int) -> list[str]:
    """Train, compare and, if it is not worse, write the adapted model; return why it is worse.

    Raises: DataRefused; WeightsInvalid, ModelError, OutOfMemory.
    """
    _, held_out = labelled_patients(data.folder, data.layout, data.labels, spec)
    everything = labelled(data.folder, data.layout, data.labels, [spec])
    own = CaseSet(everything.origin, tuple(s for s in everything.sources if s.name in held_out))
    heads = synthetic(chosen_heads(KINDS, COMPARED, cohorts.HELD_OUT_SEED + FIRST_HEAD), cohorts.head)
    (all_cases,), _ = evaluate([spec], everything, out / "cases-before", device)
    require_plausible_labels(all_cases)
    config = configuration(spec, data, steps)
    train(Run(config, out / "run"))
    adapted = export(config, out / "run", out / "unchecked", spec.weights_path)
    rows, worse = [], []
    for noun, case_set in (("held-out studies", own), ("synthetic heads", heads)):
        (before, after), _ = evaluate([spec, adapted], case_set, out / noun.replace(" ", "-"), device)
        rows.append((noun, figures_of(before), figures_of(after)))
        worse += faults(*rows[-1][1:], noun)
    print(table(rows))
    if not worse:
        (out / "models").mkdir(exist_ok=True)
        for file in (out / "unchecked").iterdir():
            file.replace(out / "models" / file.name)
    return worse


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m unetr adapt", description="Adapt a model to your own corrected studies."
    )
    parser.add_argument("--data", type=Path, required=True, help="labelled studies")
    parser.add_argument("--layout", choices=[*LAYOUTS], default="dicom", help="of the studies")
    add_labels_option(parser)
    parser.add_argument("--model", help="id of a served model, or its JSON file; the default one if absent")
    parser.add_argument("--out", type=Path, required=True, help="folder for the work and the model")
    parser.add_argument("--steps", type=int, default=400, help="of the training")
    options = parser.parse_args(arguments)
    settings = load()
    spec = find_model(options.model, settings)
    labels = label_values(options.labels)
    data = Labelled(
        folder=options.data,
        layout=options.layout,
        labels=labels if labels == "merge" else dict(labels),
        validation=HELD_OUT,
        seed=SEED,
        weight=1.5,
    )
    worse = adapt(spec, data, options.out, settings.device, options.steps)
    if worse:
        print(f"\nThe adapted model is not written, because {'; '.join(worse)}.")
        return 1
    path = options.out / "models" / f"{spec.id}-adapted.json"
    print(f"\n{path} is not worse. Serve it: MODEL_PATH={path.with_suffix('.safetensors')}")
    return 0


if __name__ == "__main__":
    main()
