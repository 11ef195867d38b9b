"""Corrections of a segmentation: lesions renamed, deleted, redrawn or restored.

A correction is measured like a new segmentation and recorded as the next version; the previous version is
kept. Lesions keep their names, tracking identifiers and colours.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import numpy as np
from pydicom import Dataset

from context import Connections, JobRun
from db import recording, segmentations
from db.numbering import Numbering, NumberingOutdated, first_version, next_numbering
from db.recording import NewObject
from errors import SegmentationMismatch
from findings import (
    Findings,
    has_report,
    identities_of_segments,
    identity,
    label_of_drawn,
    last_number,
    lesions_of_segments,
    publish,
    read_drawn,
    report_of,
    structure_set_of,
    subject_of,
    to_code,
)
from imaging import seg
from imaging.derived import Edition, OpenSeries, result_index_of
from imaging.stack import Stack
from lesions.measure import Identity, Lesion
from lesions.measure import measure as measure_lesions
from schemas.results import Change, ChangeAnswer, LesionAnswer
from schemas.tasks import CorrectTask, MeasureTask, RestoreTask
from segmentation import idempotency_key
from tasks.edits import EditedLesions, as_it_is, compare_versions, match_drawing, without
from tasks.versions import (
    RecordedVersion,
    SourceSeries,
    fetch_edited,
    fetch_images,
    fetch_version,
    read_version,
)
from unetr.served import default_model, served_models
from unetr.spec import Label, ModelSpec
from version import VERSION


def correct(task: CorrectTask, run: JobRun) -> str:
    """Rename and delete lesions; return the id of the new version, or of the old one if nothing changed.

    Raises: InputRefused, ArchiveError, InstanceNotFound, SegmentationNotFound, SegmentationSuperseded,
    LeaseLost, JobCancelled; then nothing is recorded.
    """
    images, base = fetch_version(task.segmentation_id, run)
    return _record(images, base, without(base, task.delete, task.rename), run)


def restore(task: RestoreTask, run: JobRun) -> str:
    """Record an earlier version's lesions as the newest version. Returns and raises as ``correct``."""
    images, newest = fetch_version(task.corrects, run)
    segmentations.check_images(run.connections.sessions, task.segmentation_id, images.source)
    restored = read_version(task.segmentation_id, images.stack, run.connections)
    return _record(images, restored, as_it_is(restored), run, since=newest)


def measure_drawing(task: MeasureTask, run: JobRun) -> str:
    """Measure a SEG or structure set as the next version. Returns and raises as ``correct``."""
    sessions, study_uid, lease = run.connections.sessions, run.job.study_instance_uid, run.lease
    segmentation_id = segmentations.of_seg(sessions, study_uid, task.sop_instance_uid)
    if segmentation_id is not None:
        # MetScope made this SEG and measured it then.
        recording.adopt(sessions, lease.job_id, lease.owner, segmentation_id)
        return segmentation_id
    if task.corrects is not None:
        segmentations.require_newest_version(sessions, task.corrects)
    with run.stages("fetch"):
        drawing, series_uid = fetch_edited(task.sop_instance_uid, run)
    corrected = task.corrects or segmentations.current_result(sessions, study_uid, series_uid)
    if corrected is None:
        images = fetch_images(study_uid, series_uid, run)
        labels, sources = lesions_of_segments(*read_drawn(drawing, images.stack))
        return _record(images, None, EditedLesions(labels, sources=sources), run)
    images, base = fetch_version(corrected, run)
    corrects = base.document.study_instance_uid, base.document.series_instance_uid
    if corrects != (study_uid, series_uid):
        raise SegmentationMismatch(
            "The edited segmentation belongs to another series than the one it corrects."
        )
    return _record(images, base, match_drawing(drawing, images.stack, base), run)


def _record(
    images: SourceSeries,
    base: RecordedVersion | None,
    edited: EditedLesions,
    run: JobRun,
    since: RecordedVersion | None = None,
) -> str:
    """Measure and encode the drawn lesions, and record them as the next version.

    base: the version whose lesions are edited or restored; None for lesions without one.
    since: the newest version when ``base``, an older one, is restored; None if ``base`` is the newest.
    """
    while True:
        # Another job for this patient may have taken the numbers in the meantime.
        with suppress(NumberingOutdated):
            return _record_numbered(images, base, edited, run, since)


def _record_numbered(
    images: SourceSeries,
    base: RecordedVersion | None,
    edited: EditedLesions,
    run: JobRun,
    since: RecordedVersion | None,
) -> str:
    """Record the next version with the numbers that are free now. Raises: NumberingOutdated."""
    stack, sessions, lease = images.stack, run.connections.sessions, run.lease
    model = base.document.model if base else segmentations.BY_HAND
    source = images.source
    numbering = next_numbering(sessions, source, model.id)
    with run.stages("measure"):
        lesions = measure_drawn(stack, base, edited, numbering.tracking_ids, run.connections)
        result = Findings(stack, edited.labels, lesions, edited.sources)
        newest, against = base, edited
        appeared: Change = "drawn"
        if since is not None and base is not None:
            newest, against, appeared = since, compare_versions(since, base), "restored"
        changes = list(_changes(newest, against, result.lesions, appeared))
    if newest is not None and not changes:
        recording.adopt(sessions, lease.job_id, lease.owner, newest.document.id, images.source)
        return str(newest.document.id)
    colours = _colours(base, edited, result.lesions)
    with run.stages("encode"):
        # A restored version starts a new series, as its lesions differ from those of the version before.
        edition = _edition(None if since else base, edited, numbering, run)
        seg_object, companions = _encode(result, base, edited, colours, edition, run)
    if base is None:
        key = idempotency_key([images.instances], images.source, model.id)
    else:
        # The earlier version may have been made of more series than the one drawn on.
        key = segmentations.key(sessions, base.document.id)
    segmentation = recording.NewSegmentation(
        source=source,
        model_id=model.id,
        model_version=model.version,
        model_sha256=model.sha256,
        reasons=base.document.reasons if base else [],
        warnings=list(dict.fromkeys([*(base.document.warnings if base else ()), *stack.warnings])),
        lesions=result.lesions,
        seg=seg_object,
        idempotency_key=key,
        timings_s=run.stages.timings_s,
        peak_memory_mb=None,
        software_version=VERSION,
        companions=companions,
        colours=colours,
        correction=recording.Correction(
            corrects=newest.document.id if newest else None,
            corrected_by=run.job.requested_by,
            changes=changes,
            restores=base.document.id if base and since else None,
        ),
        numbering=numbering,
    )
    return recording.record(sessions, segmentation, lease.job_id, lease.owner)


def _edition(
    base: RecordedVersion | None,
    edited: EditedLesions,
    numbering: Numbering,
    run: JobRun,
) -> Edition:
    """Return the new version and its series.

    The series of the previous version is continued if nothing was redrawn and the attributes that DICOM
    allows once per series (operator, software) are the same; otherwise a new one starts.
    """
    editor = run.job.requested_by
    edition = Edition(numbering.version, editor, corrected=True, result_index=numbering.result_index)
    if base is None or base.encoded is None or not base.document.changes:
        return edition
    is_redrawn = len(edited.unchanged) < len(np.unique(edited.labels.array[edited.labels.array > 0]))
    encoded = base.encoded
    if (
        is_redrawn
        or base.document.corrected_by != editor
        or encoded.SoftwareVersions != VERSION
        or not encoded.get("SeriesDate")
    ):
        return edition
    first = first_version(run.connections.sessions, encoded.SeriesInstanceUID)
    series = OpenSeries(first, result_index_of(encoded), encoded.SeriesDate, encoded.SeriesTime)
    return replace(edition, continued=series)


def spec_of(version: RecordedVersion | None, connections: Connections) -> ModelSpec:
    """Return the spec of the model that drew the version, or of the default one (by hand, not served)."""
    settings = connections.settings
    default = default_model(settings.models_dir, settings.model_path)
    if version is None:
        return default
    served = served_models(settings.models_dir, settings.model_path)
    return served.get(version.document.model.id, default)


def measure_drawn(
    stack: Stack,
    base: RecordedVersion | None,
    edited: EditedLesions,
    used_ids: Collection[str],
    connections: Connections,
) -> list[Lesion]:
    """Measure the drawn lesions; known ones keep their identities. used_ids: tracking identifiers in use."""
    numbers = [number for number in np.unique(edited.labels.array).tolist() if number]
    label = label_of_drawn(spec_of(base, connections))
    if base is None:
        identities = identities_of_segments(edited.sources, label, used_ids)
        return measure_lesions(
            edited.labels, stack.slices, None, connections.settings.measurable_ld_mm, identities
        )
    last = last_number(label, used_ids)
    identities = {}
    for number in numbers:
        if number in edited.same:
            lesion = base.lesion(edited.same[number])
            lesion_identity = Identity(lesion.name, lesion.tracking_id, lesion.tracking_uid)
        else:
            last += 1
            lesion_identity = identity(label, last)
        identities[number] = replace(lesion_identity, name=edited.names.get(number, lesion_identity.name))
    lesions = measure_lesions(
        edited.labels, stack.slices, None, connections.settings.measurable_ld_mm, identities
    )
    return [
        _with_model_values(lesion, base.lesion(edited.same[lesion.number]))
        if lesion.number in edited.unchanged
        else lesion
        for lesion in lesions
    ]


def _with_model_values(lesion: Lesion, answer: LesionAnswer) -> Lesion:
    """Return the lesion with its earlier mean probability and confidence.

    They remain valid because its voxels are unchanged.
    """
    return replace(lesion, mean_probability=answer.mean_probability, confidence=answer.confidence)


def _changes(
    base: RecordedVersion | None, edited: EditedLesions, lesions: Sequence[Lesion], appeared: Change
) -> Iterator[ChangeAnswer]:
    """Yield the changes to the lesions. appeared: the kind of change for new lesions."""
    for lesion in lesions:
        new = LesionAnswer.of(lesion)
        if base is None or lesion.number not in edited.same:
            yield _change(appeared, new.tracking_uid, None, new)
            continue
        old = base.lesion(edited.same[lesion.number])
        if new.name != old.name:
            yield _change("renamed", new.tracking_uid, old, new)
        if lesion.number not in edited.unchanged:
            yield _change("redrawn", new.tracking_uid, old, new)
    for old in base.document.lesions if base else ():
        if old.number not in edited.same.values():
            yield _change("deleted", old.tracking_uid, old, None)


def _change(
    change: Change, tracking_uid: str, old: LesionAnswer | None, new: LesionAnswer | None
) -> ChangeAnswer:
    return ChangeAnswer(
        change=change,
        tracking_uid=tracking_uid,
        name=new.name if new else None,
        volume_ml=new.volume_ml if new else None,
        previous_name=old.name if old else None,
        previous_volume_ml=old.volume_ml if old else None,
    )


def _colours(
    base: RecordedVersion | None, edited: EditedLesions, lesions: Sequence[Lesion]
) -> dict[int, str]:
    """Return the colours by lesion number: the earlier ones, and for new lesions the first free ones."""
    colours = {number: base.colours[old] for number, old in edited.same.items()} if base else {}
    free = iter([colour for colour in seg.PALETTE if colour not in colours.values()])
    for lesion in lesions:
        if lesion.number not in colours:
            colours[lesion.number] = next(free, seg.colour(lesion.number).hex)
    return colours


def _encode(
    result: Findings,
    base: RecordedVersion | None,
    edited: EditedLesions,
    colours: Mapping[int, str],
    edition: Edition,
    run: JobRun,
) -> tuple[NewObject | None, list[NewObject]]:
    """Encode the SEG (None without lesions) and the companions that are stored with it."""
    spec = spec_of(base, run.connections)
    edition = replace(edition, subject=subject_of(spec))
    encoded = _encode_seg(result, base, edited, colours, edition, spec) if result.lesions else None
    companions = []
    if has_report(encoded, run.connections.settings):
        previous = base.companion("SR") if base else None
        companions.append(report_of(result, encoded, spec, edition, previous))
    if encoded is not None and base and (previous := base.companion("RTSTRUCT")) is not None:
        companions.append(structure_set_of(result, encoded, edition, previous))
    source = result.stack.headers[0]
    seg_object = publish(encoded, source) if encoded is not None else None
    return seg_object, [publish(companion, source) for companion in companions]


def _encode_seg(
    result: Findings,
    base: RecordedVersion | None,
    edited: EditedLesions,
    colours: Mapping[int, str],
    edition: Edition,
    spec: ModelSpec,
) -> Dataset:
    segments = [_segment(lesion, base, edited, label_of_drawn(spec)) for lesion in result.lesions]
    coloured = [replace(segment, colour=colours[segment.number]) for segment in segments]
    return seg.write(result.stack, result.lesion_map, coloured, edition, base.encoded if base else None)


def _segment(
    lesion: Lesion, base: RecordedVersion | None, edited: EditedLesions, label: Label
) -> seg.Segment:
    """Return the lesion's segment, with the earlier description if it has one.

    An automatic segment that was redrawn becomes SEMIAUTOMATIC. label: category and type of a new lesion.
    """
    source = edited.sources.get(lesion.number)
    described = source.described if source else None
    if base is not None and lesion.number in edited.same:
        described = deepcopy(base.sources[edited.same[lesion.number]].described)
        automatic = described is not None and described.get("SegmentAlgorithmType") == "AUTOMATIC"
        if described is not None and automatic and lesion.number not in edited.unchanged:
            described.SegmentAlgorithmType = "SEMIAUTOMATIC"
    return seg.Segment(
        number=lesion.number,
        name=lesion.name,
        tracking_id=lesion.tracking_id,
        tracking_uid=lesion.tracking_uid,
        category=to_code(label.category),
        type=to_code(label.type),
        described=described,
    )
