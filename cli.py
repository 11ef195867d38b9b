"""The command line: segments a folder or a file of images, without archive and database.

python segmentation.py INPUT --out DIR [--model ID] [--series UID] [--input NAME=UID ...] [--dry-run]
                       [--from-seg FILE | --from-mask FILE | --explain]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
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
)
from imaging import files, nifti, series
from imaging.derived import Edition
from imaging.frames import text
from imaging.stack import Stack, to_stack
from lesions.measure import measure
from result_files import (
    SaveMesh,
    check_not_overwritten,
    load_save_mesh,
    made_folder,
    write,
    write_explanation,
)
from schemas.results import LesionAnswer, total_volume_ml
from segmentation import choose, segment, warnings_of
from settings import Settings, load
from unetr.checkpoint_cache import with_served_model
from unetr.predict import Predictor
from unetr.served import find_spec, reference_to
from unetr.spec import ModelSpec

# Number of values of a mask that a warning names.
MASK_VALUES_NAMED = 10


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
            stacks = [nifti.read_stack(path) for path in paths]
            doubts = [nifti.sequence_warnings(path, name) for path, name in zip(paths, names, strict=True)]
            return [], [
                replace(stack, warnings=[*stack.warnings, *warnings])
                for stack, warnings in zip(stacks, doubts, strict=True)
            ]
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
        save_mesh = load_save_mesh() if options.explain else None
        source = InputFiles.open(options.input)
        if options.dry_run:
            return _dry_run(source, options)
        with made_folder(options.out):
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


def _run(source: InputFiles, options: argparse.Namespace, save_mesh: SaveMesh | None) -> None:
    """Segment, or measure a given segmentation, and write the files into ``options.out``.

    save_mesh: the surface renderer for --explain; None without it.
    """
    settings = with_served_model(load())
    spec = find_spec(settings, options.model)
    segmentation_path = options.from_seg or options.from_mask
    if segmentation_path is not None:
        check_not_overwritten(segmentation_path, options.out)
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
            with stages("load"):
                predictor = Predictor.load(spec, settings.device)
            result = segment(stacks, predictor, spec, settings.measurable_ld_mm, stages)
        else:
            with stages("measure"):
                result = _measure_segmentation(stacks[0], options, spec, settings)
        warnings += result.warnings
        with stages("encode"):
            encoded, report = _encode(result, spec, settings, drawn_by_model=segmentation_path is None)
            write(result, {"segmentation": encoded, "measurements": report}, warnings, options.out)
        explained: dict[str, dict[int, float]] = {}
        if predictor is not None and save_mesh is not None:
            with stages("explain"):
                other_volumes = [stack.volume for stack in stacks[1:]]
                explained = write_explanation(
                    result, other_volumes, predictor, stages, save_mesh, options.out
                )
    lesions = [LesionAnswer.of(lesion) for lesion in result.lesions]
    document = {
        "schema_version": SCHEMA_VERSION,
        "model": None if segmentation_path else reference_to(spec).model_dump(),
        "series_instance_uid": chosen[0].series_instance_uid if chosen else None,
        "segmentation": {"sop_instance_uid": encoded and encoded.SOPInstanceUID, "stored": False},
        "lesions": [lesion.model_dump() for lesion in lesions],
        "total_volume_ml": total_volume_ml(lesions),
        "warnings": warnings,
        "timings_s": stages.timings_s,
        "peak_memory_mb": stages.peaks_mb,
        "research_use_only": True,
        **explained,
    }
    (options.out / "lesions.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _tell(lesions, warnings, options.out)


def _tell(lesions: Sequence[LesionAnswer], warnings: Sequence[str], out: Path) -> None:
    """Print the warnings about a result, and its summary."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{len(lesions)} {'lesion' if len(lesions) == 1 else 'lesions'}, {total_volume_ml(lesions)} ml; "
        f"files in {out}. Research use only."
    )


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
        result = measured(stack, mask, None, spec, settings.measurable_ld_mm)
        return replace(result, warnings=_merged_values(mask) if len(spec.labels) == 1 else ())
    labels, sources = lesions_of_segments(*read_drawn(files.read(options.from_seg), stack))
    identities = identities_of_segments(sources, label_of_drawn(spec))
    lesions = measure(labels, stack.slices, None, settings.measurable_ld_mm, identities)
    return Findings(stack, labels, lesions, sources)


def _merged_values(mask: hd.Volume) -> list[str]:
    """Return a warning if a mask whose values all mean one label holds several, e.g. of a map of tissues."""
    values = [str(value) for value in np.unique(mask.array[mask.array > 0])]
    if len(values) < 2:
        return []
    named = ", ".join(values[:MASK_VALUES_NAMED])
    more = f" ... {values[-1]}" if len(values) > MASK_VALUES_NAMED else ""
    return [
        f"The mask holds the values {named}{more}: all are taken as lesions, and those that touch as one."
    ]


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
