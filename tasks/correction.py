"""Corrections of a segmentation: lesions renamed, deleted, redrawn or restored.

A correction is measured like a new segmentation and recorded as the next version; the previous version is
kept. Lesions keep their names, tracking identifiers and colours.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom import Dataset

from context import Connections, JobRun
from db import recording, segmentations
from db.numbering import Numbering, NumberingOutdated, first_version, next_numbering
from db.recording import NewObject
from db.tasks import CorrectTask, MeasureTask, RestoreTask
from errors import SegmentationMismatch
from findings import (
    Findings,
    code_of,
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
)
from imaging import seg
from imaging.derived import Edition, OpenSeries, place_of
from imaging.stack import Stack
from lesions.measure import Identity, Lesion
from lesions.measure import measure as measure_lesions
from segmentation import idempotency_key
from tasks.edits import Drawn, as_it_is, compared, redrawn, without
from tasks.versions import Earlier, Images, fetch_drawn, fetch_earlier, fetch_images, read_version
from unetr.served import default_model, served_models
from unetr.spec import Label, ModelSpec
from version import VERSION

# A model's values for a lesion; cleared when a person changes its voxels.
OF_THE_MODEL = ("mean_probability", "confidence")


def correct(task: CorrectTask, run: JobRun) -> str:
    """Rename and delete lesions; return the id of the new version, or of the old one if nothing changed.

    Raises: InputRefused, ArchiveError, InstanceNotFound, SegmentationNotFound, SegmentationSuperseded,
    LeaseLost, JobCancelled; then nothing is recorded.
    """
    images, earlier = fetch_earlier(task.segmentation_id, run)
    return _record(images, earlier, without(earlier, task.delete, task.rename), run)


def restore(task: RestoreTask, run: JobRun) -> str:
    """Record an earlier version's lesions as the newest version. Returns and raises as ``correct``."""
    images, newest = fetch_earlier(task.corrects, run)
    segmentations.check_images(run.connections.sessions, task.segmentation_id, images.source)
    restored = read_version(task.segmentation_id, images.stack, run.connections)
    return _record(images, restored, as_it_is(restored), run, since=newest)


def measure(task: MeasureTask, run: JobRun) -> str:
    """Measure a SEG or structure set as the next version. Returns and raises as ``correct``."""
    sessions, study_uid, lease = run.connections.sessions, run.job.study_instance_uid, run.lease
    known = segmentations.of_seg(sessions, study_uid, task.sop_instance_uid)
    if known is not None:
        # MetScope made this SEG and measured it then.
        recording.adopt(sessions, lease.job_id, lease.owner, known)
        return known
    if task.corrects is not None:
        segmentations.refuse_superseded(sessions, task.corrects)
    with run.stages("fetch"):
        given, series_uid = fetch_drawn(task.sop_instance_uid, run)
    corrected = task.corrects or segmentations.newest(sessions, study_uid, series_uid)
    if corrected is None:
        images = fetch_images(study_uid, series_uid, run)
        labels, sources = lesions_of_segments(*read_drawn(given, images.stack))
        return _record(images, None, Drawn(labels, sources=sources), run)
    images, earlier = fetch_earlier(corrected, run)
    corrects = earlier.document["study_instance_uid"], earlier.document["series_instance_uid"]
    if corrects != (study_uid, series_uid):
        raise SegmentationMismatch(
            "The edited segmentation belongs to another series than the one it corrects."
        )
    return _record(images, earlier, redrawn(given, images.stack, earlier), run)


def _record(
    images: Images,
    earlier: Earlier | None,
    drawn: Drawn,
    run: JobRun,
    since: Earlier | None = None,
) -> str:
    """Measure and encode the drawn lesions, and record them as the next version.

    since: the newest version when an older one (``earlier``) is restored; None if ``earlier`` is the newest.
    """
    while True:
        # Another job for this patient may have taken the numbers in the meantime.
        with suppress(NumberingOutdated):
            return _record_numbered(images, earlier, drawn, run, since)


def _record_numbered(
    images: Images,
    earlier: Earlier | None,
    drawn: Drawn,
    run: JobRun,
    since: Earlier | None,
) -> str:
    """Record the next version with the numbers that are free now. Raises: NumberingOutdated."""
    stack, sessions, lease = images.stack, run.connections.sessions, run.lease
    model = earlier.document["model"] if earlier else segmentations.BY_HAND
    source = images.source
    numbering = next_numbering(sessions, source, model["id"])
    with run.stages("measure"):
        lesions = measure_drawn(stack, earlier, drawn, numbering.tracking_ids, run.connections)
        result = Findings(stack, drawn.labels, lesions, drawn.sources)
        newest, against, appeared = earlier, drawn, "drawn"
        if since is not None and earlier is not None:
            newest, against, appeared = since, compared(since, earlier), "restored"
        changes = list(_changes(newest, against, result.lesions, appeared))
    if newest is not None and not changes:
        recording.adopt(sessions, lease.job_id, lease.owner, newest.document["id"], images.source)
        return str(newest.document["id"])
    colours = _colours(earlier, drawn, result.lesions)
    with run.stages("encode"):
        # A restored version starts a new series, as its lesions differ from those of the version before.
        edition = _edition(None if since else earlier, drawn, numbering, run)
        seg_object, companions = _encode(result, earlier, drawn, colours, edition, run)
    if earlier is None:
        key = idempotency_key([images.instances], images.source, model["id"])
    else:
        # The earlier version may have been made of more series than the one drawn on.
        key = segmentations.key(sessions, earlier.document["id"])
    new = recording.NewSegmentation(
        source=source,
        model_id=model["id"],
        model_version=model["version"],
        model_sha256=model["sha256"],
        reasons=earlier.document["reasons"] if earlier else [],
        warnings=list(dict.fromkeys([*(earlier.document["warnings"] if earlier else ()), *stack.warnings])),
        lesions=result.lesions,
        seg=seg_object,
        idempotency_key=key,
        timings_s=run.stages.timings_s,
        peak_memory_mb=None,
        software_version=VERSION,
        companions=companions,
        colours=colours,
        correction=recording.Correction(
            corrects=newest.document["id"] if newest else None,
            corrected_by=run.job.requested_by,
            changes=changes,
            restores=earlier.document["id"] if earlier and since else None,
        ),
        numbering=numbering,
    )
    return recording.record(sessions, new, lease.job_id, lease.owner)


def _edition(
    earlier: Earlier | None,
    drawn: Drawn,
    numbering: Numbering,
    run: JobRun,
) -> Edition:
    """Return the new version and its series.

    The series of the previous version is continued if nothing was redrawn and the attributes that DICOM
    allows once per series (operator, software) are the same; otherwise a new one starts.
    """
    editor = run.job.requested_by
    edition = Edition(numbering.version, editor, corrected=True, place=numbering.place)
    if earlier is None or earlier.encoded is None or not earlier.document["changes"]:
        return edition
    redrawn = len(drawn.unchanged) < len(np.unique(drawn.labels.array[drawn.labels.array > 0]))
    encoded = earlier.encoded
    if (
        redrawn
        or earlier.document["corrected_by"] != editor
        or encoded.SoftwareVersions != VERSION
        or not encoded.get("SeriesDate")
    ):
        return edition
    first = first_version(run.connections.sessions, encoded.SeriesInstanceUID)
    series = OpenSeries(first, place_of(encoded), encoded.SeriesDate, encoded.SeriesTime)
    return replace(edition, continued=series)


def spec_of(earlier: Earlier | None, connections: Connections) -> ModelSpec:
    """Return the spec of the model that drew the version, or of the default one (by hand, not served)."""
    settings = connections.settings
    default = default_model(settings.models_dir, settings.model_path)
    if earlier is None:
        return default
    served = served_models(settings.models_dir, settings.model_path)
    return served.get(earlier.document["model"]["id"], default)


def measure_drawn(
    stack: Stack,
    earlier: Earlier | None,
    drawn: Drawn,
    used: Collection[str],
    connections: Connections,
) -> list[Lesion]:
    """Measure the drawn lesions; known ones keep their identities. used: tracking identifiers in use."""
    numbers = [number for number in np.unique(drawn.labels.array).tolist() if number]
    label = label_of_drawn(spec_of(earlier, connections))
    if earlier is None:
        identities = identities_of_segments(drawn.sources, label, used)
        return measure_lesions(
            drawn.labels, stack.slices, None, connections.settings.measurable_ld_mm, identities
        )
    last = last_number(label, used)
    identities = {}
    for number in numbers:
        if number in drawn.same:
            lesion = earlier.lesion(drawn.same[number])
            known = Identity(lesion["name"], lesion["tracking_id"], lesion["tracking_uid"])
        else:
            last += 1
            known = identity(label, last)
        identities[number] = replace(known, name=drawn.names.get(number, known.name))
    lesions = measure_lesions(
        drawn.labels, stack.slices, None, connections.settings.measurable_ld_mm, identities
    )
    return [
        replace(lesion, **{name: earlier.lesion(drawn.same[lesion.number])[name] for name in OF_THE_MODEL})
        if lesion.number in drawn.unchanged
        else lesion
        for lesion in lesions
    ]


def _changes(
    earlier: Earlier | None, drawn: Drawn, lesions: Sequence[Lesion], appeared: str
) -> Iterator[dict[str, Any]]:
    """Yield the changes to the lesions (docs/api.md). appeared: the kind of change for new lesions."""
    for lesion in lesions:
        new = lesion.to_dict()
        if earlier is None or lesion.number not in drawn.same:
            yield _change(appeared, None, new)
            continue
        old = earlier.lesion(drawn.same[lesion.number])
        if new["name"] != old["name"]:
            yield _change("renamed", old, new)
        if lesion.number not in drawn.unchanged:
            yield _change("redrawn", old, new)
    for old in earlier.document["lesions"] if earlier else ():
        if old["number"] not in drawn.same.values():
            yield _change("deleted", old, None)


def _change(what: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "change": what,
        "tracking_uid": (new or old or {})["tracking_uid"],
        "name": new and new["name"],
        "volume_ml": new and new["volume_ml"],
        "previous_name": old and old["name"],
        "previous_volume_ml": old and old["volume_ml"],
    }


def _colours(earlier: Earlier | None, drawn: Drawn, lesions: Sequence[Lesion]) -> dict[int, str]:
    """Return the colours by lesion number: the earlier ones, and for new lesions the first free ones."""
    colours = {number: earlier.colours[old] for number, old in drawn.same.items()} if earlier else {}
    free = iter([one for one in seg.PALETTE if one not in colours.values()])
    for lesion in lesions:
        if lesion.number not in colours:
            colours[lesion.number] = next(free, seg.colour(lesion.number).hex)
    return colours


def _encode(
    result: Findings,
    earlier: Earlier | None,
    drawn: Drawn,
    colours: Mapping[int, str],
    edition: Edition,
    run: JobRun,
) -> tuple[NewObject | None, list[NewObject]]:
    """Encode the SEG (None without lesions) and the companions that are stored with it."""
    spec = spec_of(earlier, run.connections)
    edition = replace(edition, subject=subject_of(spec))
    encoded = _encode_seg(result, earlier, drawn, colours, edition, spec) if result.lesions else None
    beside = []
    if has_report(encoded, run.connections.settings):
        previous = earlier.companion("SR") if earlier else None
        beside.append(report_of(result, encoded, spec, edition, previous))
    if encoded is not None and earlier and (previous := earlier.companion("RTSTRUCT")) is not None:
        beside.append(structure_set_of(result, encoded, edition, previous))
    source = result.stack.headers[0]
    seg_object = publish(encoded, source) if encoded is not None else None
    return seg_object, [publish(one, source) for one in beside]


def _encode_seg(
    result: Findings,
    earlier: Earlier | None,
    drawn: Drawn,
    colours: Mapping[int, str],
    edition: Edition,
    spec: ModelSpec,
) -> Dataset:
    segments = [_segment(lesion, earlier, drawn, label_of_drawn(spec)) for lesion in result.lesions]
    previous = earlier.encoded if earlier else None
    coloured = [replace(one, colour=colours[one.number]) for one in segments]
    return seg.write(result.stack, result.labels, coloured, edition, previous)


def _segment(lesion: Lesion, earlier: Earlier | None, drawn: Drawn, label: Label) -> seg.Segment:
    """Return the lesion's segment, with the earlier description if it has one.

    An automatic segment that was redrawn becomes SEMIAUTOMATIC. label: category and type of a new lesion.
    """
    source = drawn.sources.get(lesion.number)
    described = source.described if source else None
    if earlier is not None and lesion.number in drawn.same:
        described = deepcopy(earlier.sources[drawn.same[lesion.number]].described)
        automatic = described is not None and described.get("SegmentAlgorithmType") == "AUTOMATIC"
        if described is not None and automatic and lesion.number not in drawn.unchanged:
            described.SegmentAlgorithmType = "SEMIAUTOMATIC"
    return seg.Segment(
        number=lesion.number,
        name=lesion.name,
        tracking_id=lesion.tracking_id,
        tracking_uid=lesion.tracking_uid,
        category=code_of(label.category),
        type=code_of(label.type),
        described=described,
    )
