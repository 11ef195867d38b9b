"""One segmentation request, top to bottom; also the command line for a folder or a file.

python segmentation.py INPUT --out DIR [--model ID] [--series UID] [--input NAME=UID ...] [--dry-run]
                       [--from-seg FILE | --from-mask FILE | --explain]
"""

import argparse
import hashlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import highdicom as hd
from pydicom import Dataset
from sqlalchemy.orm import Session, sessionmaker
from tqdm import tqdm

import logs
from db import measurements, outbox
from db.database import open_database
from db.numbering import NumberingOutdated, next_numbering
from errors import (
    AmbiguousSeries,
    ArchiveRefused,
    InputRefused,
    MetScopeError,
    MissingSequence,
    ModelNotFound,
    RequestError,
    SegmentationMismatch,
    SegmentationNotFound,
    SeriesNotFound,
    StoreFailed,
)
from imaging import codes, files, nifti, series
from imaging.derived import Edition
from imaging.frames import text
from imaging.identity import check_derived, content_digest, patient_of, same_patient
from imaging.inputs import check_together, choose_inputs
from imaging.stack import Stack, to_stack
from lesions.measure import ML_DECIMALS, Lesion, measure
from orthanc import part10
from orthanc.dicomweb import Archive, open_archive
from reports.overlay import save_overlay, save_planes
from reports.tables import save_csv
from results import (
    Result,
    algorithm_of,
    encode,
    identities_of_segments,
    label_of_drawn,
    lesions_of_segments,
    measured,
    numbered_after,
    read_drawn,
    report_of,
    subject_of,
    uncertainty_map,
)
from settings import Settings, load
from unetr.checkpoint_cache import with_served_model
from unetr.predict import Prediction, Predictor
from unetr.preprocess import head_mask
from unetr.spec import ModelSpec, default_model, served_models
from unetr.uncertainty import explain, lesion_entropies, most_bits
from version import VERSION

Report = Callable[[str, float], None]
SaveMesh = Callable[[hd.Volume, hd.Volume, Sequence[Lesion], Path, str], None]

logger = logging.getLogger("metscope.segmentation")


class Predict(Protocol):
    """A model. others: of its further inputs, in the order of its specification."""

    def __call__(
        self, volume: hd.Volume, on_progress: Callable[[float], None], /, *others: hd.Volume
    ) -> Prediction: ...


@dataclass(frozen=True)
class Request:
    """What to segment. ``force`` computes anew although an equal result exists.

    series_instance_uid: of the model's first input. inputs: series of its inputs, by their names. What
    neither says is chosen.
    """

    study_instance_uid: str
    series_instance_uid: str | None = None
    force: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rooms:
    """What every request passes through."""

    archive: Archive
    sessions: sessionmaker[Session]
    settings: Settings


@dataclass(frozen=True)
class Services(Rooms):
    """And what a segmentation needs besides."""

    predictor: Predict
    spec: ModelSpec


@dataclass(frozen=True)
class JobLease:
    """The job on whose behalf a result is recorded, and who holds its lease."""

    job_id: str
    owner: str


@dataclass
class Stages:
    """Reports each stage as it begins and keeps its seconds and its peak memory, MB.

    The peak is that of the stage where Linux lets a process reset it, else that of the process so far.
    """

    report: Report
    timings_s: dict[str, float] = field(default_factory=dict)
    peaks_mb: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.report(stage, 0.0)
        _reset_peak_memory()
        started = time.perf_counter()
        yield
        self.timings_s[stage] = round(time.perf_counter() - started, 3)
        self.peaks_mb[stage] = round(_peak_memory_mb(), 1)


def open_services(settings: Settings, model_id: str | None = None) -> Services:
    """Open archive and database and load the model. Raises: ModelNotFound, ModelError, SettingsError."""
    spec = find_spec(settings, model_id)
    return Services(
        archive=open_archive(settings),
        sessions=open_database(settings.sqlalchemy_url),
        settings=settings,
        predictor=Predictor.load(spec, settings.device),
        spec=spec,
    )


def find_spec(settings: Settings, model_id: str | None) -> ModelSpec:
    """The spec of that model, or of the default one. Raises: ModelNotFound, ModelSpecInvalid."""
    if model_id is None:
        return default_model(settings.models_dir, settings.model_path)
    models = served_models(settings.models_dir, settings.model_path)
    if model_id not in models:
        raise ModelNotFound(f"There is no model {model_id!r}; there are: {', '.join(sorted(models))}.")
    return models[model_id]


def segment_series(request: Request, services: Services, report: Report, job: JobLease | None = None) -> str:
    """From the archive to rows in the database: fetch, read, predict, measure, encode, record.

    Returns the segmentation's id; that of an equal, earlier result unless ``request.force``. The SEG then
    waits in the outbox for ``deliver``. ``report(stage, fraction)`` may raise JobCancelled.
    Raises: InputRefused, ArchiveError, ModelError, LeaseLost; nothing is recorded then.
    """
    stages = Stages(report)
    with stages("fetch"):
        chosen, instances = fetch(request, services.archive, services.spec)
        source = source_of_fetched(instances, services)
        key = idempotency_key(instances, source, services.spec.digest)
        equal = None if request.force else find_equal(services, key)
        # One that is deleted meanwhile is computed again.
        with suppress(SegmentationNotFound):
            if equal is not None:
                if job is not None:
                    measurements.adopt(services.sessions, job.job_id, job.owner, equal, source)
                return equal
    with stages("read"):
        stacks = [to_stack(of_input) for of_input in instances]
        warnings = _warnings(chosen, stacks, services.spec)
    result = segment(stacks, services.predictor, services.spec, services.settings.measurable_ld_mm, stages)
    while True:
        numbering = next_numbering(services.sessions, source, services.spec.id)
        with stages("encode"):
            result = numbered_after(result, numbering.tracking_ids)
            edition = Edition(numbering.version, place=numbering.place)
            encoded = encode(result, services.spec, edition=edition)
            companions = []
            if encoded is not None:
                check_derived(encoded, instances[0][0])
            if reports(encoded, services.settings):
                report_ = report_of(result, encoded, services.spec, algorithm_of(services.spec), edition)
                companions.append(companion(report_, instances[0][0]))
        new = measurements.NewSegmentation(
            source=source,
            model_id=services.spec.id,
            model_version=services.spec.version,
            model_sha256=services.spec.weights.sha256,
            reasons=[reason for one in chosen for reason in one.reasons],
            warnings=[*warnings, *result.warnings],
            lesions=result.lesions,
            seg_sop_instance_uid=encoded.SOPInstanceUID if encoded is not None else None,
            seg_series_instance_uid=encoded.SeriesInstanceUID if encoded is not None else None,
            encoded=part10.encode(encoded) if encoded is not None else None,
            idempotency_key=key,
            timings_s=stages.timings_s,
            peak_memory_mb=max(stages.peaks_mb.values()),
            software_version=VERSION,
            companions=companions,
            numbering=numbering,
        )
        # Another job of this patient may have taken the numbers meanwhile.
        with suppress(NumberingOutdated):
            if job is None:
                return measurements.record(services.sessions, new)
            return measurements.record(services.sessions, new, job.job_id, job.owner)


def reports(encoded: Dataset | None, settings: Settings) -> bool:
    """Whether a report is stored beside the SEG, or in place of one where no lesion was found."""
    return settings.store_sr and (encoded is not None or settings.report_no_lesion)


def companion(dataset: Dataset, source: Dataset) -> measurements.NewCompanion:
    """Return an object that is to be stored beside the SEG. source: an image that both were made of.

    Raises: IdentityConflict.
    """
    check_derived(dataset, source)
    return measurements.NewCompanion(
        modality=dataset.Modality,
        sop_instance_uid=dataset.SOPInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        encoded=part10.encode(dataset),
    )


def find_equal(services: Rooms, key: str) -> str | None:
    """Id of an equal result whose SEG, if it was stored, is still in the archive. Raises: ArchiveError."""
    equal = measurements.find_equal(services.sessions, key)
    stored = outbox.stored(services.sessions, equal) if equal is not None else None
    if stored is None or services.archive.has_instance(stored.study_instance_uid, stored.sop_instance_uid):
        return equal
    outbox.note_presence(services.sessions, stored.segmentation_id, present=False)
    return find_equal(services, key)


def _reset_peak_memory() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024.0
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def deliver(segmentation_id: str, services: Rooms) -> None:
    """Store what the outbox has of a segmentation in the archive and note each confirmation, the SEG first.

    A companion that the archive refuses again and again, a report where it takes none, is given up.
    Raises: ArchiveError; the outbox keeps the other objects, under the same UIDs, for the next attempt.
    """
    sessions = services.sessions
    for uid, encoded in outbox.pending(sessions, segmentation_id).items():
        dataset = part10.read(encoded)
        patient = measurements.patient(sessions, segmentation_id)
        if not same_patient(patient_of(dataset), patient_of(patient)):
            # The archive has corrected the PatientID while the object waited.
            dataset.update(patient)
        try:
            services.archive.store([dataset])
        except StoreFailed as error:
            if not outbox.give_up(sessions, segmentation_id, uid, services.settings.max_attempts):
                raise
            logger.warning("segmentation %s: a companion is given up: %s", segmentation_id, error.code)
        else:
            outbox.mark_stored(sessions, segmentation_id, [uid])


def follow_patient(segmentation_id: str, services: Rooms, job: JobLease) -> None:
    """Look at the segmentation's images again, and record it under the patient that they name now.

    Raises: IdentityConflict where they are not those that were segmented, StudyNotFound, SeriesNotFound,
    SegmentationNotFound, ArchiveError, LeaseLost.
    """
    document = measurements.document(services.sessions, segmentation_id)
    series = document["study_instance_uid"], document["series_instance_uid"]
    source = source_of_fetched([services.archive.retrieve_series(*series)], services)
    measurements.adopt(services.sessions, job.job_id, job.owner, segmentation_id, source)


def fetch(
    request: Request, archive: Archive, spec: ModelSpec
) -> tuple[list[series.Candidate], list[list[Dataset]]]:
    """The series of each of the model's inputs and their instances.

    Geometry is refused by headers, before pixels travel.
    """
    study_uid = request.study_instance_uid
    first = {spec.inputs[0]: request.series_instance_uid} if request.series_instance_uid else {}
    given = {**request.inputs, **first}
    # Where the caller names every input, the study's other series do not matter.
    named = set(given.values()) if given.keys() >= set(spec.inputs) else set()
    headers = archive.series_headers(study_uid, named)
    try:
        chosen = choose(headers, spec.inputs, given, spec)
    except InputRefused as refusal:
        damaged = (sentence for instances in headers for sentence in files.warnings_of(instances))
        raise files.with_warnings(refusal, damaged) from None
    inputs = [archive.retrieve_series(study_uid, one.series_instance_uid) for one in chosen]
    patients = {text(of_series[0], "SeriesInstanceUID"): patient_of(of_series[0]) for of_series in headers}
    for instances in inputs:
        series_uid = text(instances[0], "SeriesInstanceUID")
        if not same_patient(patient_of(instances[0]), patients[series_uid]):
            raise ArchiveRefused(f"The archive lists series {series_uid} and serves another patient's.")
    return chosen, inputs


def source_of_fetched(inputs: Sequence[Sequence[Dataset]], connections: Rooms) -> measurements.Source:
    """Return whose images these are. A study that is recorded under another patient is looked at again.

    Raises: IdentityConflict where its images are not those that were segmented, ArchiveError.
    """
    sessions, archive = connections.sessions, connections.archive
    contents = {text(instances[0], "SeriesInstanceUID"): content_digest(instances) for instances in inputs}
    source = measurements.source_of(inputs[0][0], contents)
    for series_uid in measurements.series_to_prove(sessions, source):
        with suppress(SeriesNotFound):
            instances = archive.retrieve_series(source.study_instance_uid, series_uid)
            corrected = same_patient(patient_of(instances[0]), patient_of(inputs[0][0]))
            # Where the archive still names the other patient, nothing was corrected, whatever the images are.
            proof = {series_uid: content_digest(instances) if corrected else ""}
            source = replace(source, contents={**source.contents, **proof})
    measurements.check_patient(sessions, source)
    return source


def choose(
    headers: Sequence[Sequence[Dataset]], names: Sequence[str], given: Mapping[str, str], spec: ModelSpec
) -> list[series.Candidate]:
    """``choose_inputs`` for the named inputs of a model. Raises: InputRefused, SeriesNotFound."""
    return choose_inputs(headers, names, given, head=subject_of(spec).anatomy == codes.BRAIN)


def idempotency_key(
    inputs: Sequence[Sequence[Dataset]], source: measurements.Source, model_digest: str
) -> str:
    """Return the SHA-256 of the study, of each input's series, SOP Instance UIDs and content, and of the
    model's specification. Neither the order of an input's instances nor the patient matters.
    """
    parts = [model_digest, source.study_instance_uid]
    for instances in inputs:
        series_uid = text(instances[0], "SeriesInstanceUID")
        uids = sorted(str(instance.SOPInstanceUID) for instance in instances)
        parts += ["", series_uid, source.contents[series_uid], *uids]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def segment(
    stacks: Sequence[Stack], predictor: Predict, spec: ModelSpec, measurable_ld_mm: float, stages: Stages
) -> Result:
    """Predict the stacks of the model's inputs and measure what is found in the first."""
    first, *others = stacks
    with stages("predict"):
        prediction = predictor(
            first.volume, lambda fraction: stages.report("predict", fraction), *(one.volume for one in others)
        )
    with stages("measure"):
        result = measured(first, prediction.mask, prediction.probability, spec, measurable_ld_mm)
        return replace(result, warnings=prediction.warnings)


# The command line

# What --explain writes besides.
EXPLANATION = ("uncertainty.dcm", "entropy.nii.gz", "planes.png", "mesh.html")


@dataclass(frozen=True)
class Source:
    """What INPUT holds: the headers of each series, or a NIfTI file.

    warnings: of damaged files, which may be images of any series.
    """

    path: Path
    headers: Sequence[Sequence[Dataset]] = ()
    warnings: Sequence[str] = ()

    @staticmethod
    def open(path: Path) -> "Source":
        """Raises: UnreadableFile."""
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return Source(path)
        found = files.read_headers(path)
        return Source(path, found.series, found.warnings)

    def choose(
        self, names: Sequence[str], given: Mapping[str, str], spec: ModelSpec
    ) -> tuple[list[series.Candidate], list[Stack]]:
        """The series of the named inputs, none of a NIfTI file, and their stacks.

        given: by name the caller's choice: Series Instance UIDs, or NIfTI files beside a NIfTI file, which is
        the first input. Raises: InputRefused, SeriesNotFound.
        """
        if not self.headers:
            missing = [name for name in names[1:] if name not in given]
            if missing:
                raise MissingSequence(
                    f"{self.path.name} is one volume, and the {', '.join(missing)} is missing."
                )
            paths = [self.path, *(Path(given[name]) for name in names[1:])]
            return [], [nifti.read_stack(path) for path in paths]
        try:
            headers = self._of_one_patient(given.get(names[0]))
            chosen = choose(headers, names, given, spec)
            by_uid = {str(instances[0].SeriesInstanceUID): instances for instances in headers}
            stacks = [to_stack(files.with_pixels(by_uid[one.series_instance_uid])) for one in chosen]
        except InputRefused as refusal:
            raise files.with_warnings(refusal, self.warnings) from None
        return [replace(chosen[0], warnings=(*chosen[0].warnings, *self.warnings)), *chosen[1:]], stacks

    def _of_one_patient(self, series_uid: str | None) -> Sequence[Sequence[Dataset]]:
        """Return the headers of that series' patient. Raises: AmbiguousSeries where it has to be named."""
        patients: dict[str, list[Sequence[Dataset]]] = {}
        for instances in self.headers:
            # A study without PatientID is its own patient.
            patient = text(instances[0], "PatientID") or text(instances[0], "StudyInstanceUID")
            patients.setdefault(patient, []).append(instances)
        by_patient = [{str(of_series[0].SeriesInstanceUID) for of_series in p} for p in patients.values()]
        if series_uid is None and len(patients) > 1:
            listed = "; ".join(", ".join(sorted(uids)) for uids in by_patient)
            raise AmbiguousSeries(
                f"{self.path} holds series of {len(patients)} patients, and --series names none: {listed}."
            )
        of_patient = [p for p, uids in zip(patients.values(), by_patient, strict=True) if series_uid in uids]
        return of_patient[0] if of_patient else self.headers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 done, 2 usage, 3 input refused, 4 archive, 5 model."""
    parser = argparse.ArgumentParser(
        prog="segmentation.py", description="Segment and measure brain metastases."
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="DICOM folder or file, or NIfTI file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--model", metavar="ID", help="a model's id; without it, the default model")
    parser.add_argument(
        "--series", metavar="UID", help="the series to segment; without it, the best candidate"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        dest="inputs",
        type=_input,
        metavar="NAME=UID",
        help="the series of one of the model's inputs; beside a NIfTI INPUT, NAME=FILE; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be segmented, as JSON")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--from-seg",
        type=Path,
        metavar="FILE",
        help="measure this DICOM SEG or RT Structure Set, without a model",
    )
    given.add_argument(
        "--from-mask", type=Path, metavar="FILE", help="measure this NIfTI mask, without a model"
    )
    given.add_argument(
        "--explain",
        action="store_true",
        help="also write how sure the model is: a map, a picture, a page",
    )
    options = parser.parse_args(arguments)
    if options.out is None and not options.dry_run:
        parser.error("--out DIR is needed")
    try:
        save_mesh = _save_mesh() if options.explain else None
        source = Source.open(options.input)
        if options.dry_run:
            return _dry_run(source, options)
        _run(source, options, save_mesh)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _input(text: str) -> tuple[str, str]:
    """NAME=UID as a pair."""
    name, _, chosen = text.partition("=")
    if not name or not chosen:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=UID")
    return name, chosen


def _given_inputs(options: argparse.Namespace, spec: ModelSpec) -> dict[str, str]:
    """By name, those that were given. Raises: RequestError for a name that is no input of the model."""
    given = dict(options.inputs)
    unknown = sorted(given.keys() - set(spec.inputs))
    if unknown:
        raise RequestError(f"{spec.id} has no input {unknown[0]!r}; it has: {', '.join(spec.inputs)}.")
    return given | ({spec.inputs[0]: options.series} if options.series else {})


def _dry_run(source: Source, options: argparse.Namespace) -> int:
    """Print what would be segmented, or why nothing would, as JSON."""
    spec = find_spec(with_served_model(load()), options.model)
    plan: dict[str, Any] = {
        "candidates": [
            {
                "series_instance_uid": candidate.series_instance_uid,
                "description": candidate.description,
                "score": candidate.score,
                "reasons": list(candidate.reasons),
                "refused": candidate.refused,
                "sequence": candidate.sequence,
            }
            for candidate in series.rank(source.headers)
        ],
        "chosen": None, "inputs": {}, "modality": None, "shape": None, "spacing_mm": None, "affine_lps": None,
        "frame_of_reference_uid": None, "warnings": [], "refusal": None,
    }  # fmt: skip
    exit_code = 0
    try:
        chosen, stacks = source.choose(spec.inputs, _given_inputs(options, spec), spec)
        volume = stacks[0].volume
        uids = [one.series_instance_uid for one in chosen]
        plan |= {
            "chosen": uids[0] if uids else None,
            "inputs": dict(zip(spec.inputs, uids, strict=False)),
            "modality": chosen[0].modality if chosen else None,
            "shape": list(volume.spatial_shape),
            "spacing_mm": list(volume.spacing),
            "affine_lps": volume.affine.tolist(),
            "frame_of_reference_uid": volume.frame_of_reference_uid,
            "warnings": _warnings(chosen, stacks, spec),
        }
    except MetScopeError as error:
        plan["refusal"] = {"code": error.code, "message": error.message}
        exit_code = error.exit_code
    print(json.dumps(plan, indent=2))
    return exit_code


def _warnings(chosen: Sequence[series.Candidate], stacks: Sequence[Stack], spec: ModelSpec) -> list[str]:
    """Of every input, and of how they lie together. Raises: InputsApart."""
    of_series = [*(w for one in chosen for w in one.warnings), *(w for one in stacks for w in one.warnings)]
    return list(dict.fromkeys([*of_series, *check_together(stacks, spec.inputs[: len(stacks)])]))


def _save_mesh() -> SaveMesh:
    """What draws surfaces, which only who asks for them needs to have installed. Raises: RequestError."""
    try:
        from reports.mesh import save_mesh  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RequestError(
            f"--explain needs {error.name}, which is not installed: "
            "python -m pip install -r requirements-training.txt."
        ) from error
    return save_mesh


def _run(source: Source, options: argparse.Namespace, save_mesh: SaveMesh | None) -> None:
    """Segment, or measure a given segmentation, and write the files into ``options.out``.

    save_mesh: where the segmentation is to be explained.
    """
    settings = with_served_model(load())
    spec = find_spec(settings, options.model)
    given = options.from_seg or options.from_mask
    names = ("segmentation.dcm", "segmentation.nii.gz", "measurements.dcm", *EXPLANATION)
    written = {(options.out / name).resolve() for name in names}
    if given is not None and given.resolve() in written:
        raise RequestError(f"{given} would be written over; choose another folder for --out.")
    predictor: Predictor | None = None
    with tqdm(total=100, unit="%", disable=None, leave=False) as bar:

        def show(stage: str, fraction: float) -> None:
            bar.set_description(stage)
            bar.update(round(100 * fraction) - bar.n)

        stages = Stages(show)
        with stages("read"):
            # What was drawn needs the images that it was drawn on, and no others.
            count = 1 if given else len(spec.inputs)
            chosen, stacks = source.choose(spec.inputs[:count], _given_inputs(options, spec), spec)
            warnings = _warnings(chosen, stacks, spec)
            if options.from_mask is not None:
                warnings += nifti.form_warnings(options.from_mask)
        if given is None:
            _make_folder(options.out)
            with stages("load"):
                predictor = Predictor.load(spec, settings.device)
            result = segment(stacks, predictor, spec, settings.measurable_ld_mm, stages)
        else:
            with stages("measure"):
                result = _measure_given(stacks[0], options, spec, settings)
            _make_folder(options.out)
        with stages("encode"):
            encoded = encode(result, spec, drawn_by_model=given is None) if stacks[0].headers else None
            report = None
            if encoded is not None or (stacks[0].headers and settings.report_no_lesion):
                report = report_of(result, encoded, spec, None if given else algorithm_of(spec))
            _write(result, {"segmentation": encoded, "measurements": report}, options.out)
        explained: dict[str, Any] = {}
        if predictor is not None and save_mesh is not None:
            with stages("explain"):
                others = [stack.volume for stack in stacks[1:]]
                explained = _explain(result, others, predictor, stages, save_mesh, options.out)
    document = {
        "schema_version": measurements.SCHEMA_VERSION,
        "model": None if given else {"id": spec.id, "version": spec.version, "sha256": spec.weights.sha256},
        "series_instance_uid": chosen[0].series_instance_uid if chosen else None,
        "segmentation": {"sop_instance_uid": encoded and encoded.SOPInstanceUID, "stored": False},
        "lesions": [lesion.to_dict() for lesion in result.lesions],
        "total_volume_ml": round(sum(lesion.volume_ml for lesion in result.lesions), ML_DECIMALS),
        "warnings": [*warnings, *result.warnings],
        "timings_s": stages.timings_s,
        "peak_memory_mb": stages.peaks_mb,
        "research_use_only": True,
        **explained,
    }
    (options.out / "lesions.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(
        f"{len(result.lesions)} {'lesion' if len(result.lesions) == 1 else 'lesions'}, "
        f"{document['total_volume_ml']} ml; files in {options.out}. "
        "Research use only."
    )


def _make_folder(out: Path) -> None:
    """Raises: RequestError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {out} cannot be made: {error.strerror}.") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise RequestError(f"--out {out} cannot be written.")


def _measure_given(stack: Stack, options: argparse.Namespace, spec: ModelSpec, settings: Settings) -> Result:
    """Measure a mask or a SEG. A tracked segment is one lesion; any other is split into components.

    Raises: UnreadableFile, UnreadablePixels, SegmentationMismatch.
    """
    if options.from_mask is not None:
        mask = nifti.read_mask(options.from_mask, stack)
        if (highest := int(mask.array.max())) > len(spec.labels) > 1:
            raise SegmentationMismatch(
                f"The mask has the value {highest}; {spec.id} has {len(spec.labels)} labels."
            )
        return measured(stack, mask, None, spec, settings.measurable_ld_mm)
    labels, sources = lesions_of_segments(*read_drawn(files.read(options.from_seg), stack))
    identities = identities_of_segments(sources, label_of_drawn(spec))
    lesions = measure(labels, stack.slices, None, settings.measurable_ld_mm, identities)
    return Result(stack, labels, lesions, sources)


def _write(result: Result, objects: Mapping[str, Dataset | None], out: Path) -> None:
    # Those of an earlier run would belong to other lesions.
    for name in (*(f"{name}.dcm" for name in objects), *EXPLANATION):
        (out / name).unlink(missing_ok=True)
    for name, dataset in objects.items():
        if dataset is not None:
            dataset.save_as(out / f"{name}.dcm", enforce_file_format=True)
    nifti.write_labels(result.labels, out / "segmentation.nii.gz")
    save_csv(result.lesions, out / "lesions.csv")
    save_overlay(result.stack.volume, result.labels, result.lesions, out / "overlay.png")


def _explain(
    result: Result,
    others: Sequence[hd.Volume],
    predictor: Predictor,
    stages: Stages,
    save_mesh: SaveMesh,
    out: Path,
) -> dict[str, Any]:
    """Write how sure the model was, and the pictures; what lesions.json says of it."""
    volume, spec = result.stack.volume, predictor.spec
    explanation = explain(predictor, volume, partial(stages.report, "explain"), others=others)
    nifti.write_values(explanation.entropy, out / "entropy.nii.gz")
    if result.stack.headers:
        made = uncertainty_map(result.stack, explanation.entropy, spec)
        made.save_as(out / "uncertainty.dcm", enforce_file_format=True)
    bits = most_bits(len(spec.labels))
    save_planes(volume, result.labels, explanation.entropy, result.lesions, out / "planes.png", bits)
    around = explanation.region if spec.brain else volume.with_array(head_mask(volume.array))
    save_mesh(around, result.labels, result.lesions, out / "mesh.html", spec.subject)
    entropies = lesion_entropies(explanation.entropy, result.labels)
    return {"mean_entropy_bits": {number: round(bits, 3) for number, bits in entropies.items()}}


if __name__ == "__main__":
    # What is written is about patients, for this user alone.
    os.umask(0o077)
    logs.log_odd_headers()
    sys.exit(main())
