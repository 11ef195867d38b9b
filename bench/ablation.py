"""The benefit of each component of the synthesis and of the loss's size weighting: a small network is trained
without it and evaluated on held-out heads.

    python -m bench.ablation --out FOLDER [--heads 4]

Trains the configuration "ablation" with all components, then once without each
(``unetr.synthesis.cohorts.COMPONENTS``; with ``size_exponent`` 0) on the same seeds, evaluates all models on
held-out heads of every kind and prints a table. Each takes about ten minutes on two cores. FOLDER keeps
everything: a stopped run resumes there.
"""

import argparse
from pathlib import Path

from settings import load
from unetr.evaluation.case_scores import ScoredCase
from unetr.evaluation.comparison import compare
from unetr.evaluation.evaluate import chosen_heads, evaluate
from unetr.evaluation.summary import Summary, summarise
from unetr.evaluation.truth import synthetic
from unetr.spec import ModelSpec
from unetr.synthesis.cohorts import COHORTS, COMPONENTS, HELD_OUT_SEED, head
from unetr.training.config import TrainingConfig, load_config
from unetr.training.export import export
from unetr.training.train import Run, train

CONFIG = "ablation"
FIGURE = "lesion-wise Dice"
SIZE = "regard for size"


def configuration(without: str | None) -> TrainingConfig:
    """Return the training configuration without that component, or with all of them."""
    config = load_config(CONFIG)
    if without == SIZE:
        courses = tuple(course.model_copy(update={"size_exponent": 0.0}) for course in config.courses)
        return config.model_copy(update={"courses": courses})
    data = tuple(entry.model_copy(update={"without": without}) for entry in config.data)
    return config.model_copy(update={"data": data})


def trained(without: str | None, out: Path) -> ModelSpec:
    """Return the model; train it if it is not in the folder yet."""
    config, folder = configuration(without), out / (without or "everything")
    train(Run(config, folder))
    return export(config, folder, folder / "model")


def row(name: str, summary: Summary, cases: list[ScoredCase], against: list[ScoredCase]) -> str:
    """Return a table row: lesion-wise Dice of each kind and of all, and its p against everything."""
    by_kind = " | ".join(f"{kind.lesion_wise_dice.value:.2f}" for kind in summary.kinds)
    whole = summary.kinds[-1]
    (figure,) = (figure for figure in compare(against, cases, "head") if figure.name == FIGURE)
    p = "" if cases is against else f"{figure.difference.p:.3f}"
    return f"| {name} | {by_kind} | {p} | {whole.sensitivity.value:.2f} | {whole.false_positives.value:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="What synthesis and loss owe to each of their components.")
    parser.add_argument("--out", type=Path, required=True, help="folder for cases, models and evaluations")
    parser.add_argument("--heads", type=int, default=4, help="of each kind")
    options = parser.parse_args()
    heads = chosen_heads("", options.heads, HELD_OUT_SEED)
    ways = (None, *COMPONENTS, SIZE)
    specs = [trained(without, options.out) for without in ways]
    case_set = synthetic(heads, head)
    (everything, *variants), origin = evaluate(specs, case_set, options.out / "evaluation", load().device)
    print(f"\n| trained | {' | '.join(COHORTS)} | all | p | sensitivity | false positives |")
    print("|---" * (len(COHORTS) + 5) + "|")
    for without, spec, cases in zip(ways, specs, (everything, *variants), strict=True):
        name = f"without {without}" if without else "with everything"
        print(row(name, summarise(spec, cases, origin), cases, everything))


if __name__ == "__main__":
    main()
