"""The command line: segments a folder or a file of images, without archive and database.

python segmentation.py INPUT --out DIR [--model ID] [--series UID] [--input NAME=UID ...] [--dry-run]
                       [--from-seg FILE | --from-mask FILE | --explain]
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom import Dataset
from tqdm import tqdm

from context import Stages
from db.documents import SCHEMA_VERSION
from errors import (
    AmbiguousSeries,
    InputRefused,
    MetScopeError,
    MissingSequence,
    RequestError,
    SegmentationMismatch,
)
from findings import (
    Findings,
    edition_of,
    encode,
    identities_of_segments,
    label_of_drawn,
    lesions_of_segments,
    measured,
    read_drawn,
    report_of,
    subject_of,
    uncertainty_map,
)
from imaging import files, nifti, series
from imaging.derived import Edition
from imaging.frames import text
from imaging.stack import Stack, to_stack
from lesions.measure import Lesion, measure
from reports.overlay import save_overlay, save_planes
from reports.tables import save_csv
from schemas.results import LesionAnswer, total_volume_ml
from segmentation import choose, segment, warnings_of
from settings import Settings, load
from unetr.checkpoint_cache import with_served_model
from unetr.predict import Predictor
from unetr.preprocess import head_mask
from unetr.served import find_spec, reference_to
from unetr.spec import ModelSpec
from unetr.uncertainty import explain, lesion_entropies, max_entropy_bits

SaveMesh = Callable[[hd.Volume, hd.Volume, Sequence[Lesion], Path, str], None]

# The additional files that --explain writes.
EXPLANATION = ("uncertainty.dcm", "entropy.nii.gz", "planes.png", "mesh.html")


@dataclass(frozen=True)
class InputFiles:
    """The content of INPUT: the headers of each series, or a NIfTI file.

    warnings: about damaged files, which may be images of any series.
    """

    path: Path
    headers: Sequence[Sequence[Dataset]] = ()
    warnings: Sequence[str] = ()

    @staticmethod
    def open(path: Path) -> "InputFiles":
        """Read the headers of a DICOM folder or file, or take a NIfTI file. Raises: UnreadableFile."""
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return InputFiles(path)
        content = files.read_headers(path)
        return InputFiles(path, content.series, content.warnings)

    def choose(
        self, names: Sequence[str], caller_choices: Mapping[str, str], spec: ModelSpec
    ) -> tuple[list[series.Candidate], list[Stack]]:
        """Choose the series of the named inputs (none for a NIfTI file) and read their stacks.

        caller_choices: by input name, Series Instance UIDs, or NIfTI files if INPUT, the first input, is
        one. Raises: InputRefused, SeriesNotFound.
        """
        if not self.headers:
            missing = [name for name in names[1:] if name not in caller_choices]
            if missing:
                raise MissingSequence(
                    f"{self.path.name} contains only one volume; the {', '.join(missing)} is missing."
                )
            paths = [self.path, *(Path(caller_choices[name]) for name in names[1:])]
            return [], [nifti.read_stack(path) for path in paths]
        try:
            headers = self._of_one_patient(caller_choices.get(names[0]))
            chosen = choose(headers, names, caller_choices, spec)
            by_uid = {str(instances[0].SeriesInstanceUID): instances for instances in headers}
            stacks = [
                to_stack(files.with_pixels(by_uid[candidate.series_instance_uid])) for candidate in chosen
            ]
        except InputRefused as refusal:
            raise files.with_warnings(refusal, self.warnings) from None
        return [replace(chosen[0], warnings=(*chosen[0].warnings, *self.warnings)), *chosen[1:]], stacks

    def _of_one_patient(self, series_uid: str | None) -> Sequence[Sequence[Dataset]]:
        """Return the headers of that series' patient. Raises: AmbiguousSeries if it must be named."""
        patients: dict[str, list[Sequence[Dataset]]] = {}
        for instances in self.headers:
            # A study without PatientID counts as a patient of its own.
            patient = text(instances[0], "PatientID") or text(instances[0], "StudyInstanceUID")
            patients.setdefault(patient, []).append(instances)
        by_patient = [{str(of_series[0].SeriesInstanceUID) for of_series in p} for p in patients.values()]
        if series_uid is None and len(patients) > 1:
            listed = "; ".join(", ".join(sorted(uids)) for uids in by_patient)
            raise AmbiguousSeries(
                f"{self.path} contains series of {len(patients)} patients. "
                f"Choose one with --series: {listed}."
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
        help="the series for one of the model's inputs; with a NIfTI INPUT, NAME=FILE; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be segmented, as JSON")
    alternatives = parser.add_mutually_exclusive_group()
    alternatives.add_argument(
        "--from-seg",
        type=Path,
        metavar="FILE",
        help="measure this DICOM SEG or RT Structure Set, without a model",
    )
    alternatives.add_argument(
        "--from-mask", type=Path, metavar="FILE", help="measure this NIfTI mask, without a model"
    )
    alternatives.add_argument(
        "--explain",
        action="store_true",
        help="also write the model's uncertainty: a map, a picture and a web page",
    )
    options = parser.parse_args(arguments)
    if options.out is None and not options.dry_run:
        parser.error("--out DIR is required")
    try:
        save_mesh = _save_mesh() if options.explain else None
        source = InputFiles.open(options.input)
        if options.dry_run:
            return _dry_run(source, options)
        _run(source, options, save_mesh)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _input(text: str) -> tuple[str, str]:
    """Parse NAME=UID into a pair."""
    name, _, chosen = text.partition("=")
    if not name or not chosen:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=UID")
    return name, chosen


def _collect_inputs(options: argparse.Namespace, spec: ModelSpec) -> dict[str, str]:
    """Return the given inputs by name. Raises: RequestError for a name that the model does not have."""
    choices = dict(options.inputs)
    unknown = sorted(choices.keys() - set(spec.inputs))
    if unknown:
        raise RequestError(f"{spec.id} has no input {unknown[0]!r}; it has: {', '.join(spec.inputs)}.")
    return choices | ({spec.inputs[0]: options.series} if options.series else {})


def _dry_run(source: InputFiles, options: argparse.Namespace) -> int:
    """Print as JSON what would be segmented, or why nothing would be; return the exit code."""
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
        chosen, stacks = source.choose(spec.inputs, _collect_inputs(options, spec), spec)
        volume = stacks[0].volume
        uids = [candidate.series_instance_uid for candidate in chosen]
        plan |= {
            "chosen": uids[0] if uids else None,
            "inputs": dict(zip(spec.inputs, uids, strict=False)),
            "modality": chosen[0].modality if chosen else None,
            "shape": list(volume.spatial_shape),
            "spacing_mm": list(volume.spacing),
            "affine_lps": volume.affine.tolist(),
            "frame_of_reference_uid": volume.frame_of_reference_uid,
            "warnings": warnings_of(chosen, stacks, spec),
        }
    except MetScopeError as error:
        plan["refusal"] = {"code": error.code, "message": error.message}
        exit_code = error.exit_code
    print(json.dumps(plan, indent=2))
    return exit_code


def _save_mesh() -> SaveMesh:
    """Import the surface renderer, which only --explain needs. Raises: RequestError if it is missing."""
    try:
        from reports.mesh import save_mesh  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RequestError(
            f"--explain needs {error.name}, which is not installed: "
            "python -m pip install -r requirements-training.txt."
        ) from error
    return save_mesh


def _run(source: InputFiles, options: argparse.Namespace, save_mesh: SaveMesh | None) -> None:
    """Segment, or measure a given segmentation, and write the files into ``options.out``.

    save_mesh: the surface renderer for --explain; None without it.
    """
    settings = with_served_model(load())
    spec = find_spec(settings, options.model)
    segmentation_path = options.from_seg or options.from_mask
    if segmentation_path is not None:
        _check_not_overwritten(segmentation_path, options.out)
    predictor: Predictor | None = None
    with tqdm(total=100, unit="%", disable=None, leave=False) as bar:

        def show(stage: str, fraction: float) -> None:
            bar.set_description(stage)
            bar.update(round(100 * fraction) - bar.n)

        stages = Stages(show)
        with stages("read"):
            # A given segmentation needs only the images that it was drawn on.
            count = 1 if segmentation_path else len(spec.inputs)
            chosen, stacks = source.choose(spec.inputs[:count], _collect_inputs(options, spec), spec)
            warnings = warnings_of(chosen, stacks, spec)
            if options.from_mask is not None:
                warnings += nifti.form_warnings(options.from_mask)
        if segmentation_path is None:
            _make_folder(options.out)
            with stages("load"):
                predictor = Predictor.load(spec, settings.device)
            result = segment(stacks, predictor, spec, settings.measurable_ld_mm, stages)
        else:
            with stages("measure"):
                result = _measure_segmentation(stacks[0], options, spec, settings)
            _make_folder(options.out)
        with stages("encode"):
            encoded, report = _encode(result, spec, settings, drawn_by_model=segmentation_path is None)
            _write(result, {"segmentation": encoded, "measurements": report}, options.out)
        explained: dict[str, dict[int, float]] = {}
        if predictor is not None and save_mesh is not None:
            with stages("explain"):
                other_volumes = [stack.volume for stack in stacks[1:]]
                explained = _explain(result, other_volumes, predictor, stages, save_mesh, options.out)
    lesions = [LesionAnswer.of(lesion) for lesion in result.lesions]
    document = {
        "schema_version": SCHEMA_VERSION,
        "model": None if segmentation_path else reference_to(spec).model_dump(),
        "series_instance_uid": chosen[0].series_instance_uid if chosen else None,
        "segmentation": {"sop_instance_uid": encoded and encoded.SOPInstanceUID, "stored": False},
        "lesions": [lesion.model_dump() for lesion in lesions],
        "total_volume_ml": total_volume_ml(lesions),
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


def _check_not_overwritten(segmentation_path: Path, out: Path) -> None:
    """Check that no result replaces the given file. Raises: RequestError."""
    names = ("segmentation.dcm", "segmentation.nii.gz", "measurements.dcm", *EXPLANATION)
    if segmentation_path.resolve() in {(out / name).resolve() for name in names}:
        raise RequestError(f"{segmentation_path} would be overwritten; choose another folder for --out.")


def _make_folder(out: Path) -> None:
    """Create the folder and check that it is writable. Raises: RequestError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {out} cannot be created: {error.strerror}.") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise RequestError(f"--out {out} cannot be written.")


def _measure_segmentation(
    stack: Stack, options: argparse.Namespace, spec: ModelSpec, settings: Settings
) -> Findings:
    """Measure a mask, SEG or structure set.

    A tracked segment is one lesion; any other is split into components. Raises: UnreadableFile,
    UnreadablePixels, SegmentationMismatch.
    """
    if options.from_mask is not None:
        mask = nifti.read_mask(options.from_mask, stack)
        if (highest := int(mask.array.max())) > len(spec.labels) > 1:
            raise SegmentationMismatch(
                f"The mask contains the value {highest}, but {spec.id} has only {len(spec.labels)} labels."
            )
        return measured(stack, mask, None, spec, settings.measurable_ld_mm)
    labels, sources = lesions_of_segments(*read_drawn(files.read(options.from_seg), stack))
    identities = identities_of_segments(sources, label_of_drawn(spec))
    lesions = measure(labels, stack.slices, None, settings.measurable_ld_mm, identities)
    return Findings(stack, labels, lesions, sources)


def _encode(
    result: Findings, spec: ModelSpec, settings: Settings, drawn_by_model: bool
) -> tuple[Dataset | None, Dataset | None]:
    """Encode SEG and report, each None where there is none to write; both None for a NIfTI file."""
    if not result.stack.headers:
        return None, None
    edition = edition_of(spec) if drawn_by_model else Edition(subject=subject_of(spec))
    encoded = encode(result, spec, edition)
    if encoded is None and not settings.report_no_lesion:
        return None, None
    return encoded, report_of(result, encoded, spec, edition)


def _write(result: Findings, objects: Mapping[str, Dataset | None], out: Path) -> None:
    # Files of an earlier run would describe other lesions.
    for name in (*(f"{name}.dcm" for name in objects), *EXPLANATION):
        (out / name).unlink(missing_ok=True)
    for name, dataset in objects.items():
        if dataset is not None:
            dataset.save_as(out / f"{name}.dcm", enforce_file_format=True)
    nifti.write_labels(result.lesion_map, out / "segmentation.nii.gz")
    save_csv(result.lesions, out / "lesions.csv")
    save_overlay(result.stack.volume, result.lesion_map, result.lesions, out / "overlay.png")


def _explain(
    result: Findings,
    other_volumes: Sequence[hd.Volume],
    predictor: Predictor,
    stages: Stages,
    save_mesh: SaveMesh,
    out: Path,
) -> dict[str, dict[int, float]]:
    """Write the uncertainty map and the pictures; return the entries for lesions.json."""
    volume, spec = result.stack.volume, predictor.spec
    explanation = explain(predictor, volume, partial(stages.report, "explain"), others=other_volumes)
    nifti.write_values(explanation.entropy, out / "entropy.nii.gz")
    if result.stack.headers:
        uncertainty = uncertainty_map(result.stack, explanation.entropy, spec, edition_of(spec))
        uncertainty.save_as(out / "uncertainty.dcm", enforce_file_format=True)
    bits = max_entropy_bits(len(spec.labels))
    save_planes(volume, result.lesion_map, explanation.entropy, result.lesions, out / "planes.png", bits)
    around = explanation.region if spec.brain else volume.with_array(head_mask(volume.array))
    save_mesh(around, result.lesion_map, result.lesions, out / "mesh.html", spec.subject)
    entropies = lesion_entropies(explanation.entropy, result.lesion_map)
    return {"mean_entropy_bits": {number: round(bits, 3) for number, bits in entropies.items()}}
