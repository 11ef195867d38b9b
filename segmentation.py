"""One segmentation request, top to bottom; also the command line for a folder or a file.

python segmentation.py INPUT --out DIR [--model ID] [--series UID] [--dry-run]
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
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from sqlalchemy.orm import Session, sessionmaker
from tqdm import tqdm

from db import measurements, outbox
from db.database import open_database
from errors import InputRefused, MetScopeError, ModelNotFound, RequestError, StoreFailed
from imaging import files, nifti, parametric_map, seg, series, sr
from imaging.stack import Stack, to_stack
from lesions.measure import ML_DECIMALS, MM3_PER_ML, Identity, Lesion, components, measure
from orthanc import part10
from orthanc.dicomweb import Archive, open_archive
from reports.overlay import save_overlay, save_planes
from reports.tables import save_csv
from settings import Settings, load
from unetr.confidence import confidence
from unetr.explain import explain, lesion_entropies
from unetr.predict import Prediction, Predictor
from unetr.preprocess import head_mask
from unetr.spec import Label, ModelSpec, default_model, served_models
from version import VERSION

Predict = Callable[[hd.Volume, Callable[[float], None]], Prediction]
Report = Callable[[str, float], None]
SaveMesh = Callable[[hd.Volume, hd.Volume, Sequence[Lesion], Path], None]

logger = logging.getLogger("metscope.segmentation")

# CID 7150 and 7166: category and type of a segment whose own SEG gives none.
UNSPECIFIED = Code("85756007", "SCT", "Tissue")


@dataclass(frozen=True)
class Request:
    """What to segment. ``force`` computes anew although an equal result exists."""

    study_instance_uid: str
    series_instance_uid: str | None = None
    force: bool = False


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


@dataclass(frozen=True)
class Result:
    """labels: int32 lesion numbers (slice, row, column) on the stack's grid; lesions largest first.

    sources: by lesion number, the segments of the SEG that was measured; empty where there was none.
    """

    stack: Stack
    labels: hd.Volume
    lesions: Sequence[Lesion]
    sources: Mapping[int, seg.Segment] = field(default_factory=dict)


@dataclass
class Stages:
    """Reports each stage as it begins and keeps its seconds."""

    report: Report
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.report(stage, 0.0)
        started = time.perf_counter()
        yield
        self.timings_s[stage] = round(time.perf_counter() - started, 3)


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
    _forget_peak_memory()
    stages = Stages(report)
    with stages("fetch"):
        chosen, instances = fetch(request, services.archive)
        key = idempotency_key(instances, services.spec.weights.sha256, services.spec.version)
        equal = None if request.force else find_equal(services, key)
        if equal is not None:
            if job is not None:
                measurements.adopt(services.sessions, job.job_id, job.owner, equal)
            return equal
    with stages("read"):
        stack = to_stack(instances)
    result = segment(stack, services.predictor, services.spec, services.settings.measurable_ld_mm, stages)
    with stages("encode"):
        encoded = encode(result, services.spec)
        companions = []
        if encoded is not None and services.settings.store_sr:
            companions.append(companion(report_of(result, encoded, _algorithm(services.spec))))
    new = measurements.NewSegmentation(
        source=measurements.source_of(instances[0]),
        model_id=services.spec.id,
        model_version=services.spec.version,
        model_sha256=services.spec.weights.sha256,
        reasons=chosen.reasons,
        warnings=_warnings(chosen, stack),
        lesions=result.lesions,
        seg_sop_instance_uid=encoded.SOPInstanceUID if encoded is not None else None,
        seg_series_instance_uid=encoded.SeriesInstanceUID if encoded is not None else None,
        encoded=part10.encode(encoded) if encoded is not None else None,
        idempotency_key=key,
        timings_s=stages.timings_s,
        peak_memory_mb=_peak_memory_mb(),
        software_version=VERSION,
        companions=companions,
    )
    if job is None:
        return measurements.record(services.sessions, new)
    return measurements.record(services.sessions, new, job.job_id, job.owner)


def companion(dataset: Dataset) -> measurements.NewCompanion:
    """An object that is to be stored beside the SEG."""
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


def _forget_peak_memory() -> None:
    """Where Linux lets a process do so; else the peak is that of the whole process."""
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
        try:
            services.archive.store([part10.read(encoded)])
        except StoreFailed as error:
            if not outbox.give_up(sessions, segmentation_id, uid, services.settings.max_attempts):
                raise
            logger.warning("segmentation %s: a companion is given up: %s", segmentation_id, error.code)
        else:
            outbox.mark_stored(sessions, segmentation_id, [uid])


def fetch(request: Request, archive: Archive) -> tuple[series.Candidate, list[Dataset]]:
    """The chosen series and its instances. Geometry is refused by headers, before pixels travel."""
    headers = archive.series_headers(request.study_instance_uid)
    chosen = series.choose(series.rank(headers), request.series_instance_uid)
    return chosen, archive.retrieve_series(request.study_instance_uid, chosen.series_instance_uid)


def idempotency_key(instances: Sequence[Dataset], model_sha256: str, model_version: str) -> str:
    """SHA-256 over the SOP Instance UIDs, whatever their order, and the model's hash and version."""
    uids = sorted(str(instance.SOPInstanceUID) for instance in instances)
    return hashlib.sha256("\n".join([model_sha256, model_version, *uids]).encode()).hexdigest()


def segment(
    stack: Stack, predictor: Predict, spec: ModelSpec, measurable_ld_mm: float, stages: Stages
) -> Result:
    """Predict and measure one stack. spec: of the predictor, which knows how sure to be of what it found."""
    with stages("predict"):
        prediction = predictor(stack.volume, lambda fraction: stages.report("predict", fraction))
    with stages("measure"):
        labels = components(prediction.mask)
        lesions = measure(labels, stack.slices, prediction.probability, measurable_ld_mm)
    return Result(stack, labels, [_with_confidence(lesion, spec) for lesion in lesions])


def _with_confidence(lesion: Lesion, spec: ModelSpec) -> Lesion:
    probability = lesion.mean_probability
    if probability is None:
        return lesion
    return replace(lesion, confidence=confidence(spec, probability, lesion.volume_ml * MM3_PER_ML))


def encode(result: Result, spec: ModelSpec, drawn_by_model: bool = True) -> Dataset | None:
    """The DICOM SEG, one segment per lesion; None without lesions.

    A lesion that was measured from a SEG is what that SEG says, drawn by whom it says.
    """
    if not result.lesions:
        return None
    segments = [
        _segment_of(lesion, spec.labels[0], result.sources.get(lesion.number)) for lesion in result.lesions
    ]
    return seg.write(
        result.stack,
        result.labels,
        segments,
        _algorithm(spec) if drawn_by_model else None,
        sop_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
    )


def report_of(result: Result, encoded: Dataset, algorithm: seg.Algorithm | None) -> Dataset:
    """The DICOM SR that gives the volumes and diameters of the lesions in the SEG; no algorithm: by hand."""
    return sr.write(
        result.stack,
        encoded,
        result.lesions,
        algorithm,
        sop_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
    )


def uncertainty_map(stack: Stack, entropy: hd.Volume, spec: ModelSpec) -> Dataset:
    """The DICOM Parametric Map of how sure the model was; the stack has headers."""
    return parametric_map.write(
        stack, entropy, _algorithm(spec), sop_instance_uid=hd.UID(), series_instance_uid=hd.UID()
    )


def _algorithm(spec: ModelSpec) -> seg.Algorithm:
    return seg.Algorithm(spec.title, spec.version, spec.weights.sha256, {"model": spec.id})


def _segment_of(lesion: Lesion, label: Label, source: seg.Segment | None) -> seg.Segment:
    category, type_ = (Code(code.value, code.scheme, code.meaning) for code in (label.category, label.type))
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


# The command line

# What --explain writes besides.
EXPLANATION = ("uncertainty.dcm", "entropy.nii.gz", "planes.png", "mesh.html")


@dataclass(frozen=True)
class Source:
    """What INPUT holds: ranked candidates and the headers of each series, or a NIfTI file.

    warnings: of damaged files, which may be images of any series.
    """

    path: Path
    candidates: Sequence[series.Candidate] = ()
    headers: Sequence[Sequence[Dataset]] = ()
    warnings: Sequence[str] = ()

    @staticmethod
    def open(path: Path) -> "Source":
        """Raises: UnreadableFile."""
        if path.name.endswith((".nii", ".nii.gz")):
            return Source(path)
        found = files.read_headers(path)
        return Source(path, series.rank(found.series), found.series, found.warnings)

    def choose(self, series_instance_uid: str | None) -> tuple[series.Candidate | None, Stack]:
        """The chosen series as a stack. Raises: InputRefused."""
        if not self.headers:
            return None, nifti.read_stack(self.path)
        try:
            chosen = series.choose(self.candidates, series_instance_uid)
            headers = next(h for h in self.headers if h[0].SeriesInstanceUID == chosen.series_instance_uid)
            stack = to_stack(files.with_pixels(headers))
        except InputRefused as refusal:
            # A damaged file may be the slice that is missing.
            raise type(refusal)(" ".join([refusal.found, *self.warnings]), refusal.details) from None
        return replace(chosen, warnings=(*chosen.warnings, *self.warnings)), stack


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
    parser.add_argument("--dry-run", action="store_true", help="only say what would be segmented, as JSON")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--from-seg", type=Path, metavar="FILE", help="measure this DICOM SEG, without a model"
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
            return _dry_run(source, options.series)
        _run(source, options, save_mesh)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _dry_run(source: Source, series_instance_uid: str | None) -> int:
    """Print what would be segmented, or why nothing would, as JSON."""
    plan: dict[str, Any] = {
        "candidates": [
            {
                "series_instance_uid": candidate.series_instance_uid,
                "description": candidate.description,
                "score": candidate.score,
                "reasons": list(candidate.reasons),
                "refused": candidate.refused,
            }
            for candidate in source.candidates
        ],
        "chosen": None, "modality": None, "shape": None, "spacing_mm": None, "affine_lps": None,
        "frame_of_reference_uid": None, "warnings": [], "refusal": None,
    }  # fmt: skip
    exit_code = 0
    try:
        chosen, stack = source.choose(series_instance_uid)
        plan |= {
            "chosen": chosen and chosen.series_instance_uid,
            "modality": chosen and chosen.modality,
            "shape": list(stack.volume.spatial_shape),
            "spacing_mm": list(stack.volume.spacing),
            "affine_lps": stack.volume.affine.tolist(),
            "frame_of_reference_uid": stack.volume.frame_of_reference_uid,
            "warnings": _warnings(chosen, stack),
        }
    except MetScopeError as error:
        plan["refusal"] = {"code": error.code, "message": error.message}
        exit_code = error.exit_code
    print(json.dumps(plan, indent=2))
    return exit_code


def _warnings(chosen: series.Candidate | None, stack: Stack) -> list[str]:
    return [*(chosen.warnings if chosen else ()), *stack.warnings]


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
    settings = load()
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
            chosen, stack = source.choose(options.series)
        if given is None:
            _make_folder(options.out)
            with stages("load"):
                predictor = Predictor.load(spec, settings.device)
            result = segment(stack, predictor, spec, settings.measurable_ld_mm, stages)
        else:
            with stages("measure"):
                result = _measure_given(stack, options, settings)
            _make_folder(options.out)
        with stages("encode"):
            encoded = encode(result, spec, drawn_by_model=given is None) if stack.headers else None
            measured = encoded and report_of(result, encoded, None if given else _algorithm(spec))
            _write(result, {"segmentation": encoded, "measurements": measured}, options.out)
        explained: dict[str, Any] = {}
        if predictor is not None and save_mesh is not None:
            with stages("explain"):
                explained = _explain(result, predictor, stages, save_mesh, options.out)
    document = {
        "schema_version": measurements.SCHEMA_VERSION,
        "model": None if given else {"id": spec.id, "version": spec.version, "sha256": spec.weights.sha256},
        "series_instance_uid": chosen and chosen.series_instance_uid,
        "segmentation": {"sop_instance_uid": encoded and encoded.SOPInstanceUID, "stored": False},
        "lesions": [lesion.to_dict() for lesion in result.lesions],
        "total_volume_ml": round(sum(lesion.volume_ml for lesion in result.lesions), ML_DECIMALS),
        "warnings": _warnings(chosen, stack),
        "timings_s": stages.timings_s,
        "research_use_only": True,
        **explained,
    }
    (options.out / "lesions.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(
        f"{len(result.lesions)} lesions, {document['total_volume_ml']} ml; files in {options.out}. "
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


def _measure_given(stack: Stack, options: argparse.Namespace, settings: Settings) -> Result:
    """Measure a mask or a SEG. A tracked segment is one lesion; any other is split into components.

    Raises: UnreadableFile, UnreadablePixels, SegmentationMismatch.
    """
    if options.from_mask is not None:
        labels = components(nifti.read_mask(options.from_mask, stack))
        return Result(stack, labels, measure(labels, stack.slices, None, settings.measurable_ld_mm))
    labels, sources = lesions_of_segments(*seg.read(files.read(options.from_seg), stack))
    identities = {
        number: Identity(source.name, source.tracking_id, source.tracking_uid)
        for number, source in sources.items()
        if source.tracking_id and source.tracking_uid
    }
    lesions = measure(labels, stack.slices, None, settings.measurable_ld_mm, identities)
    return Result(stack, labels, lesions, sources)


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
    result: Result, predictor: Predictor, stages: Stages, save_mesh: SaveMesh, out: Path
) -> dict[str, Any]:
    """Write how sure the model was, and the pictures; what lesions.json says of it."""
    volume, spec = result.stack.volume, predictor.spec
    explanation = explain(predictor, volume, partial(stages.report, "explain"))
    nifti.write_values(explanation.entropy, out / "entropy.nii.gz")
    if result.stack.headers:
        made = uncertainty_map(result.stack, explanation.entropy, spec)
        made.save_as(out / "uncertainty.dcm", enforce_file_format=True)
    save_planes(volume, result.labels, explanation.entropy, result.lesions, out / "planes.png")
    around = explanation.region if spec.brain else volume.with_array(head_mask(volume.array))
    save_mesh(around, result.labels, result.lesions, out / "mesh.html")
    entropies = lesion_entropies(explanation.entropy, result.labels)
    return {"mean_entropy_bits": {number: round(bits, 3) for number, bits in entropies.items()}}


if __name__ == "__main__":
    # What is written is about patients, for this user alone.
    os.umask(0o077)
    sys.exit(main())
