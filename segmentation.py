"""A segmentation request from start to end: images from the archive, rows in the database."""

import hashlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pydicom import Dataset

import logs
from context import Connections, LeaseKey, ModelServices, OnProgress, Predict, Stages
from db import outbox, recording, segmentations
from db.numbering import NumberingOutdated, next_numbering
from db.source import Source, check_patient, series_to_prove, source_of
from errors import ArchiveRefused, InputRefused, SegmentationNotFound, SeriesNotFound, StoreFailed
from findings import (
    Findings,
    edition_of,
    encode,
    has_report,
    measured,
    new_identities,
    publish,
    report_of,
    subject_of,
)
from imaging import codes, files, series
from imaging.frames import text
from imaging.identity import content_digest, patient_of, same_patient
from imaging.inputs import check_together, choose_inputs
from imaging.stack import Stack, to_stack
from orthanc import part10
from orthanc.archive import Archive
from unetr.spec import ModelSpec
from version import VERSION

logger = logging.getLogger("metscope.segmentation")


@dataclass(frozen=True)
class Request:
    """A segmentation to compute. ``force``: compute it even if an equal result exists.

    series_instance_uid: series of the model's first input. inputs: series by input name. Inputs that neither
    names are selected automatically.
    """

    study_instance_uid: str
    series_instance_uid: str | None = None
    force: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)


def segment_series(
    request: Request, services: ModelServices, report: OnProgress, job: LeaseKey | None = None
) -> str:
    """Segment a series of the archive: fetch, read, predict, measure, encode, record.

    Returns the segmentation's id; that of an equal earlier result unless ``request.force``. The SEG then
    waits in the outbox for ``deliver``. ``report(stage, fraction)`` may raise JobCancelled.
    Raises: InputRefused, ArchiveError, ModelError, LeaseLost; then nothing is recorded.
    """
    stages = Stages(report)
    with stages("fetch"):
        candidates, instances = fetch(request, services.archive, services.spec)
        source = source_of_fetched(instances, services)
        key = idempotency_key(instances, source, services.spec.digest)
        equal = None if request.force else find_equal(services, key)
        # A result that is deleted in the meantime is computed again.
        with suppress(SegmentationNotFound):
            if equal is not None:
                if job is not None:
                    recording.adopt(services.sessions, job.job_id, job.owner, equal, source)
                return equal
    with stages("read"):
        stacks = [to_stack(of_input) for of_input in instances]
        warnings = warnings_of(candidates, stacks, services.spec)
    result = segment(stacks, services.predictor, services.spec, services.settings.measurable_ld_mm, stages)
    while True:
        numbering = next_numbering(services.sessions, source, services.spec.id)
        with stages("encode"):
            result = result.with_identities(new_identities(result.label_by_lesion, numbering.tracking_ids))
            edition = edition_of(services.spec, numbering.version, numbering.result_index)
            encoded = encode(result, services.spec, edition)
            companions = []
            if has_report(encoded, services.settings):
                companions.append(report_of(result, encoded, services.spec, edition))
        new = recording.NewSegmentation(
            source=source,
            model_id=services.spec.id,
            model_version=services.spec.version,
            model_sha256=services.spec.weights.sha256,
            reasons=[reason for candidate in candidates for reason in candidate.reasons],
            warnings=[*warnings, *result.warnings],
            lesions=result.lesions,
            seg=publish(encoded, instances[0][0]) if encoded is not None else None,
            idempotency_key=key,
            timings_s=stages.timings_s,
            peak_memory_mb=max(stages.peaks_mb.values()),
            software_version=VERSION,
            companions=[publish(companion, instances[0][0]) for companion in companions],
            numbering=numbering,
        )
        # Another job for this patient may have taken the numbers in the meantime.
        with suppress(NumberingOutdated):
            if job is None:
                return recording.record(services.sessions, new)
            return recording.record(services.sessions, new, job.job_id, job.owner)


def find_equal(services: Connections, key: str) -> str | None:
    """Find an equal result whose SEG, if stored, is still in the archive. Raises: ArchiveError."""
    equal = segmentations.find_equal(services.sessions, key)
    stored = outbox.stored(services.sessions, equal) if equal is not None else None
    if stored is None or services.archive.has_instance(stored.study_instance_uid, stored.sop_instance_uid):
        return equal
    outbox.note_presence(services.sessions, stored.segmentation_id, present=False)
    return find_equal(services, key)


def deliver(segmentation_id: str, services: Connections) -> None:
    """Store a segmentation's objects from the outbox in the archive, SEG first; note each confirmation.

    A companion that the archive keeps refusing, e.g. because it takes no reports, is given up.
    Raises: ArchiveError; the outbox keeps the other objects, under the same UIDs, for the next attempt.
    """
    sessions = services.sessions
    for uid, encoded in outbox.pending(sessions, segmentation_id).items():
        dataset = part10.read(encoded)
        patient = segmentations.patient(sessions, segmentation_id)
        if not same_patient(patient_of(dataset), patient_of(patient)):
            # The PatientID was corrected in the archive while the object waited.
            dataset.update(patient)
        try:
            services.archive.store([dataset])
        except StoreFailed as error:
            if not outbox.give_up(sessions, segmentation_id, uid, services.settings.max_attempts):
                raise
            logger.warning(
                "segmentation %s: a companion object could not be stored and is abandoned: %s",
                segmentation_id,
                error.code,
            )
        else:
            outbox.mark_stored(sessions, segmentation_id, [uid])


def follow_patient(segmentation_id: str, services: Connections, job: LeaseKey) -> None:
    """Fetch the segmentation's images again, and record it under the patient that they name now.

    Raises: IdentityConflict if they are not the images that were segmented, StudyNotFound, SeriesNotFound,
    SegmentationNotFound, ArchiveError, LeaseLost.
    """
    document = segmentations.document(services.sessions, segmentation_id)
    series = document.study_instance_uid, document.series_instance_uid
    source = source_of_fetched([services.archive.retrieve_series(*series)], services)
    recording.adopt(services.sessions, job.job_id, job.owner, segmentation_id, source)


def fetch(
    request: Request, archive: Archive, spec: ModelSpec
) -> tuple[list[series.Candidate], list[list[Dataset]]]:
    """Fetch the series of each of the model's inputs: the chosen candidates and their instances.

    A wrong geometry is refused from the headers, before pixels are transferred.
    """
    study_uid = request.study_instance_uid
    first_input = {spec.inputs[0]: request.series_instance_uid} if request.series_instance_uid else {}
    series_uids = {**request.inputs, **first_input}
    # If the caller names every input, the study's other series do not matter.
    needed_uids = set(series_uids.values()) if series_uids.keys() >= set(spec.inputs) else set()
    headers = archive.series_headers(study_uid, needed_uids)
    try:
        candidates = choose(headers, spec.inputs, series_uids, spec)
    except InputRefused as refusal:
        damaged = (sentence for instances in headers for sentence in files.warnings_of(instances))
        raise files.with_warnings(refusal, damaged) from None
    inputs = [archive.retrieve_series(study_uid, candidate.series_instance_uid) for candidate in candidates]
    patients = {text(of_series[0], "SeriesInstanceUID"): patient_of(of_series[0]) for of_series in headers}
    for instances in inputs:
        series_uid = text(instances[0], "SeriesInstanceUID")
        if not same_patient(patient_of(instances[0]), patients[series_uid]):
            raise ArchiveRefused(
                f"The archive lists series {series_uid} but served images of another patient."
            )
    return candidates, inputs


def source_of_fetched(inputs: Sequence[Sequence[Dataset]], connections: Connections) -> Source:
    """Return the patient and study of the images. A study recorded under another patient is checked again.

    Raises: IdentityConflict if its images are not those that were segmented, ArchiveError.
    """
    sessions, archive = connections.sessions, connections.archive
    contents = {text(instances[0], "SeriesInstanceUID"): content_digest(instances) for instances in inputs}
    source = source_of(inputs[0][0], contents)
    for series_uid in series_to_prove(sessions, source):
        with suppress(SeriesNotFound):
            instances = archive.retrieve_series(source.study_instance_uid, series_uid)
            corrected = same_patient(patient_of(instances[0]), patient_of(inputs[0][0]))
            # If the archive still names the other patient, nothing was corrected, even if the images match.
            proof = {series_uid: content_digest(instances) if corrected else ""}
            source = replace(source, contents={**source.contents, **proof})
    check_patient(sessions, source)
    return source


def choose(
    headers: Sequence[Sequence[Dataset]],
    names: Sequence[str],
    series_uids: Mapping[str, str],
    spec: ModelSpec,
) -> list[series.Candidate]:
    """Choose the series of the named inputs by ``choose_inputs``. Raises: InputRefused, SeriesNotFound."""
    return choose_inputs(headers, names, series_uids, head=subject_of(spec).anatomy == codes.BRAIN)


def idempotency_key(inputs: Sequence[Sequence[Dataset]], source: Source, model_digest: str) -> str:
    """Return the SHA-256 of the study, of each input's series, SOP Instance UIDs and content, and of the
    model's specification. It does not depend on the order of an input's instances or on the patient.
    """
    parts = [model_digest, source.study_instance_uid]
    for instances in inputs:
        series_uid = text(instances[0], "SeriesInstanceUID")
        uids = sorted(str(instance.SOPInstanceUID) for instance in instances)
        parts += ["", series_uid, source.contents[series_uid], *uids]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def warnings_of(
    candidates: Sequence[series.Candidate], stacks: Sequence[Stack], spec: ModelSpec
) -> list[str]:
    """Return the warnings about each input and about their relative position. Raises: InputsApart."""
    of_candidates = [warning for candidate in candidates for warning in candidate.warnings]
    of_stacks = [warning for stack in stacks for warning in stack.warnings]
    return list(
        dict.fromkeys([*of_candidates, *of_stacks, *check_together(stacks, spec.inputs[: len(stacks)])])
    )


def segment(
    stacks: Sequence[Stack], predictor: Predict, spec: ModelSpec, measurable_ld_mm: float, stages: Stages
) -> Findings:
    """Run the model on the stacks of its inputs and measure the findings in the first stack."""
    first, *others = stacks
    with stages("predict"):
        prediction = predictor(
            first.volume,
            lambda fraction: stages.report("predict", fraction),
            *(stack.volume for stack in others),
        )
    with stages("measure"):
        result = measured(first, prediction.mask, prediction.probability, spec, measurable_ld_mm)
        return replace(result, warnings=prediction.warnings)


if __name__ == "__main__":
    from cli import main

    # The files hold patient data: only this user may read them.
    os.umask(0o077)
    logs.log_odd_headers()
    sys.exit(main())
