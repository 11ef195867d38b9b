"""The findings in a stack: its lesions, and the DICOM objects that describe them."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from db.recording import NewObject
from imaging import parametric_map, rtstruct, rtstruct_read, seg, sr
from imaging.derived import LONG_STRING, Algorithm, Edition, Subject
from imaging.grid import MM3_PER_ML
from imaging.identity import check_derived
from imaging.stack import Stack
from lesions.measure import Identity, Lesion, components, measure, objects
from orthanc import part10
from settings import Settings
from unetr.confidence import confidence
from unetr.spec import ConceptCode, Label, ModelSpec
from unetr.uncertainty import max_entropy_bits

# CID 7150 and 7166: category and type of a segment whose SEG gives none.
UNSPECIFIED = Code("85756007", "SCT", "Tissue")
# Lesions that a person adds to a segmentation with several labels: their label is unknown.
UNSPECIFIED_CONCEPT = ConceptCode(
    value=UNSPECIFIED.value, scheme=UNSPECIFIED.scheme_designator, meaning=UNSPECIFIED.meaning
)
FINDING = Label(value=1, name="Finding", category=UNSPECIFIED_CONCEPT, type=UNSPECIFIED_CONCEPT)
# Default names that viewers give to segments.
PLACEHOLDER_NAME = re.compile(r"\s*(Segment \d+)?\s*")


@dataclass(frozen=True)
class Findings:
    """The lesions of a stack. lesion_map: int32 lesion numbers (slice, row, column) on the stack's grid.

    lesions: by label, then the largest first. sources: the segments of the measured SEG by lesion number;
    empty if no SEG was measured. label_by_lesion: empty if a SEG was measured.
    warnings: of the model, or about the mask that was measured.
    """

    stack: Stack
    lesion_map: hd.Volume
    lesions: Sequence[Lesion]
    sources: Mapping[int, seg.Segment] = field(default_factory=dict)
    label_by_lesion: Mapping[int, Label] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def with_identities(self, identities: Mapping[int, Identity]) -> "Findings":
        """Return the same findings with other identities, by lesion number."""
        lesions = [replace(lesion, **vars(identities[lesion.number])) for lesion in self.lesions]
        return replace(self, lesions=lesions)


def measured(
    stack: Stack, mask: hd.Volume, probability: hd.Volume | None, spec: ModelSpec, measurable_ld_mm: float
) -> Findings:
    """Measure the objects of a mask, under new identities.

    mask, probability: (slice, row, column) on the stack's grid. If the model has only one label, every value
    of the mask means that label; otherwise each value is a label's. measurable_ld_mm: the long axis, mm, from
    which a lesion is measurable.
    """
    if len(spec.labels) == 1:
        only = spec.labels[0]
        lesion_map = mask.with_array((mask.array > 0).astype(np.int32)) if only.whole else components(mask)
        label_by_lesion = dict.fromkeys(range(1, int(lesion_map.array.max()) + 1), only)
    else:
        by_value = {label.value: label for label in spec.labels}
        lesion_map, values = objects(mask, [label.value for label in spec.labels if label.whole])
        label_by_lesion = {number: by_value[value] for number, value in values.items()}
    identities = new_identities(label_by_lesion)
    lesions = measure(lesion_map, stack.slices, probability, measurable_ld_mm, identities)
    lesions = [_with_confidence(lesion, spec) for lesion in lesions]
    return Findings(stack, lesion_map, lesions, label_by_lesion=label_by_lesion)


def _with_confidence(lesion: Lesion, spec: ModelSpec) -> Lesion:
    probability = lesion.mean_probability
    if probability is None:
        return lesion
    return replace(lesion, confidence=confidence(spec, probability, lesion.volume_ml * MM3_PER_ML))


def new_identities(
    label_by_lesion: Mapping[int, Label], used_ids: Collection[str] = ()
) -> dict[int, Identity]:
    """Return identities for new lesions by number, numbered after the tracking identifiers in use."""
    counts = {label.value: last_number(label, used_ids) for label in label_by_lesion.values()}
    identities = {}
    for number, label in label_by_lesion.items():
        counts[label.value] += 1
        identities[number] = identity(label, counts[label.value])
    return identities


def last_number(label: Label, used_ids: Collection[str]) -> int:
    """Return the highest number among the label's tracking identifiers in use; 0 without any."""
    numbered = re.compile(rf"{re.escape(label.tracking or label.name)}-(\d+)")
    return max((int(match[1]) for name in used_ids if (match := numbered.fullmatch(name))), default=0)


def identity(label: Label, number: int) -> Identity:
    """Return the identity of a new object, the number-th of its label."""
    tracking = label.tracking or label.name
    if label.whole:
        return Identity(label.name, tracking, str(hd.UID()))
    return Identity(f"{label.name} {number}", f"{tracking}-{number}", str(hd.UID()))


def read_drawn(dataset: Dataset, stack: Stack) -> tuple[hd.Volume, list[seg.Segment]]:
    """Read the segments of a SEG or an RT Structure Set, as ``seg.read`` does."""
    reader = rtstruct_read.read if rtstruct_read.is_structure_set(dataset) else seg.read
    return reader(dataset, stack)


def label_of_drawn(spec: ModelSpec) -> Label:
    """Return the label of a hand-drawn lesion: the model's if it has only one, otherwise FINDING."""
    label = spec.labels[0] if len(spec.labels) == 1 else FINDING
    return label.model_copy(update={"whole": False})


def identities_of_segments(
    sources: Mapping[int, seg.Segment], label: Label, used_ids: Collection[str] = ()
) -> dict[int, Identity]:
    """Return by lesion number the identities of the lesions of a SEG that does not correct a result.

    The lesion of a tracked segment keeps its identity; without a label its tracking identifier is its name.
    The others keep their segment's label, with a number if several share it; without a label they are named
    and numbered after the given label.
    sources: the segments by lesion number. used_ids: tracking identifiers in use.
    """
    last = last_number(label, used_ids)
    lesions_of = Counter(source.number for source in sources.values())
    counts: Counter[int] = Counter()
    identities = {}
    for lesion, source in sorted(sources.items()):
        if source.tracking_id and source.tracking_uid:
            name = (source.name or source.tracking_id)[:LONG_STRING]
            identities[lesion] = Identity(name, source.tracking_id, source.tracking_uid)
            continue
        last += 1
        counts[source.number] += 1
        new = identity(label, last)
        if not PLACEHOLDER_NAME.fullmatch(source.name):
            number = f" {counts[source.number]}" if lesions_of[source.number] > 1 else ""
            new = replace(new, name=source.name.strip()[: LONG_STRING - len(number)] + number)
        identities[lesion] = new
    return identities


def encode(result: Findings, spec: ModelSpec, edition: Edition) -> Dataset | None:
    """Encode the DICOM SEG, one segment per lesion; None without lesions.

    A lesion measured from a SEG keeps the description of that SEG, including the algorithm or person.
    """
    if not result.lesions:
        return None
    segments = [
        _segment_of(
            lesion,
            result.label_by_lesion.get(lesion.number, spec.labels[0]),
            result.sources.get(lesion.number),
        )
        for lesion in result.lesions
    ]
    return seg.write(result.stack, result.lesion_map, segments, edition)


def report_of(
    result: Findings,
    encoded: Dataset | None,
    spec: ModelSpec,
    edition: Edition,
    previous: Dataset | None = None,
) -> Dataset:
    """Return the DICOM SR with the volumes and diameters of the lesions in the SEG.

    encoded: None to report that there are no lesions. The stack has headers.
    """
    if encoded is None:
        finding_types = [to_code(label.type) for label in spec.labels]
        return sr.write_negative(result.stack, finding_types, edition, previous)
    return sr.write(result.stack, encoded, result.lesions, edition, previous)


def structure_set_of(
    result: Findings, encoded: Dataset, edition: Edition, previous: Dataset | None = None
) -> Dataset:
    """Return the RT Structure Set of the lesions in the SEG. The stack has headers."""
    edition = replace(edition, continued=None)
    return rtstruct.write(result.stack, encoded, result.lesion_map, result.lesions, edition, previous)


def has_report(encoded: Dataset | None, settings: Settings) -> bool:
    """Tell whether a report is stored with the SEG, or instead of a SEG if there are no lesions."""
    return settings.store_sr and (encoded is not None or settings.report_no_lesion)


def publish(dataset: Dataset, source: Dataset) -> NewObject:
    """Return an object encoded for the database, from which it goes to the archive.

    source: an image that it was made of. Raises: IdentityConflict if that is of another patient or study.
    """
    check_derived(dataset, source)
    return NewObject(
        modality=dataset.Modality,
        sop_instance_uid=dataset.SOPInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        encoded=part10.encode(dataset),
    )


def uncertainty_map(stack: Stack, entropy: hd.Volume, spec: ModelSpec, edition: Edition) -> Dataset:
    """Return the DICOM Parametric Map of the model's uncertainty. The stack has headers."""
    return parametric_map.write(stack, entropy, edition, max_entropy_bits(len(spec.labels)))


def subject_of(spec: ModelSpec) -> Subject:
    """Return the subject and anatomy of the objects that the model finds."""
    return Subject(spec.subject, None if spec.anatomy is None else to_code(spec.anatomy))


def to_code(concept: ConceptCode) -> Code:
    """Return the concept as a DICOM code."""
    return Code(concept.value, concept.scheme, concept.meaning)


def edition_of(spec: ModelSpec, version: int = 1, result_index: int = 0) -> Edition:
    """Return the edition of a result that the model drew."""
    algorithm = Algorithm(spec.title, spec.version, spec.weights.sha256, {"model": spec.id})
    return Edition(version, result_index=result_index, subject=subject_of(spec), algorithm=algorithm)


def _segment_of(lesion: Lesion, label: Label, source: seg.Segment | None) -> seg.Segment:
    category, type_ = to_code(label.category), to_code(label.type)
    if source is not None:
        # Its own codes, if it has any, are in ``described`` and take precedence.
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
    """Return the lesions 1..n of a SEG's segments, largest first, and the segment of each lesion."""
    tracked = [s.number for s in segments if s.tracking_id and s.tracking_uid]
    loose = np.where(np.isin(labels.array, tracked), 0, labels.array)
    parts = components(labels.with_array(loose)).array
    parts = np.where(parts > 0, parts + max(tracked, default=0), 0) + labels.array - loose
    numbers, indices, counts = np.unique(parts[parts > 0], return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    renumbered = np.zeros(int(parts.max()) + 1, dtype=np.int32)
    renumbered[numbers[order]] = np.arange(1, len(order) + 1)
    by_number = {segment.number: segment for segment in segments}
    segment_numbers = labels.array[parts > 0][indices[order]].tolist()
    sources = {lesion: by_number[number] for lesion, number in enumerate(segment_numbers, start=1)}
    return labels.with_array(renumbered[parts]), sources
