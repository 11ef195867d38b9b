"""Choice of a model's thresholds and fit of its confidence on validation heads; both go into its spec.

    python -m unetr operating_point --model ID_OR_JSON_PATH --out FOLDER [--heads 48] [--first-seed 2500000]
        [--backgrounds REAL_HEADS] [--false-positives 1.0]
    python -m unetr operating_point --model ID_OR_JSON_PATH --out FOLDER [--false-positives 1.0]
        --folder STUDIES --layout msd [--labels 1=0 2=0 3=1]

Grid search over thresholds, seed thresholds and smallest volumes: of the settings with at most N false
positives per case whose median volume is right to a tenth, keep those whose sensitivity for lesions from 3 mm
is within 0.01 of the best; of these take the one with the least volume bias. Thresholds are compared on the
model's own grid, as in ``unetr.predict``.
The model's JSON file is changed in place: only ``postprocessing`` and ``confidence``. Synthetic heads are
like the training's, with other seeds; the kinds of evaluate.py stay unseen. With --backgrounds, every second
one is a real head with drawn metastases; choose heads that the model was not trained with. FOLDER receives
the cases at the chosen point, from which the confidence is fitted.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from errors import BrainNotFound, DataRefused
from imaging.grid import MM3_PER_ML
from settings import load
from unetr.confidence import fit
from unetr.data.backgrounds import backgrounds, metastases_in
from unetr.data.cases import CaseSource
from unetr.evaluation.case_scores import COUNTED_FROM_MM, ScoredCase
from unetr.evaluation.evaluate import evaluate, find_model, require_model_of_heads
from unetr.evaluation.options import FOLDER_OPTIONS, parse_with_folder
from unetr.evaluation.scores import HIT_FRACTION, match
from unetr.evaluation.truth import CaseSet, MakeHead, Truth, TruthSource, labelled, synthetic
from unetr.predict import Predictor, are_sure, peaks_of
from unetr.preprocess import prepare, resample_labels
from unetr.spec import Confidence, ModelSpec, PostProcessing, logit
from unetr.synthesis import cohorts, metastases

# Later seeds than those of the validation heads that training itself uses.
FIRST_SEED = cohorts.VALIDATION_SEED + 500_000
DRAWN, REAL = "drawn head", "real head"
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
SEEDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999)
MIN_VOLUMES_MM3 = (5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 50.0, 80.0, 120.0)
# Sensitivity (absolute) that is traded for unbiased volumes; the largest factor by which the volumes of a
# setting may be wrong.
TOLERANCE, MAX_BIAS = 0.01, 1.1
MIN_VOLUME_RATIO = 1e-9
FIELDS = re.compile(r'"postprocessing":\s*\{[^{}]*\}(\s*,\s*"confidence":\s*(\{[^{}]*\}|null))?')


@dataclass(frozen=True)
class Point:
    """A choice of post-processing, its sensitivity for lesions from 3 mm and its false positives per case.

    volume_ratio: median of found over true volume of the lesions found.
    """

    postprocessing: PostProcessing
    sensitivity: float
    false_positives: float
    volume_ratio: float

    @property
    def bias(self) -> float:
        """Return the factor, 1 or more, by which volumes are wrong."""
        ratio = max(self.volume_ratio, MIN_VOLUME_RATIO)
        return max(ratio, 1.0 / ratio)


@dataclass(frozen=True)
class Cut:
    """The components of one case at one threshold.

    volumes_mm3, peaks (highest logits), false: one entry per component, at its number minus 1. true_mm3,
    shares: for each true lesion from 3 mm its volume, and the fraction that each component covers, by number.
    """

    volumes_mm3: NDArray[np.float64]
    peaks: NDArray[np.float32]
    false: NDArray[np.bool_]
    true_mm3: tuple[float, ...]
    shares: tuple[dict[int, float], ...]


def cut(truth: Truth, predictor: Predictor) -> dict[float, Cut]:
    """Return a case's components by threshold; the predictor's own threshold must be the lowest one.

    A case in which the model finds no brain has no components. Raises: InputRefused, OutOfMemory.
    """
    image, *others = truth.inputs(predictor.spec)
    prepared = prepare(image, predictor.spec, others)
    try:
        logits = predictor.logits(prepared).array
    except BrainNotFound:
        logits = np.full(prepared.volume.spatial_shape, -np.inf, dtype=np.float32)
    labels = resample_labels(truth.labels, prepared)
    visible = set(np.unique(truth.labels.array).tolist())
    counted = [
        lesion
        for lesion in truth.lesions
        if lesion.diameter_mm >= COUNTED_FROM_MM and lesion.number in visible
    ]
    cuts = {}
    for threshold in THRESHOLDS:
        parts = cc3d.connected_components(logits > logit(threshold), connectivity=26, out_dtype=np.uint32)
        outcome = match(labels, labels.with_array(parts.astype(np.int32)))
        cuts[threshold] = Cut(
            volumes_mm3=np.asarray(np.bincount(parts.ravel())[1:] * labels.voxel_volume, dtype=float),
            peaks=peaks_of(logits, parts),
            false=np.isin(np.arange(1, int(parts.max()) + 1), outcome.false_numbers),
            true_mm3=tuple(lesion.volume_ml * MM3_PER_ML for lesion in counted),
            shares=tuple(dict(outcome.shares.get(lesion.number, {})) for lesion in counted),
        )
    return cuts


def points(cuts: Sequence[dict[float, Cut]]) -> Iterator[Point]:
    """Yield every choice and its results over the cases."""
    lesions = sum(len(case[THRESHOLDS[0]].shares) for case in cuts)
    for threshold in THRESHOLDS:
        for seed in (None, *(seed for seed in SEEDS if seed > threshold)):
            for smallest_mm3 in MIN_VOLUMES_MM3:
                false = 0
                ratios = []
                for case in cuts:
                    part = case[threshold]
                    kept = part.volumes_mm3 >= smallest_mm3
                    if seed is not None:
                        kept &= are_sure(part.peaks, part.volumes_mm3, seed)
                    false += int((kept & part.false).sum())
                    for true_mm3, shares in zip(part.true_mm3, part.shares, strict=True):
                        touching = [number for number in shares if kept[number - 1]]
                        if sum(shares[number] for number in touching) >= HIT_FRACTION:
                            ratios.append(sum(part.volumes_mm3[n - 1] for n in touching) / true_mm3)
                choice = PostProcessing(
                    threshold=threshold, seed_threshold=seed, minimum_volume_mm3=smallest_mm3
                )
                yield Point(
                    choice,
                    len(ratios) / max(lesions, 1),
                    false / max(len(cuts), 1),
                    float(np.median(ratios)) if ratios else 0.0,
                )


def best(candidates: Sequence[Point], false_positives: float) -> Point:
    """Return the point with the least volume bias among the most sensitive points within the rate.

    A low threshold finds most but draws lesions too large: points beyond MAX_BIAS count only if there is no
    other. Ties go to the fewest false positives, then to no seed threshold. If no point is within the rate,
    return the one with the fewest false positives.
    """
    allowed = [point for point in candidates if point.false_positives <= false_positives]
    if not allowed:
        return min(candidates, key=lambda point: (point.false_positives, -point.sensitivity))
    right = [point for point in allowed if point.bias <= MAX_BIAS] or allowed
    most = max(point.sensitivity for point in right)
    return min(
        [point for point in right if point.sensitivity >= most - TOLERANCE],
        key=lambda point: (
            point.bias,
            point.false_positives,
            point.postprocessing.seed_threshold is not None,
        ),
    )


def fit_confidence(cases: Sequence[ScoredCase]) -> Confidence | None:
    """Fit the calibration to the components of these cases; None if all or none of them are lesions."""
    components = [component for case in cases for component in case.components]
    if len({component.real for component in components}) < 2:
        return None
    return fit(
        [component.mean_probability for component in components],
        [component.volume_ml * MM3_PER_ML for component in components],
        [component.real for component in components],
    )


def write(path: Path, postprocessing: PostProcessing, confidence: Confidence | None) -> None:
    """Change these two fields of a spec's file and leave the rest of its text as it is.

    Raises: ValueError if the changed file would not hold these values.
    """
    text = path.read_text(encoding="utf-8")
    between = ",\n  " if "\n" in text.strip() else ", "
    fields: dict[str, Any] = {"postprocessing": postprocessing.model_dump(exclude_none=True)}
    if confidence is not None:
        fields["confidence"] = confidence.model_dump()
    written = between.join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    changed = FIELDS.sub(lambda _: written, text, count=1)
    spec = ModelSpec.model_validate_json(changed)
    if (spec.postprocessing, spec.confidence) != (postprocessing, confidence):
        raise ValueError(f"{path.name} has no field postprocessing that can be changed in place")
    unfinished = path.with_suffix(".part")
    unfinished.write_text(changed, encoding="utf-8")
    unfinished.rename(path)


def validation_head(heads: Sequence[CaseSource], kind: str, seed: int) -> metastases.Head:
    """Return the head of that kind and seed. heads: backgrounds of the real heads."""
    return metastases_in(heads, seed) if kind == REAL else cohorts.training_head(seed)


def cuts_of(cases: CaseSet, predictor: Predictor) -> list[dict[float, Cut]]:
    """Return the components of each case that can be used.

    Raises: DataRefused if no case can be used, or none has a lesion from 3 mm; OutOfMemory.
    """

    def cuts_and_report(source: TruthSource, place: str) -> dict[float, Cut]:
        cuts = cut(source.load(), predictor)
        print(f"{place}, {source.name}", flush=True)
        return cuts

    cuts, origin = cases.score_all(cuts_and_report)
    if not any(case[THRESHOLDS[0]].shares for case in cuts):
        raise DataRefused(
            f"None of the {len(cuts)} {origin.noun}s has a lesion of {COUNTED_FROM_MM:g} mm or more, "
            "so there is no sensitivity by which to choose."
        )
    return cuts


def main(arguments: Sequence[str] | None = None, make_head: MakeHead | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m unetr operating_point",
        description="Choose a model's operating point on synthetic heads or on a folder of labelled studies.",
    )
    parser.add_argument("--model", required=True, help="id of a served model, or its JSON file")
    parser.add_argument("--heads", type=int, help="number of synthetic heads, 48 by default")
    parser.add_argument("--first-seed", type=int, help=f"of the synthetic heads, {FIRST_SEED} by default")
    parser.add_argument("--backgrounds", type=Path, help="real heads, layout nnunet, label 1 the brain")
    parser.add_argument("--false-positives", type=float, default=1.0, help="at most this many per case")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cases at the chosen point")
    defaults = {"heads": 48, "first_seed": FIRST_SEED, "backgrounds": None}
    options = parse_with_folder(parser, arguments, defaults)
    settings = load()
    spec = find_model(options.model, settings)
    if options.folder is None:
        require_model_of_heads(spec, FOLDER_OPTIONS)
        real = backgrounds(options.backgrounds) if options.backgrounds is not None else []
        kinds = (DRAWN, REAL) if real else (DRAWN,)
        heads = [(kinds[n % len(kinds)], options.first_seed + n) for n in range(options.heads)]
        case_set = synthetic(heads, make_head or partial(validation_head, real))
    else:
        case_set = labelled(options.folder, options.layout, options.labels, [spec])
    lowest = PostProcessing(threshold=THRESHOLDS[0], minimum_volume_mm3=0.0)
    predictor = Predictor.load(spec.model_copy(update={"postprocessing": lowest}), settings.device)
    candidates = list(points(cuts_of(case_set, predictor)))
    chosen = best(candidates, options.false_positives)
    print(_table(candidates, chosen, case_set.origin.noun))
    update = {"postprocessing": chosen.postprocessing, "confidence": None}
    (cases,), origin = evaluate([spec.model_copy(update=update)], case_set, options.out, settings.device)
    confidence = fit_confidence(cases)
    write(spec.folder / f"{spec.id}.json", chosen.postprocessing, confidence)
    print("\n".join(["", *origin.rejections()]))
    print(f"Written into {spec.id}.json: {chosen.postprocessing}; {confidence}")


def _table(candidates: Sequence[Point], chosen: Point, noun: str) -> str:
    """Return a table of each threshold's best point without a seed threshold, and the chosen point."""
    rows = [
        best(
            [
                point
                for point in candidates
                if point.postprocessing.threshold == threshold and point.postprocessing.seed_threshold is None
            ],
            chosen.false_positives,
        )
        for threshold in THRESHOLDS
    ]
    lines = [
        "| threshold | seed | smallest, mm3 | sensitivity from 3 mm "
        f"| false positives a {noun} | volume ratio |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for point in [*rows, chosen]:
        choice = point.postprocessing
        lines.append(
            f"| {choice.threshold:g} | {choice.seed_threshold or '–'} | {choice.minimum_volume_mm3:g} "
            f"| {point.sensitivity:.3f} | {point.false_positives:.2f} | {point.volume_ratio:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
