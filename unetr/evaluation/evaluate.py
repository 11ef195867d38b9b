"""Evaluation of a model on synthetic heads of several kinds or on labelled studies, alone or against another.

    python -m unetr evaluate --model ID_OR_JSON_PATH --out FOLDER [--against ID_OR_JSON_PATH] [--heads 10]
        [--first-seed 3000000] [--kinds "ordinary,no lesion"]
    python -m unetr evaluate --model ID_OR_JSON_PATH --out FOLDER [--against ID_OR_JSON_PATH]
        --folder STUDIES --layout msd [--labels 1=0 2=0 3=1]

FOLDER receives a JSON file for each case and model, then report.json and report.html. An interrupted run
resumes when started again. docs/models.md explains each figure.
"""

import argparse
import functools
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from errors import BrainNotFound, RequestError
from imaging.sequences import T1_POST_CONTRAST
from settings import Settings, load
from unetr.evaluation.case_scores import (
    CANDIDATES,
    CASE,
    ScoredCase,
    found_lesions,
    judge,
    store,
    with_pictures,
)
from unetr.evaluation.options import FOLDER_OPTIONS, parse_with_folder
from unetr.evaluation.report import save_report, table
from unetr.evaluation.summary import summarise
from unetr.evaluation.truth import CaseSet, MakeHead, Origin, Truth, TruthSource, labelled, synthetic
from unetr.predict import Prediction, Predictor
from unetr.served import find_spec
from unetr.spec import ModelSpec, load_spec
from unetr.synthesis import cohorts

# Increase when the fields of a case or their computation change: stored cases are then not reused.
CASES_VERSION = 2


def find_model(name: str | None, settings: Settings) -> ModelSpec:
    """Return the model of that id or JSON file, or the default one. Raises: as find_spec and load_spec."""
    return load_spec(Path(name)) if name and name.endswith(".json") else find_spec(settings, name)


def require_model_of_heads(spec: ModelSpec, instead: str) -> None:
    """Check that the model segments one label in post-contrast T1 alone. Raises: RequestError.

    instead: the options that give the command other images.
    """
    if spec.inputs != (T1_POST_CONTRAST,) or len(spec.labels) > 1:
        raise RequestError(
            f"The synthetic heads are post-contrast T1 with metastases; {spec.id} segments "
            f"{', '.join(label.name for label in spec.labels)} in {', '.join(spec.inputs)}. "
            f"Give it images of its kind with {instead}."
        )


def folder_of(spec: ModelSpec, out: Path) -> Path:
    """Return the folder of a model's cases; it depends on the whole spec, e.g. threshold and weights."""
    content = f"{CASES_VERSION} {CANDIDATES.model_dump_json()} {spec.model_dump_json()}"
    return out / f"{spec.id}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def evaluate(
    specs: Sequence[ModelSpec], cases: CaseSet, out: Path, device: str
) -> tuple[list[list[ScoredCase]], Origin]:
    """Return the scores of each model on the same cases, in their order; reuse those stored in ``out``.

    The returned origin lists all cases that cannot be used. Only one case is in memory at a time.
    Raises: DataRefused if no case can be used; WeightsInvalid, ModelError, OutOfMemory.
    """
    predictor = functools.cache(lambda index: Predictor.load(specs[index], device))

    def row(source: TruthSource, place: str) -> list[ScoredCase]:
        truth = functools.cache(source.load)
        scored = []
        for index, spec in enumerate(specs):
            path = folder_of(spec, out) / f"{source.key}.json"
            if not path.exists():
                case = truth()
                path.parent.mkdir(parents=True, exist_ok=True)
                store(_case(case, predictor(index), path.with_suffix("")), path)
                print(f"{spec.id}: {place}, {source.kind} {source.name}", flush=True)
            scored.append(CASE.validate_json(path.read_bytes()))
        return scored

    rows, origin = cases.score_all(row)
    return [list(column) for column in zip(*rows, strict=True)], origin


def _case(truth: Truth, predictor: Predictor, stem: Path) -> ScoredCase:
    """Predict one case and score it; if the model finds no brain, the prediction is empty.

    stem: how the paths of its pictures begin. Raises: InputRefused if the model refuses the images.
    """
    spec = predictor.spec
    image, *others = truth.inputs(spec)
    started = time.perf_counter()
    refused = False
    try:
        prediction, candidates = predictor.variants(image, [spec.postprocessing, CANDIDATES], others=others)
    except BrainNotFound:
        refused = True
        nothing = np.zeros(image.spatial_shape, dtype=np.float32)
        prediction = candidates = Prediction(
            image.with_array(nothing.astype(np.uint8)), image.with_array(nothing)
        )
    seconds = time.perf_counter() - started
    case = replace(judge(truth, prediction, candidates, spec), seconds=seconds, refused=refused)
    return with_pictures(case, image, truth.labels, found_lesions(prediction), stem)


def chosen_heads(names: str, heads: int, first_seed: int) -> list[tuple[str, int]]:
    """Return (kind, seed) of this number of heads per kind. names: separated by commas, empty for all."""
    kinds = names.split(",") if names else list(cohorts.COHORTS)
    if unknown := [name for name in kinds if name not in cohorts.COHORTS]:
        raise SystemExit(f"unknown kind {', '.join(unknown)}; available: {', '.join(cohorts.COHORTS)}")
    return [(name, first_seed + number) for name in kinds for number in range(heads)]


def main(arguments: Sequence[str] | None = None, make_head: MakeHead = cohorts.head) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m unetr evaluate",
        description="Evaluate a model on synthetic heads, or on a folder of labelled studies.",
    )
    parser.add_argument("--model", required=True, help="id of a served model, or its JSON file")
    parser.add_argument("--against", help="another model, for a paired comparison")
    parser.add_argument("--heads", type=int, help="synthetic heads of each kind, 10 by default")
    parser.add_argument("--first-seed", type=int, help=f"of each kind, {cohorts.HELD_OUT_SEED} by default")
    parser.add_argument("--kinds", help="of synthetic heads, separated by commas; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cases and the report")
    heads = {"heads": 10, "first_seed": cohorts.HELD_OUT_SEED, "kinds": ""}
    options = parse_with_folder(parser, arguments, heads)
    settings = load()
    specs = [find_model(name, settings) for name in (options.model, options.against) if name]
    if options.folder is None:
        for spec in specs:
            require_model_of_heads(spec, FOLDER_OPTIONS)
        chosen = chosen_heads(options.kinds, options.heads, options.first_seed)
        case_set = synthetic(chosen, make_head)
    else:
        case_set = labelled(options.folder, options.layout, options.labels, specs)
    cases, origin = evaluate(specs, case_set, options.out, settings.device)
    against = (summarise(specs[1], cases[1], origin), cases[1]) if options.against else None
    summary = summarise(specs[0], cases[0], origin, against)
    save_report(summary, cases[0], folder_of(specs[0], options.out), options.out)
    print(table(summary))
    print(f"\n{options.out / 'report.html'}")


if __name__ == "__main__":
    main()
