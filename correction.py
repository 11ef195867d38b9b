"""What a person makes of a segmentation: lesions renamed, deleted or redrawn, a structure set of them.

Each is a job like a segmentation. A correction is measured as if it were new and recorded as the next
version; the one before stays as it is. Lesions keep name, tracking identifiers and colour.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, RTStructureSetStorage

from db import audit, jobs, measurements, outbox
from db.database import writing
from db.numbering import (
    Numbering,
    NumberingOutdated,
    first_version,
    next_numbering,
    place_of_result,
)
from db.tables import ACTIVE_STATES, Job
from errors import (
    DeletionUnavailable,
    InstanceNotFound,
    LesionNotFound,
    MetScopeError,
    SegmentationMismatch,
)
from imaging import rtstruct, seg
from imaging.derived import Edition, OpenSeries, place_of
from imaging.frames import text
from imaging.identity import check_derived
from imaging.labelled import is_seg, labelled_series
from imaging.stack import Stack, to_stack
from lesions.matching import match_by_overlap
from lesions.measure import Identity, Lesion, measure
from orthanc import part10
from results import (
    LONGEST_NAME,
    UNNAMED,
    Result,
    code_of,
    identities_of_segments,
    identity,
    label_of_drawn,
    last_number,
    lesions_of_segments,
    read_drawn,
    report_of,
    subject_of,
)
from segmentation import (
    JobLease,
    Report,
    Rooms,
    Stages,
    companion,
    idempotency_key,
    reports,
    source_of_fetched,
)
from unetr.spec import Label, ModelSpec, default_model, served_models
from version import VERSION

logger = logging.getLogger("metscope.correction")

# Content Label of what MetScope's panel in the viewer saves in the archive only for it to be measured.
DRAWING = "METSCOPE_DRAWING"
RECENT_JOBS = 500
# What a model says of a lesion, and of no other voxels than those it drew.
OF_THE_MODEL = ("mean_probability", "confidence")


@dataclass(frozen=True)
class Images:
    """A series as it came from the archive: whose it is, and its stack."""

    instances: Sequence[Dataset]
    source: measurements.Source
    stack: Stack


@dataclass(frozen=True)
class Earlier:
    """What is corrected. document: as recorded. encoded: its SEG, None without lesions. labels: lesion
    numbers on the stack's grid.

    sources: the SEG's segments by lesion number. colours: #rrggbb by lesion number.
    """

    document: Mapping[str, Any]
    encoded: Dataset | None
    labels: hd.Volume
    sources: Mapping[int, seg.Segment]
    colours: Mapping[int, str]

    def lesion(self, number: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(one for one in self.document["lesions"] if one["number"] == number)
        return found

    def companion(self, modality: str) -> Dataset | None:
        """Return the UIDs of its companion of that modality, SR or RTSTRUCT."""
        uids = next((one for one in self.document["companions"] if one["modality"] == modality), None)
        if uids is None:
            return None
        in_space = any(lesion["slice"]["index"] is None for lesion in self.document["lesions"])
        report_class = Comprehensive3DSRStorage if in_space else ComprehensiveSRStorage
        companion = Dataset()
        companion.SOPClassUID = report_class if modality == "SR" else RTStructureSetStorage
        companion.SOPInstanceUID = uids["sop_instance_uid"]
        companion.SeriesInstanceUID = uids["series_instance_uid"]
        companion.StudyInstanceUID = self.document["study_instance_uid"]
        return companion


@dataclass(frozen=True)
class Drawn:
    """Lesions 1..n on the stack's grid. same: by number, the earlier lesions that they are.

    sources: the segments that they were drawn in, of a SEG that somebody else made. names: those given anew.
    unchanged: those with the very voxels that they had.
    """

    labels: hd.Volume
    same: Mapping[int, int] = field(default_factory=dict)
    sources: Mapping[int, seg.Segment] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    unchanged: Collection[int] = ()


@dataclass(frozen=True)
class Run:
    """One job in work. stages: reports how far it is; that may raise JobCancelled."""

    job: Job
    rooms: Rooms
    lease: JobLease
    stages: Stages


def perform(job: Job, rooms: Rooms, report: Report, lease: JobLease) -> str:
    """Do what the job's task says and record it; the id of the segmentation that it ends in.

    That of the segmentation as it was, where nothing has changed. Tasks: {"correct": segmentation id,
    "rename": {lesion number: name}, "delete": [lesion numbers]}; {"measure": SOP Instance UID of a SEG in
    the archive, "corrects": segmentation id or None}; {"restore": id of an earlier version, "corrects":
    id of the newest}; {"rtstruct": segmentation id}.
    ``report(stage, fraction)`` may raise JobCancelled. Raises: InputRefused, ArchiveError, InstanceNotFound,
    SegmentationNotFound, SegmentationSuperseded, LeaseLost; nothing is recorded then.
    """
    run, task = Run(job, rooms, lease, Stages(report)), job.task or {}
    if "rtstruct" in task:
        return _add_structure_set(task["rtstruct"], run)
    if "correct" in task:
        images, earlier = _earlier(task["correct"], run)
        names = {int(number): name for number, name in task["rename"].items()}
        return _record(images, earlier, _without(earlier, task["delete"], names), run)
    if "restore" in task:
        images, newest = _earlier(task["corrects"], run)
        measurements.check_images(rooms.sessions, task["restore"], images.source)
        restored = _version(task["restore"], images.stack, run.rooms)
        return _record(images, restored, _as_it_is(restored), run, since=newest)
    known = measurements.of_seg(rooms.sessions, job.study_instance_uid, task["measure"])
    if known is not None:
        # It was measured when it was made.
        measurements.adopt(rooms.sessions, lease.job_id, lease.owner, known)
        return known
    if task["corrects"] is not None:
        measurements.refuse_superseded(rooms.sessions, task["corrects"])
    with run.stages("fetch"):
        given, series_uid = _given(task["measure"], run)
    corrected = task["corrects"] or measurements.newest(rooms.sessions, job.study_instance_uid, series_uid)
    if corrected is None:
        images = _images(job.study_instance_uid, series_uid, run)
        labels, sources = lesions_of_segments(*read_drawn(given, images.stack))
        return _record(images, None, Drawn(labels, sources=sources), run)
    images, earlier = _earlier(corrected, run)
    corrects = earlier.document["study_instance_uid"], earlier.document["series_instance_uid"]
    if corrects != (job.study_instance_uid, series_uid):
        raise SegmentationMismatch("The segmentation is of another series than what it is to correct.")
    return _record(images, earlier, _redrawn(given, images.stack, earlier), run)


def discard_drawing(job: Job, rooms: Rooms, after_success: bool) -> None:
    """Delete in the archive what the panel in the viewer saved for the job.

    After a success, which holds all that was drawn, what the same person drew on the same series for earlier
    jobs that failed goes too. It stays in an archive that MetScope may not delete in,
    that is away, or that has the study no more as it was.
    """
    uid = (job.task or {}).get("measure")
    if uid is None:
        return
    try:
        drawings = _drawings(job.study_instance_uid, rooms)
        if uid not in drawings:
            return
        done = {uid}
        if after_success:
            done |= {
                (other.task or {}).get("measure")
                for other in jobs.list_jobs(rooms.sessions, RECENT_JOBS, None, job.study_instance_uid)
                if other.state not in ACTIVE_STATES and other.requested_by == job.requested_by
            }
        for drawing, series_uid in drawings.items():
            if drawing in done and series_uid == drawings[uid]:
                rooms.archive.delete_instance(job.study_instance_uid, drawing)
                with writing(rooms.sessions) as session:
                    audit.note(session, job.requested_by, "drawing.delete", drawing)
    except DeletionUnavailable:
        pass
    except MetScopeError as error:
        logger.warning("job %s: what was drawn stays in the archive: %s", job.id, error.code)


def _drawings(study_uid: str, rooms: Rooms) -> dict[str, str | None]:
    """Return what the panel has saved in a study: by SOP Instance UID the series that it was drawn on."""
    study = rooms.archive.series_headers(study_uid)
    return {
        str(header.SOPInstanceUID): labelled_series(header, study)
        for series in study
        for header in series
        if is_seg(header) and header.get("ContentLabel") == DRAWING
    }


def _images(study_uid: str, series_uid: str, run: Run) -> Images:
    with run.stages("fetch"):
        instances = run.rooms.archive.retrieve_series(study_uid, series_uid)
        source = source_of_fetched([instances], run.rooms)
    with run.stages("read"):
        return Images(instances, source, to_stack(instances))


def _earlier(segmentation_id: str, run: Run) -> tuple[Images, Earlier]:
    """Return a recorded segmentation and the images that it was made of.

    Raises: SegmentationNotFound, SegmentationMismatch where they have been replaced since.
    """
    document = measurements.document(run.rooms.sessions, segmentation_id)
    images = _images(document["study_instance_uid"], document["series_instance_uid"], run)
    measurements.check_images(run.rooms.sessions, segmentation_id, images.source)
    return images, _version(segmentation_id, images.stack, run.rooms)


def _version(segmentation_id: str, stack: Stack, rooms: Rooms) -> Earlier:
    """A recorded segmentation of the stack. Raises: SegmentationNotFound, InstanceNotFound."""
    document = measurements.document(rooms.sessions, segmentation_id)
    segments: Sequence[seg.Segment] = ()
    encoded = None
    labels = stack.volume.with_array(np.zeros(stack.volume.spatial_shape, np.int32))
    if document["lesions"]:
        encoded = _recorded_seg(document, rooms)
        labels, segments = seg.read(encoded, stack)
    sources = {segment.number: segment for segment in segments}
    colours = measurements.colours(rooms.sessions, segmentation_id)
    return Earlier(document, encoded, labels, sources, colours)


def _recorded_seg(document: Mapping[str, Any], rooms: Rooms) -> Dataset:
    recorded = document["segmentation"]
    if encoded := outbox.pending(rooms.sessions, document["id"]).get(recorded["sop_instance_uid"]):
        return part10.read(encoded)
    study_uid, series_uid = document["study_instance_uid"], recorded["series_instance_uid"]
    return _instance(study_uid, series_uid, recorded["sop_instance_uid"], rooms)


def _instance(study_uid: str, series_uid: str, uid: str, rooms: Rooms) -> Dataset:
    for instance in rooms.archive.retrieve_series(study_uid, series_uid):
        if instance.SOPInstanceUID == uid:
            return instance
    raise InstanceNotFound(f"Series {series_uid} has no object {uid} in the archive.")


def _given(uid: str, run: Run) -> tuple[Dataset, str]:
    """Return a SEG or structure set of the archive, and of which series of its study it is.

    Raises: InstanceNotFound, InputRefused.
    """
    study_uid = run.job.study_instance_uid
    study = run.rooms.archive.series_headers(study_uid)
    headers = [header for series in study for header in series]
    found = next((header for header in headers if text(header, "SOPInstanceUID") == uid), None)
    if found is None:
        raise InstanceNotFound(f"Study {study_uid} has no object {uid} in the archive.")
    given = _instance(study_uid, text(found, "SeriesInstanceUID"), uid, run.rooms)
    series_uid = labelled_series(given, study)
    if series_uid is None:
        raise SegmentationMismatch(f"Object {uid} does not say which series of the study it is of.")
    if not any(text(header, "SeriesInstanceUID") == series_uid for header in headers):
        raise SegmentationMismatch(f"Object {uid} is of series {series_uid}, which its study does not have.")
    return given, series_uid


def _without(earlier: Earlier, deleted: Sequence[int], names: Mapping[int, str]) -> Drawn:
    """The earlier lesions but for those deleted, some of them with other names."""
    kept = [number for number in sorted(earlier.sources) if number not in deleted]
    renumbered = np.zeros(max(earlier.sources, default=0) + 1, np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    same = dict(enumerate(kept, start=1))
    given = {number: names[old] for number, old in same.items() if old in names}
    labels = earlier.labels.with_array(renumbered[earlier.labels.array])
    return Drawn(labels, same, names=given, unchanged=same)


def _as_it_is(version: Earlier) -> Drawn:
    """Return the lesions of a version, unchanged."""
    same = {number: number for number in version.sources}
    return Drawn(version.labels, same, unchanged=same)


def _compared(newest: Earlier, restored: Earlier) -> Drawn:
    """Return the lesions of an earlier version as a change of the newest, by tracking UID."""
    numbers = {lesion["tracking_uid"]: lesion["number"] for lesion in newest.document["lesions"]}
    same = {
        lesion["number"]: numbers[lesion["tracking_uid"]]
        for lesion in restored.document["lesions"]
        if lesion["tracking_uid"] in numbers
    }
    return Drawn(restored.labels, same, unchanged=_unchanged(newest, restored.labels, same))


def _redrawn(given: Dataset, stack: Stack, earlier: Earlier) -> Drawn:
    """What a SEG shows that was drawn by hand in a viewer, each lesion found again by its voxels."""
    drawn, segments = read_drawn(given, stack)
    labels, same = match_by_overlap(earlier.labels, drawn)
    names = _names(labels, drawn, segments)
    # A new lesion in the segment of an earlier one is not that one.
    taken = {one["name"]: one["number"] for one in earlier.document["lesions"]}
    names = {
        number: name
        for number, name in names.items()
        if same.get(number) == taken.get(name, same.get(number))
    }
    return Drawn(labels, same, names=names, unchanged=_unchanged(earlier, labels, same))


def _unchanged(earlier: Earlier, labels: hd.Volume, same: Mapping[int, int]) -> set[int]:
    """Numbers of the lesions that have the very voxels that they had."""
    before, now = earlier.labels.array, labels.array
    drawn = (before > 0) | (now > 0)
    pairs = np.unique(np.stack([now[drawn], before[drawn]]), axis=1).T.tolist()
    alone = Counter(new for new, _ in pairs), Counter(old for _, old in pairs)
    return {new for new, old in pairs if same.get(new) == old and alone[0][new] == alone[1][old] == 1}


def _names(labels: hd.Volume, drawn: hd.Volume, segments: Sequence[seg.Segment]) -> dict[int, str]:
    """By lesion number, the labels of the segments that hold one lesion each."""
    labelled = {segment.number: segment.name for segment in segments}
    lesions, first = np.unique(labels.array, return_index=True)
    segment_of = dict(zip(lesions.tolist(), drawn.array.flat[first].tolist(), strict=True))
    counts = Counter(segment_of.values())
    return {
        lesion: labelled[segment].strip()[:LONGEST_NAME]
        for lesion, segment in segment_of.items()
        # A label that several lesions share names none of them.
        if lesion and counts[segment] == 1 and not UNNAMED.fullmatch(labelled[segment])
    }


def _record(
    images: Images, earlier: Earlier | None, drawn: Drawn, run: Run, since: Earlier | None = None
) -> str:
    """Measure and encode what was drawn, and write it down as the next version.

    since: the newest version, where an older one (``earlier``) is restored; None: ``earlier`` is the newest.
    """
    while True:
        # Another job of this patient may take the numbers meanwhile.
        with suppress(NumberingOutdated):
            return _record_numbered(images, earlier, drawn, run, since)


def _record_numbered(
    images: Images, earlier: Earlier | None, drawn: Drawn, run: Run, since: Earlier | None
) -> str:
    """Raises: NumberingOutdated."""
    stack, sessions, lease = images.stack, run.rooms.sessions, run.lease
    model = earlier.document["model"] if earlier else measurements.BY_HAND
    source = images.source
    numbering = next_numbering(sessions, source, model["id"])
    with run.stages("measure"):
        lesions = _measure(stack, earlier, drawn, numbering.tracking_ids, run.rooms)
        result = Result(stack, drawn.labels, lesions, drawn.sources)
        newest, against, appeared = earlier, drawn, "drawn"
        if since is not None and earlier is not None:
            newest, against, appeared = since, _compared(since, earlier), "restored"
        changes = list(_changes(newest, against, result.lesions, appeared))
    if newest is not None and not changes:
        measurements.adopt(sessions, lease.job_id, lease.owner, newest.document["id"], images.source)
        return str(newest.document["id"])
    colours = _colours(earlier, drawn, result.lesions)
    with run.stages("encode"):
        # What is restored begins a series: it is not drawn as the version before it is.
        edition = _edition(None if since else earlier, drawn, numbering, run)
        encoded, companions = _encode(result, earlier, drawn, colours, edition, run)
    if earlier is None:
        key = idempotency_key([images.instances], images.source, model["id"])
    else:
        # Its images may be more than the series that is drawn on.
        key = measurements.key(sessions, earlier.document["id"])
    new = measurements.NewSegmentation(
        source=source,
        model_id=model["id"],
        model_version=model["version"],
        model_sha256=model["sha256"],
        reasons=earlier.document["reasons"] if earlier else [],
        warnings=list(dict.fromkeys([*(earlier.document["warnings"] if earlier else ()), *stack.warnings])),
        lesions=result.lesions,
        seg_sop_instance_uid=encoded.SOPInstanceUID if encoded is not None else None,
        seg_series_instance_uid=encoded.SeriesInstanceUID if encoded is not None else None,
        encoded=part10.encode(encoded) if encoded is not None else None,
        idempotency_key=key,
        timings_s=run.stages.timings_s,
        peak_memory_mb=None,
        software_version=VERSION,
        companions=companions,
        colours=colours,
        correction=measurements.Correction(
            corrects=newest.document["id"] if newest else None,
            corrected_by=run.job.requested_by,
            changes=changes,
            restores=earlier.document["id"] if earlier and since else None,
        ),
        numbering=numbering,
    )
    return measurements.record(sessions, new, lease.job_id, lease.owner)


def _edition(earlier: Earlier | None, drawn: Drawn, numbering: Numbering, run: Run) -> Edition:
    """Return the version and its series: that of the version before, where nothing is drawn and all that
    DICOM lets a series have once is the same (the person, the software); else a new one.
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
    first = first_version(run.rooms.sessions, encoded.SeriesInstanceUID)
    series = OpenSeries(first, place_of(encoded), encoded.SeriesDate, encoded.SeriesTime)
    return replace(edition, continued=series)


def _spec_of(earlier: Earlier | None, rooms: Rooms) -> ModelSpec:
    """Return that of the model that drew what is corrected, else (by hand, not served) of the default one."""
    settings = rooms.settings
    default = default_model(settings.models_dir, settings.model_path)
    if earlier is None:
        return default
    served = served_models(settings.models_dir, settings.model_path)
    return served.get(earlier.document["model"]["id"], default)


def _measure(
    stack: Stack, earlier: Earlier | None, drawn: Drawn, used: Collection[str], rooms: Rooms
) -> list[Lesion]:
    """Lesions under the identities that they had, the others under new ones. used: tracking identifiers."""
    numbers = [number for number in np.unique(drawn.labels.array).tolist() if number]
    label = label_of_drawn(_spec_of(earlier, rooms))
    if earlier is None:
        identities = identities_of_segments(drawn.sources, label, used)
        return measure(drawn.labels, stack.slices, None, rooms.settings.measurable_ld_mm, identities)
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
    lesions = measure(drawn.labels, stack.slices, None, rooms.settings.measurable_ld_mm, identities)
    return [
        replace(lesion, **{name: earlier.lesion(drawn.same[lesion.number])[name] for name in OF_THE_MODEL})
        if lesion.number in drawn.unchanged
        else lesion
        for lesion in lesions
    ]


def _changes(
    earlier: Earlier | None, drawn: Drawn, lesions: Sequence[Lesion], appeared: str
) -> Iterator[dict[str, Any]]:
    """Yield what became of the lesions (docs/api.md). appeared: the change of those that are new."""
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
    """Those that the lesions had; for the others the first that no lesion has."""
    colours = {number: earlier.colours[old] for number, old in drawn.same.items()} if earlier else {}
    free = iter([one for one in seg.PALETTE if one not in colours.values()])
    for lesion in lesions:
        if lesion.number not in colours:
            colours[lesion.number] = next(free, seg.colour(lesion.number).hex)
    return colours


def _encode(
    result: Result,
    earlier: Earlier | None,
    drawn: Drawn,
    colours: Mapping[int, str],
    edition: Edition,
    run: Run,
) -> tuple[Dataset | None, list[measurements.NewCompanion]]:
    """The SEG, None without lesions, and what is stored beside it."""
    spec = _spec_of(earlier, run.rooms)
    source = result.stack.headers[0]
    encoded = _encode_seg(result, earlier, drawn, colours, edition, spec) if result.lesions else None
    if encoded is not None:
        check_derived(encoded, source)
    companions = []
    if reports(encoded, run.rooms.settings):
        previous = earlier.companion("SR") if earlier else None
        companions.append(companion(report_of(result, encoded, spec, None, edition, previous), source))
    if encoded is not None and earlier and (previous := earlier.companion("RTSTRUCT")) is not None:
        companions.append(
            companion(_structure_set(result, encoded, None, subject_of(spec), edition, previous), source)
        )
    return encoded, companions


def _encode_seg(
    result: Result,
    earlier: Earlier | None,
    drawn: Drawn,
    colours: Mapping[int, str],
    edition: Edition,
    spec: ModelSpec,
) -> Dataset:
    segments = [_segment(lesion, earlier, drawn, label_of_drawn(spec)) for lesion in result.lesions]
    previous = earlier.encoded if earlier else None
    return seg.write(
        result.stack,
        result.labels,
        [replace(one, colour=colours[one.number]) for one in segments],
        None,
        sop_instance_uid=hd.UID(),
        series_instance_uid=edition.series_instance_uid(previous),
        edition=edition,
        previous=previous,
        subject=subject_of(spec),
    )


def _segment(lesion: Lesion, earlier: Earlier | None, drawn: Drawn, label: Label) -> seg.Segment:
    """What drew the lesion is said as before; of one that was redrawn, that a person had a hand in it.

    label: of one that is new.
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


def _structure_set(
    result: Result,
    encoded: Dataset,
    algorithm: seg.Algorithm | None,
    subject: seg.Subject,
    edition: Edition,
    previous: Dataset | None = None,
) -> Dataset:
    return rtstruct.write(
        result.stack,
        encoded,
        result.labels,
        result.lesions,
        algorithm,
        sop_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
        edition=replace(edition, continued=None),
        previous=previous,
        subject=subject,
    )


def _add_structure_set(segmentation_id: str, run: Run) -> str:
    images, earlier = _earlier(segmentation_id, run)
    document, encoded = earlier.document, earlier.encoded
    if encoded is None:
        raise LesionNotFound(f"Segmentation {segmentation_id} has no lesions.")
    with run.stages("encode"):
        lesions = _measure(images.stack, earlier, _as_it_is(earlier), (), run.rooms)
        model, algorithm = document["model"], None
        if document["corrected_by"] is None and model != measurements.BY_HAND:
            algorithm = seg.Algorithm(model["id"], model["version"], model["sha256"])
        result = Result(images.stack, earlier.labels, lesions)
        edition = Edition(
            document["version"],
            document["corrected_by"],
            corrected=bool(document["changes"]),
            place=place_of_result(run.rooms.sessions, segmentation_id),
        )
        subject = subject_of(_spec_of(earlier, run.rooms))
        made = _structure_set(result, encoded, algorithm, subject, edition)
    lease, new = run.lease, companion(made, images.stack.headers[0])
    measurements.add_companion(run.rooms.sessions, segmentation_id, new, lease.job_id, lease.owner)
    return segmentation_id
