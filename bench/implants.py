"""The default model on real heads with implanted lesions: sensitivity by size and false positives per head.

    python -m bench.implants --data DIR --out DIR [--model ID_OR_JSON_PATH] [--against ID_OR_JSON_PATH]
        [--rounds 3] [--size-mm 60]

DIR is a folder of real cases as for ``bench.real``. Backgrounds are its lesion-free heads that the default
model was not trained with; those that are not post-contrast get vessels, plexus and dura that enhance. Most
lesions are drawn (``unetr.synthesis.varied_lesion``), others are the labelled tumours of DIR in thin slices
with their real texture, turned and at another size. Each head is used once per round, with other lesions.
Tables and report are those of ``python -m unetr evaluate``.
"""

import argparse
import zlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import highdicom as hd
import numpy as np
from scipy import ndimage

from bench.real_cases import RealSource, real_cases
from imaging.sequences import T1_POST_CONTRAST
from settings import load
from unetr.evaluation.evaluate import evaluate, find_model, folder_of
from unetr.evaluation.report import save_report, table
from unetr.evaluation.summary import summarise
from unetr.evaluation.truth import CaseSet, KnownLesion, Origin, Truth, TruthSource
from unetr.predict import Predictor
from unetr.preprocess import Prepared, prepare, resample_labels
from unetr.synthesis import metastases, real_heads
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.fields import sample
from unetr.synthesis.varied_lesion import FINEST_MM, POINTS, SIDE, VariedLesion, lattice

COUNT = (3, 8)
SMALLEST_MM = 2.0
REAL_SHARE = 0.3
# Thickest slices, mm, whose tumours are taken: steps between slices are not texture.
MAX_SPACING_MM = 3.0
# Surroundings of a tumour whose signal counts as white matter's, mm, and the percentile of it.
AROUND_MM, WHITE_PERCENTILE = (4.0, 15.0), 60.0


def textures(sources: Sequence[RealSource]) -> list[VariedLesion]:
    """Return the labelled tumours in thin slices, each the largest of its case."""
    found = []
    for source in sources:
        if source.known.lesion_free:
            continue
        case = source.load()
        if case.truth is not None and case.truth.array.any() and max(case.image.spacing) <= MAX_SPACING_MM:
            found.append(_texture(case.image, case.truth))
    return found


def _texture(image: hd.Volume, truth: hd.Volume) -> VariedLesion:
    """Return the largest lesion of a real image on a lattice; its level is relative to its surroundings."""
    counts = np.bincount(truth.array.ravel())
    counts[0] = 0
    mask = truth.array == counts.argmax()
    away_mm = ndimage.distance_transform_edt(~mask, image.spacing)
    shell = (away_mm > AROUND_MM[0]) & (away_mm < AROUND_MM[1])
    white = float(np.percentile(image.array[shell], WHITE_PERCENTILE))
    diameter_mm = float((6.0 / np.pi * counts.max() * image.voxel_volume) ** (1 / 3))
    step_mm = max(diameter_mm / POINTS, FINEST_MM)
    centre = image.map_indices_to_reference(np.array([np.argwhere(mask).mean(0)]))[0]
    points = lattice(int(np.ceil(SIDE * diameter_mm / step_mm)), step_mm) + centre[:, None, None, None]
    index = image.map_reference_to_indices(points.reshape(3, -1).T).T.reshape(points.shape)
    channels = np.stack([mask, image.array / white]).astype(np.float32)
    inside, level = sample(channels, index)
    return VariedLesion("real", diameter_mm, step_mm, np.round(inside), level, 0.0, 1.0, 0.0, 0)


def random_lesion(
    tumours: Sequence[VariedLesion], rng: np.random.Generator, diameter_mm: tuple[float, float]
) -> VariedLesion:
    """Return a drawn lesion, or a real one at that size, turned."""
    drawn = VariedLesion.random(rng, diameter_mm)
    if not tumours or rng.random() >= REAL_SHARE:
        return drawn
    tumour = tumours[int(rng.integers(len(tumours)))]
    axes = tuple(rng.permutation(3).tolist())
    mirrored = tuple(axis for axis in range(3) if rng.random() < 0.5)
    inside, level = (
        np.ascontiguousarray(np.flip(array.transpose(axes), mirrored))
        for array in (tumour.inside, tumour.level)
    )
    volume_mm3 = float(inside.sum()) * tumour.step_mm**3
    factor = float((np.pi / 6.0 * drawn.diameter_mm**3 / volume_mm3) ** (1 / 3))
    return VariedLesion(
        "real", drawn.diameter_mm, tumour.step_mm * factor, inside, level,
        drawn.oedema_mm, drawn.oedema_level, drawn.push_mm, drawn.texture_seed,
    )  # fmt: skip


def implanted(
    source: RealSource, predictor: Predictor, tumours: Sequence[VariedLesion], seed: int, size_mm: float
) -> Truth:
    """Return a real head with implanted lesions. predictor: finds the brain if it is not known."""
    case = source.load()
    brain = case.brain
    if brain is None:
        prepared = prepare(case.image, predictor.spec)
        mask = predictor.region(prepared.volume).brain
        assert mask is not None
        found = prepared.volume.with_array(mask.astype(np.uint8))
        brain = resample_labels(found, Prepared(case.image))
    rng = np.random.default_rng((seed, zlib.crc32(source.name.encode())))
    options = HeadOptions(
        lesion_count=COUNT,
        diameter_mm=(SMALLEST_MM, size_mm),
        vessels=(1.2, 2.2),
        noise=(0.0, 0.015),
        blur_mm=(0.0, 0.2),
        varied=True,
        contrast_varies=False,
        skull=not source.known.brain_only,
    )
    background = real_heads.RealHead(case.image, brain, source.known.enhanced)
    head = metastases.with_metastases(
        case.image.get_geometry(),
        real_heads.anatomy(background, rng, options),
        rng,
        options,
        partial(random_lesion, tumours),
    )
    return Truth(
        "whole head" if not source.known.brain_only else "brain only",
        f"{source.name}, round {seed}",
        seed,
        {T1_POST_CONTRAST: head.image},
        head.labels.with_array((head.labels.array > 0).astype(np.uint8)),
        head.labels,
        tuple(KnownLesion(lesion.number, lesion.diameter_mm, lesion.volume_ml) for lesion in head.lesions),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The default model on real heads with implanted lesions.")
    parser.add_argument("--data", type=Path, required=True, help="a folder of real cases")
    parser.add_argument("--out", type=Path, required=True, help="for the cases and the report")
    parser.add_argument("--model", help="id of a served model, or its JSON file; the default one if absent")
    parser.add_argument("--against", help="another model, for a paired comparison")
    parser.add_argument("--rounds", type=int, default=3, help="how often each head is used")
    parser.add_argument("--size-mm", type=float, default=60.0, help="diameter of the largest lesions")
    options = parser.parse_args()
    settings = load()
    specs = [find_model(options.model, settings)]
    if options.against:
        specs.append(find_model(options.against, settings))
    sources = list(real_cases(options.data))
    heads = [source for source in sources if source.known.lesion_free and not source.known.trained]
    tumours = cache(partial(textures, sources))
    predictor = cache(partial(Predictor.load, specs[0], settings.device))
    cases = CaseSet(
        Origin(
            "head",
            f"{len(heads)} real heads with implanted lesions, {options.rounds} times each",
            "Implanted lesions are not patients' lesions.",
        ),
        tuple(
            TruthSource(
                "real head",
                head.name,
                f"{head.name.replace('/', '-')}-{seed}-{options.size_mm:g}",
                lambda head=head, seed=seed: implanted(  # type: ignore[misc]
                    head, predictor(), tumours(), seed, options.size_mm
                ),
            )
            for seed in range(options.rounds)
            for head in heads
        ),
    )
    scored, origin = evaluate(specs, cases, options.out, settings.device)
    against = (summarise(specs[1], scored[1], origin), scored[1]) if options.against else None
    summary = summarise(specs[0], scored[0], origin, against)
    save_report(summary, scored[0], folder_of(specs[0], options.out), options.out)
    print(table(summary))


if __name__ == "__main__":
    main()
