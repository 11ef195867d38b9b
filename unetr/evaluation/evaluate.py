"""Evaluation of a model on synthetic heads of several kinds, alone or against another model.

    python -m unetr evaluate --model ID_OR_JSON_PATH --out FOLDER [--against ID_OR_JSON_PATH] [--heads 10]
        [--first-seed 3000000] [--kinds "ordinary,no lesion"]

FOLDER receives a JSON file for each head and model, then report.json and report.html. An interrupted run
resumes when started again. docs/models.md explains each figure.
"""

import argparse
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from errors import BrainNotFound, RequestError
from imaging.sequences import T1_POST_CONTRAST
from settings import Settings, load
from unetr.evaluation.case_scores import CANDIDATES, CASE, ScoredCase, Truth, judge, store, with_pictures
from unetr.evaluation.report import save_report, table
from unetr.evaluation.summary import summarise
from unetr.predict import Prediction, Predictor
from unetr.served import find_spec
from unetr.spec import ModelSpec, load_spec
from unetr.synthesis import cohorts, metastases

MakeHead = Callable[[str, int], metastases.Head]
# Increase when the fields of a case or their computation change: stored cases are then not reused.
CASES_VERSION = 1


def find_model(name: str | None, settings: Settings) -> ModelSpec:
    """Return the model of that id or JSON file, or the default one. Raises: as find_spec and load_spec."""
    return load_spec(Path(name)) if name and name.endswith(".json") else find_spec(settings, name)


def find_model_of_heads(name: str, settings: Settings) -> ModelSpec:
    """Return a model that can be evaluated on the synthetic heads.

    Raises: ModelNotFound, ModelSpecInvalid; RequestError for a model of other images.
    """
    spec = find_model(name, settings)
    require_model_of_heads(spec)
    return spec


def require_model_of_heads(spec: ModelSpec) -> None:
    """Check that the model segments one label in post-contrast T1 alone. Raises: RequestError."""
    if spec.inputs != (T1_POST_CONTRAST,) or len(spec.labels) > 1:
        raise RequestError(
            f"The synthetic heads are post-contrast T1 with metastases; {spec.id} segments "
            f"{', '.join(label.name for label in spec.labels)} in {', '.join(spec.inputs)}."
        )


def folder_of(spec: ModelSpec, out: Path) -> Path:
    """Return the folder of a model's cases; it depends on the whole spec, e.g. threshold and weights."""
    content = f"{CASES_VERSION} {CANDIDATES.model_dump_json()} {spec.model_dump_json()}"
    return out / f"{spec.id}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def evaluate(
    specs: Sequence[ModelSpec],
    heads: Sequence[tuple[str, int]],
    out: Path,
    device: str,
    make_head: MakeHead = cohorts.head,
) -> list[list[ScoredCase]]:
    """Return the cases of each model, in the order of the heads (kind, seed); reuse those stored in ``out``.

    Only one head is in memory at a time. Raises: WeightsInvalid, ModelError, OutOfMemory.
    """
    predictor = functools.cache(lambda index: Predictor.load(specs[index], device))
    cases: list[list[ScoredCase]] = [[] for _ in specs]
    for number, (kind, seed) in enumerate(heads, start=1):
        truth = functools.cache(functools.partial(_truth, kind, seed, make_head))
        for index, spec in enumerate(specs):
            folder = folder_of(spec, out)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{kind}-{seed}.json".replace(" ", "-")
            if not path.exists():
                store(_case(truth(), predictor(index), folder), path)
                print(f"{spec.id}: {number} of {len(heads)} heads, {kind} {seed}", flush=True)
            cases[index].append(CASE.validate_json(path.read_bytes()))
    return cases


def _truth(kind: str, seed: int, make_head: MakeHead) -> Truth:
    head = make_head(kind, seed)
    diameters_mm = {lesion.number: lesion.diameter_mm for lesion in head.lesions}
    return Truth(kind, seed, head.image, head.labels, diameters_mm)


def _case(truth: Truth, predictor: Predictor, folder: Path) -> ScoredCase:
    """Predict one head and score it; a refusal of the model counts as an empty prediction."""
    started = time.perf_counter()
    refused = False
    try:
        prediction, candidates = predictor.variants(truth.image, [predictor.spec.postprocessing, CANDIDATES])
    except BrainNotFound:
        refused = True
        nothing = np.zeros(truth.image.spatial_shape, dtype=np.float32)
        prediction = candidates = Prediction(
            truth.image.with_array(nothing.astype(np.uint8)), truth.image.with_array(nothing)
        )
    seconds = time.perf_counter() - started
    case = replace(judge(truth, prediction, candidates, predictor.spec), seconds=seconds, refused=refused)
    return with_pictures(case, truth, prediction, folder)


def chosen_heads(names: str, heads: int, first_seed: int) -> list[tuple[str, int]]:
    """Return (kind, seed) of this number of heads per kind. names: separated by commas, empty for all."""
    wanted = names.split(",") if names else list(cohorts.COHORTS)
    if unknown := [name for name in wanted if name not in cohorts.COHORTS]:
        raise SystemExit(f"unknown kind {', '.join(unknown)}; available: {', '.join(cohorts.COHORTS)}")
    return [(name, first_seed + number) for name in wanted for number in range(heads)]


def main(arguments: Sequence[str] | None = None, make_head: MakeHead = cohorts.head) -> None:
    parser = argparse.ArgumentParser(description="Evaluate a model on synthetic heads.")
    parser.add_argument("--model", required=True, help="id of a served model, or its JSON file")
    parser.add_argument("--against", help="another model, for a paired comparison")
    parser.add_argument("--heads", type=int, default=10, help="of each kind")
    parser.add_argument("--first-seed", type=int, default=cohorts.HELD_OUT_SEED)
    parser.add_argument("--kinds", default="", help="separated by commas; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cases and the report")
    options = parser.parse_args(arguments)
    settings = load()
    specs = [find_model_of_heads(name, settings) for name in (options.model, options.against) if name]
    heads = chosen_heads(options.kinds, options.heads, options.first_seed)
    cases = evaluate(specs, heads, options.out, settings.device, make_head)
    against = (summarise(specs[1], cases[1]), cases[1]) if options.against else None
    summary = summarise(specs[0], cases[0], against)
    save_report(summary, cases[0], folder_of(specs[0], options.out), options.out)
    print(table(summary))
    print(f"\n{options.out / 'report.html'}")


if __name__ == "__main__":
    main()
