"""Cases whose lesions are known: synthetic heads by their seeds, or the labelled studies of a folder.

Scores, statistics and reports use only what ``Truth`` and ``Origin`` hold, so they are the same for both.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import highdicom as hd
import numpy as np

from errors import DataRefused, InputRefused
from imaging.grid import MM3_PER_ML
from imaging.sequences import T1_POST_CONTRAST
from lesions.measure import components
from unetr.data.cases import CaseSource, RejectedCase, unknown_label
from unetr.data.datasets import sources
from unetr.spec import ModelSpec
from unetr.synthesis import metastases

MakeHead = Callable[[str, int], metastases.Head]
KEY_DIGITS = 12
Score = TypeVar("Score")


@dataclass(frozen=True)
class KnownLesion:
    """A lesion of the truth. diameter_mm: of the sphere of its volume."""

    number: int
    diameter_mm: float
    volume_ml: float


@dataclass(frozen=True)
class Truth:
    """A case with known lesions, all of it on one grid (slice, row, column).

    kind: the group with which it is summarised. name: what reports call it. seed: of a synthetic case.
    images: by sequence. values: label values, 0 elsewhere. labels: lesion numbers, 0 elsewhere. lesions:
    those of labels, and those too small for a voxel.
    """

    kind: str
    name: str
    seed: int | None
    images: Mapping[str, hd.Volume]
    values: hd.Volume
    labels: hd.Volume
    lesions: tuple[KnownLesion, ...]

    def inputs(self, spec: ModelSpec) -> list[hd.Volume]:
        """Return the images of the model's inputs, in its order. Raises: KeyError if there is none."""
        return [self.images[name] for name in spec.inputs]


@dataclass(frozen=True)
class TruthSource:
    """A case that has not been read yet. key: a file name that differs between cases and their versions.

    load: raises InputRefused if the case cannot be used.
    """

    kind: str
    name: str
    key: str
    load: Callable[[], Truth]


@dataclass(frozen=True)
class Origin:
    """The cases of an evaluation in words. noun: of one case. description, caution: for the report's head.

    rejected: cases that cannot be used.
    """

    noun: str
    description: str
    caution: str
    rejected: tuple[RejectedCase, ...] = ()

    def rejections(self) -> list[str]:
        """Return lines that list the cases that cannot be used; none if there are none."""
        if not self.rejected:
            return []
        return [
            f"{len(self.rejected)} {self.noun}s cannot be used:",
            *(f"  {bad.id}: {bad.reason}" for bad in self.rejected),
        ]


@dataclass(frozen=True)
class CaseSet:
    """The cases of an evaluation, before they are read."""

    origin: Origin
    sources: tuple[TruthSource, ...]

    def score_all(self, score: Callable[[TruthSource, str], Score]) -> tuple[list[Score], Origin]:
        """Score one case after the other; return the scores, and the origin with all rejected cases.

        score: called with the case and its place among all, as text; a case for which it raises InputRefused
        is rejected. Raises: DataRefused if no case can be used, with the reason of the first one.
        """
        rejected = list(self.origin.rejected)
        scores = []
        for number, source in enumerate(self.sources, start=1):
            try:
                scores.append(score(source, f"{number} of {len(self.sources)} {self.origin.noun}s"))
            except InputRefused as error:
                rejected.append(RejectedCase(source.name, error.problem))
        if not scores:
            reason = f", as {rejected[0].id}: {rejected[0].reason}" if rejected else "."
            raise DataRefused(f"There is no {self.origin.noun} that can be used{reason}")
        return scores, replace(self.origin, rejected=tuple(rejected))


def synthetic(heads: Sequence[tuple[str, int]], make_head: MakeHead) -> CaseSet:
    """Return the synthetic heads of these (kind, seed)."""
    seeds = [seed for _, seed in heads]
    origin = Origin(
        "head",
        f"synthetic heads, seeds {min(seeds, default=0)} to {max(seeds, default=0)}",
        "Synthetic heads say nothing about patients.",
    )
    return CaseSet(
        origin,
        tuple(
            TruthSource(
                kind,
                str(seed),
                f"{kind}-{seed}".replace(" ", "-"),
                partial(_make_truth, kind, seed, make_head),
            )
            for kind, seed in heads
        ),
    )


def _make_truth(kind: str, seed: int, make_head: MakeHead) -> Truth:
    head = make_head(kind, seed)
    return Truth(
        kind,
        str(seed),
        seed,
        {T1_POST_CONTRAST: head.image},
        head.labels.with_array((head.labels.array > 0).astype(np.uint8)),
        head.labels,
        tuple(KnownLesion(lesion.number, lesion.diameter_mm, lesion.volume_ml) for lesion in head.lesions),
    )


def labelled(
    folder: Path, layout: str, labels: Mapping[int, int] | Literal["merge"], specs: Sequence[ModelSpec]
) -> CaseSet:
    """Return the cases of a folder, with the images that the models need. Arguments as for ``sources``.

    A lesion is a component (26 neighbours) of all labels together. Raises: DataRefused if the folder has
    another layout, or lacks an input; ValueError for label values outside 0 to 255.
    """
    inputs = list(dict.fromkeys(name for spec in specs for name in spec.inputs))
    cases = list(sources(folder, layout, labels, inputs))
    chosen = "merged" if labels == "merge" else ", ".join(f"{old}={new}" for old, new in labels.items())
    origin = Origin(
        "case",
        f"labelled cases in the layout {layout}{f', labels {chosen}' if chosen else ''}",
        "The cases have the names that their folder gives them: check this report before sharing it.",
        tuple(case for case in cases if isinstance(case, RejectedCase)),
    )
    return CaseSet(
        origin,
        tuple(
            TruthSource(layout, case.id, _key(case, labels), partial(_read, case, layout, specs))
            for case in cases
            if isinstance(case, CaseSource)
        ),
    )


def _read(source: CaseSource, layout: str, specs: Sequence[ModelSpec]) -> Truth:
    case = source.load()
    if isinstance(case, RejectedCase):
        raise DataRefused(case.reason)
    for spec in specs:
        if (bad := unknown_label(case, spec)) is not None:
            raise DataRefused(bad.reason)
    numbers = components(case.truth.with_array(case.truth.array > 0))
    counts = np.bincount(numbers.array.ravel())
    volumes_ml = counts * case.truth.voxel_volume / MM3_PER_ML
    return Truth(
        layout,
        case.id,
        None,
        case.images,
        case.truth,
        numbers,
        tuple(
            KnownLesion(number, sphere_diameter_mm(float(volumes_ml[number])), float(volumes_ml[number]))
            for number in range(1, len(counts))
        ),
    )


def _key(source: CaseSource, labels: Mapping[int, int] | Literal["merge"]) -> str:
    """Return a file name that changes with the case's files and the labels selected from it."""
    content = repr((source.id, labels, source.versions))
    name = re.sub(r"[^\w.-]+", "-", source.id)
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:KEY_DIGITS]}"


def sphere_diameter_mm(volume_ml: float) -> float:
    """Return the diameter of the sphere of that volume."""
    return float((6.0 * volume_ml * MM3_PER_ML / np.pi) ** (1.0 / 3.0))
