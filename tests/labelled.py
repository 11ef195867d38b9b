"""A head with a bright sphere at a known place, written as each layout of unetr/data/datasets.py has it."""

import json
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from imaging import codes, seg
from imaging.derived import Edition
from imaging.stack import Stack, to_stack
from unetr.synthesis.phantom import SeriesOptions, to_instances

# LPS mm: left, in front of and above the origin; no two alike, so that no axis can be taken for another.
CENTRE = (12.0, -21.0, 31.0)
ELSEWHERE = (-20.0, 5.0, 18.0)
RADIUS_MM = 7.0
SHAPE = (36, 40, 32)
SPACING_MM = (1.8, 1.6, 2.0)
MIDDLE = np.array([2.0, -6.0, 24.0])
# Columns of the files' axes, in LPS.
DIRECTIONS = {
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "LPS": np.eye(3),
    "PIR": np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]),
    "oblique": Rotation.from_euler("xyz", [17, -8, 5], degrees=True).as_matrix() @ np.diag([-1.0, -1, 1]),
}


def affine_lps(direction: str) -> np.ndarray:
    """Index (x, y, z) of a file -> LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS[direction] * SPACING_MM
    affine[:3, 3] = MIDDLE - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def sphere(affine: np.ndarray, centre=CENTRE, radius_mm: float = RADIUS_MM) -> np.ndarray:
    """bool, SHAPE: the voxels whose centres lie in the sphere."""
    index = np.stack([*np.indices(SHAPE), np.ones(SHAPE)])
    points = np.tensordot(affine[:3], index, axes=1)
    return np.linalg.norm(points - np.array(centre)[:, None, None, None], axis=0) <= radius_mm


def head(affine: np.ndarray, lesion: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32, SHAPE: noise about 100 in a ball, the lesion at 400."""
    image = np.random.default_rng(seed).normal(100.0, 5.0, SHAPE).astype(np.float32)
    image[~sphere(affine, MIDDLE, 30.0)] = 0.0
    image[lesion] = 400.0
    return image


def save(array: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    """NIfTI; affine: to LPS, as everywhere here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1]) @ affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def nnunet(folder: Path, names=("Case_001",), direction: str = "RAS") -> None:
    affine = affine_lps(direction)
    for name in names:
        for channel in range(2):
            image = head(affine, sphere(affine), channel)
            save(image, affine, folder / "imagesTr" / f"{name}_{channel:04}.nii.gz")
        save(sphere(affine).astype(np.uint8), affine, folder / "labelsTr" / f"{name}.nii.gz")
    describe(folder, {
        "channel_names": {"0": "T1-Gd", "1": "FLAIR"}, "labels": {"background": 0, "metastasis": 1},
        "numTraining": len(names), "file_ending": ".nii.gz",
    })  # fmt: skip


def msd(folder: Path, names=("BRATS_001",), direction: str = "RAS") -> None:
    affine = affine_lps(direction)
    for name in names:
        channels = np.stack([head(affine, sphere(affine), channel) for channel in range(4)], axis=-1)
        save(channels, affine, folder / "imagesTr" / f"{name}.nii.gz")
        save(3 * sphere(affine).astype(np.uint8), affine, folder / "labelsTr" / f"{name}.nii.gz")
    describe(folder, {
        "name": "BRATS", "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {
            "0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour",
        },
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names
        ],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    })  # fmt: skip


def brats_2021(folder: Path, names=("BraTS2021_00000",), direction: str = "RAS") -> None:
    _brats(folder, names, direction, "_", ("t1", "t1ce", "t2", "flair"), 4)


def brats_2023(folder: Path, names=("BraTS-MET-00001-000",), direction: str = "RAS") -> None:
    _brats(folder, names, direction, "-", ("t1n", "t1c", "t2w", "t2f"), 3)


def _brats(folder, names, direction, separator, ends, enhancing) -> None:
    affine = affine_lps(direction)
    for name in names:
        for number, end in enumerate(ends):
            image = head(affine, sphere(affine), number)
            save(image, affine, folder / name / f"{name}{separator}{end}.nii.gz")
        label = enhancing * sphere(affine).astype(np.uint8)
        save(label, affine, folder / name / f"{name}{separator}seg.nii.gz")


def describe(folder: Path, content: Mapping[str, object]) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


def volume(direction: str, seed: int = 0) -> hd.Volume:
    """The same head as a volume (slice, row, column)."""
    affine = affine_lps(direction)
    image = head(affine, sphere(affine), seed).astype(np.int16)
    return hd.Volume(image, affine, "PATIENT").permute_spatial_axes((2, 1, 0))


def images(direction: str = "LPS", **options: object) -> list[Dataset]:
    """An MR series of that head."""
    chosen = {"description": "T1 MPRAGE post Gd", "order": "shuffled"} | options
    return to_instances(volume(direction), SeriesOptions(**chosen))


def segmentation(instances: list[Dataset], timestamp: str, centre=CENTRE) -> Dataset:
    """A SEG of the series with one sphere. timestamp: its date and time."""
    stack = to_stack(instances)
    label = _on(stack, centre)
    segment = seg.Segment(
        1, "Metastasis 1", "BM-1", generate_uid(),
        codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM_SECONDARY,
    )  # fmt: skip
    dataset = seg.write(stack, label, [segment], Edition())
    dataset.ContentDate, dataset.ContentTime = timestamp.split()
    return dataset


def _on(stack: Stack, centre) -> hd.Volume:
    index = np.indices(stack.volume.shape).reshape(3, -1).T.astype(float)
    points = stack.volume.map_indices_to_reference(index)
    inside = np.linalg.norm(points - np.array(centre), axis=1) <= RADIUS_MM
    return stack.volume.with_array(inside.reshape(stack.volume.shape).astype(np.int32))


def write(instances: list[Dataset], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for instance in instances:
        dcmwrite(folder / f"{instance.SOPInstanceUID}.dcm", instance, enforce_file_format=True)
    return folder


def dicom(folder: Path, names=("study",), direction: str = "LPS") -> None:
    for name in names:
        instances = images(direction)
        write(instances, folder / name / "images")
        write([segmentation(instances, "20250314 101500")], folder / name / "seg")
