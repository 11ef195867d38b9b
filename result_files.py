"""The files in which the command line leaves a result."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import highdicom as hd
from pydicom import Dataset

from context import Stages
from errors import RequestError
from findings import Findings, edition_of, uncertainty_map
from imaging import nifti
from lesions.measure import Lesion
from reports.overlay import save_overlay, save_planes
from reports.tables import save_csv
from unetr.predict import Predictor
from unetr.preprocess import head_mask
from unetr.uncertainty import explain, lesion_entropies, max_entropy_bits

SaveMesh = Callable[[hd.Volume, hd.Volume, Sequence[Lesion], Path, str], None]

# The additional files that --explain writes.
EXPLANATION = ("uncertainty.dcm", "entropy.nii.gz", "planes.png", "mesh.html")


@contextmanager
def made_folder(out: Path) -> Iterator[None]:
    """Create a folder that is writable, and remove it again if nothing was written. Raises: RequestError."""
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"--out {out} cannot be created: {error.strerror}.") from error
        if not os.access(out, os.W_OK | os.X_OK):
            raise RequestError(f"--out {out} cannot be written.")
        yield
    finally:
        for folder in created:
            # One that holds files stays.
            with suppress(OSError):
                folder.rmdir()


def check_not_overwritten(segmentation_path: Path, out: Path) -> None:
    """Check that no result replaces the given file. Raises: RequestError."""
    names = ("segmentation.dcm", "segmentation.nii.gz", "measurements.dcm", *EXPLANATION)
    if segmentation_path.resolve() in {(out / name).resolve() for name in names}:
        raise RequestError(f"{segmentation_path} would be overwritten; choose another folder for --out.")


def write(
    result: Findings, objects: Mapping[str, Dataset | None], warnings: Sequence[str], out: Path
) -> None:
    """Write DICOM objects by file name, NIfTI labels, table and picture; delete those of an earlier run."""
    # Files of an earlier run would describe other lesions.
    for name in (*(f"{name}.dcm" for name in objects), *EXPLANATION):
        (out / name).unlink(missing_ok=True)
    for name, dataset in objects.items():
        if dataset is not None:
            dataset.save_as(out / f"{name}.dcm", enforce_file_format=True)
    nifti.write_labels(result.lesion_map, out / "segmentation.nii.gz")
    save_csv(result.lesions, out / "lesions.csv")
    save_overlay(result.stack.volume, result.lesion_map, result.lesions, out / "overlay.png", warnings)


def load_save_mesh() -> SaveMesh:
    """Import the surface renderer, which only --explain needs. Raises: RequestError if it is missing."""
    try:
        from reports.mesh import save_mesh  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RequestError(
            f"--explain needs {error.name}, which is not installed: "
            "python -m pip install -r requirements-training.txt."
        ) from error
    return save_mesh


def write_explanation(
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
