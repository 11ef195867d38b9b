"""What was found in a stack: its lesions, and the DICOM objects that say so."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from imaging import parametric_map, seg, sr
from imaging.stack import Stack
from lesions.measure import MM3_PER_ML, Identity, Lesion, components, measure, objects
from unetr.confidence import confidence
from unetr.explain import most_bits
from unetr.spec import ConceptCode, Label, ModelSpec

# CID 7150 and 7166: category and type of a segment whose own SEG gives none.
UNSPECIFIED = Code("85756007", "SCT", "Tissue")


@dataclass(frozen=True)
class Result:
    """labels: int32 lesion numbers (slice, row, column) on the stack's grid; lesions by label, then the
    largest first.

    sources: by lesion number, the segments of the SEG that was measured; empty where there was none.
    kinds: by lesion number, the labels; empty where a SEG was measured. warnings: of the model.
    """

    stack: Stack
    labels: hd.Volume
    lesions: Sequence[Lesion]
    sources: Mapping[int, seg.Segment] = field(default_factory=dict)
    kinds: Mapping[int, Label] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def measured(
    stack: Stack, mask: hd.Volume, probability: hd.Volume | None, spec: ModelSpec, measurable_ld_mm: float
) -> Result:
    """The objects of a mask and of the model's probabilities, both (slice, row, column) on the stack's grid.

    Of a model of one label every value of the mask is that label, else its own. measurable_ld_mm: the long
    axis from which a lesion is measurable.
    """
    if len(spec.labels) == 1:
        only = spec.labels[0]
        labels = mask.with_array((mask.array > 0).astype(np.int32)) if only.whole else components(mask)
        kinds = dict.fromkeys(range(1, int(labels.array.max()) + 1), only)
    else:
        by_value = {label.value: label for label in spec.labels}
        labels, values = objects(mask, [label.value for label in spec.labels if label.whole])
        kinds = {number: by_value[value] for number, value in values.items()}
    lesions = measure(labels, stack.slices, probability, measurable_ld_mm, _identities(kinds))
    return Result(stack, labels, [_with_confidence(lesion, spec) for lesion in lesions], kinds=kinds)


def _with_confidence(lesion: Lesion, spec: ModelSpec) -> Lesion:
    probability = lesion.mean_probability
    if probability is None:
        return lesion
    return replace(lesion, confidence=confidence(spec, probability, lesion.volume_ml * MM3_PER_ML))


def _identities(kinds: Mapping[int, Label]) -> dict[int, Identity]:
    """By lesion number."""
    counts: Counter[int] = Counter()
    identities = {}
    for number, label in kinds.items():
        counts[label.value] += 1
        identities[number] = identity(label, counts[label.value])
    return identities


def identity(label: Label, number: int) -> Identity:
    """A new object's, the number-th of its label."""
    tracking = label.tracking or label.name
    if label.whole:
        return Identity(label.name, tracking, str(hd.UID()))
    return Identity(f"{label.name} {number}", f"{tracking}-{number}", str(hd.UID()))


def encode(result: Result, spec: ModelSpec, drawn_by_model: bool = True) -> Dataset | None:
    """The DICOM SEG, one segment per lesion; None without lesions.

    A lesion that was measured from a SEG is what that SEG says, drawn by whom it says.
    """
    if not result.lesions:
        return None
    segments = [
        _segment_of(
            lesion, result.kinds.get(lesion.number, spec.labels[0]), result.sources.get(lesion.number)
        )
        for lesion in result.lesions
    ]
    return seg.write(
        result.stack,
        result.labels,
        segments,
        algorithm_of(spec) if drawn_by_model else None,
        sop_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
        subject=subject_of(spec),
    )


def report_of(
    result: Result, encoded: Dataset, algorithm: seg.Algorithm | None, subject: seg.Subject
) -> Dataset:
    """The DICOM SR that gives the volumes and diameters of the lesions in the SEG; no algorithm: by hand."""
    return sr.write(
        result.stack,
        encoded,
        result.lesions,
        algorithm,
        sop_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
        subject=subject,
    )


def uncertainty_map(stack: Stack, entropy: hd.Volume, spec: ModelSpec) -> Dataset:
    """The DICOM Parametric Map of how sure the model was; the stack has headers."""
    return parametric_map.write(
        stack,
        entropy,
        algorithm_of(spec),
        sop_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
        subject=subject_of(spec),
        most_bits=most_bits(len(spec.labels)),
    )


def subject_of(spec: ModelSpec) -> seg.Subject:
    """What the model's objects are about."""
    return seg.Subject(spec.subject, None if spec.anatomy is None else code_of(spec.anatomy))


def code_of(concept: ConceptCode) -> Code:
    """As DICOM objects take it."""
    return Code(concept.value, concept.scheme, concept.meaning)


def algorithm_of(spec: ModelSpec) -> seg.Algorithm:
    """What SEG, report and map say drew what is in them."""
    return seg.Algorithm(spec.title, spec.version, spec.weights.sha256, {"model": spec.id})


def _segment_of(lesion: Lesion, label: Label, source: seg.Segment | None) -> seg.Segment:
    category, type_ = code_of(label.category), code_of(label.type)
    if source is not None:
        # Its own codes, where it has any, are in ``described`` and go before.
        category = type_ = UNSPECIFIED
    return seg.Segment(
        number=lesion.number,
        name=lesion.name,
        tracking_id=lesion.tracking_id,
        tracking_uid=lesion.tracking_uid,
        category=category,
        type=type_,
        described=source.described if source else None,
    )


def lesions_of_segments(
    labels: hd.Volume, segments: Sequence[seg.Segment]
) -> tuple[hd.Volume, dict[int, seg.Segment]]:
    """Lesions 1..n, largest first, of a SEG's segments, and the segment that each lesion is (of)."""
    tracked = [s.number for s in segments if s.tracking_id and s.tracking_uid]
    loose = np.where(np.isin(labels.array, tracked), 0, labels.array)
    parts = components(labels.with_array(loose)).array
    parts = np.where(parts > 0, parts + max(tracked, default=0), 0) + labels.array - loose
    numbers, first, counts = np.unique(parts[parts > 0], return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    renumbered = np.zeros(int(parts.max()) + 1, dtype=np.int32)
    renumbered[numbers[order]] = np.arange(1, len(order) + 1)
    by_number = {segment.number: segment for segment in segments}
    given = labels.array[parts > 0][first[order]].tolist()
    sources = {lesion: by_number[number] for lesion, number in enumerate(given, start=1)}
    return labels.with_array(renumbered[parts]), sources
