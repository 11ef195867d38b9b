"""Two visits of a patient and one of a namesake, as a hospital's archive holds them, and a model for them.

A visit has a localizer, FLAIR, T2, and T1 before and after contrast, all in one frame of reference; then the
patient was taken out and in for another T2. The T1 after contrast has 176 slices of 256 x 256. The head is
synthetic. Its lesions are brighter than all else, so a model that calls bright voxels lesions finds exactly
them, in a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import generate_uid
from scipy import ndimage

from tests.several import BRAIN, label, save_model
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.phantom import SeriesOptions, to_instances

Pixels = NDArray[np.uint16]

BRIGHT = "bright"
POST = "T1 post-contrast"
# In a frame of reference of its own.
AGAIN = "T2 repositioned"
SHAPE, SPACING_MM = (176, 256, 256), (1.0, 0.9, 0.9)
SHAPES = {
    "localizer": (3, 128, 128), "FLAIR": (36, 192, 192), "T2": (36, 192, 192), "T1": (88, 128, 128),
    POST: SHAPE, AGAIN: (36, 192, 192),
}  # fmt: skip
DESCRIPTIONS = {
    "localizer": "localizer", "FLAIR": "T2 FLAIR", "T2": "T2 TSE", "T1": "T1 SE pre",
    POST: "T1 MPRAGE post Gd", AGAIN: "T2 TSE repositioned",
}  # fmt: skip
SEED = 2026
# Stored values.
BRIGHTEST_TISSUE, THRESHOLD, LESION = 1000, 1150, 1800
NAME = "Dubois-Lacroix^Marie-Françoise"
# Lesions: centre in mm of LPS, in the frame of reference of the earlier visit, and diameter in mm.
EARLIER = (((-26.0, 30.0, 32.0), 15.0), ((30.0, -18.0, 22.0), 10.0))
LATER = (((-26.0, 30.0, 32.0), 19.0), ((30.0, -18.0, 22.0), 8.0), ((24.0, 48.0, 40.0), 12.0))
NAMESAKE = (((20.0, 10.0, 30.0), 13.0),)
# How far the patient lies from where she lay at the earlier visit, in mm of LPS.
UNMOVED_MM, MOVED_MM = np.zeros(3), np.array([6.0, -9.0, 14.0])


@dataclass(frozen=True)
class Visit:
    """One study. series: SeriesInstanceUIDs by name; lesions: centre, LPS in mm, and diameter in mm.

    images: what is stored of each series, (slice, row, column).
    """

    study: str
    date: str
    frame_of_reference: str
    series: Mapping[str, str]
    lesions: Sequence[tuple[NDArray[np.float64], float]]
    images: Mapping[str, hd.Volume]
    instances: Sequence[Dataset]


@dataclass(frozen=True)
class Visits:
    """What the archive holds."""

    earlier: Visit
    later: Visit
    namesake: Visit

    def __iter__(self):
        return iter((self.earlier, self.later, self.namesake))


def save_bright_model(
    folder: Path, name: str = BRIGHT, spacing_mm: float = 2.0, threshold: int = THRESHOLD
) -> Path:
    """Write a model that calls a voxel a lesion where no tissue is as bright; return its weights.

    spacing_mm: of its grid, in which lesions of twice as many mm are seen. threshold: a stored value.
    """
    metastasis = label(
        1, "Metastasis", {"value": "14799000", "scheme": "SCT", "meaning": "Neoplasm, Secondary"}
    )
    model = {
        "id": name, "title": f"Voxels above {threshold}, of {spacing_mm:g} mm", "subject": "Brain metastases",
        "anatomy": BRAIN, "inputs": [POST], "labels": [metastasis], "spacing_mm": [spacing_mm] * 3,
    }  # fmt: skip
    save_model(folder, model, [([1.0], -threshold / 1000)])
    return folder / f"{name}.safetensors"


def make_visits(cache: Path) -> Visits:
    """Return the visits with new UIDs. cache: a folder where processes share the synthetic head."""
    heads = _heads(cache)
    namesake = {"PatientID": "H-2002", "PatientBirthDate": "19710330"}
    return Visits(
        earlier=_visit(heads, "20250314", EARLIER),
        later=_visit(heads, "20250620", LATER, MOVED_MM),
        # A small one; it is there for its name.
        namesake=_visit({POST: heads["T1"]}, "20250621", NAMESAKE, **namesake),
    )


def _visit(
    heads: Mapping[str, hd.Volume],
    date: str,
    lesions: Sequence[tuple[tuple[float, float, float], float]],
    moved_mm: NDArray[np.float64] = UNMOVED_MM,
    **attributes: str,
) -> Visit:
    frame, study = generate_uid(), generate_uid()
    here = [(np.add(centre, moved_mm), diameter_mm) for centre, diameter_mm in lesions]
    patient = {"PatientName": NAME, "PatientID": "H-1001", "PatientBirthDate": "19630517"} | attributes
    images, uids = {}, {}
    instances: list[Dataset] = []
    for number, (name, head) in enumerate(heads.items(), start=1):
        affine = head.affine.copy()
        affine[:3, 3] += moved_mm + (MOVED_MM if name == AGAIN else UNMOVED_MM)
        images[name] = hd.Volume(
            head.array, affine, "PATIENT", frame_of_reference_uid=generate_uid() if name == AGAIN else frame
        )
        if name == POST:
            images[name] = _with(here, images[name])
        options = SeriesOptions(
            description=DESCRIPTIONS[name], contrast=name == POST, series_number=number, study_date=date,
            study_instance_uid=str(study),
        )  # fmt: skip
        for instance in to_instances(images[name], options):
            for keyword, value in patient.items():
                setattr(instance, keyword, value)
            instances.append(instance)
        uids[name] = str(instances[-1].SeriesInstanceUID)
    return Visit(str(study), date, str(frame), uids, here, images, instances)


def _heads(cache: Path) -> dict[str, hd.Volume]:
    """The head without lesions as each series shows it: dark fluid in T1 and FLAIR, bright fluid in T2."""
    path = cache / f"heads-{SEED}.npz"
    coarse = metastases.grid(tuple(n // 2 for n in SHAPE), tuple(2 * mm for mm in SPACING_MM))
    with FileLock(f"{path}.lock"):
        if not path.exists():
            image = metastases.head(coarse, SEED, HeadOptions(lesion_count=(0, 0), pose=False)).image.array
            tissue = np.clip(image / np.quantile(image, 0.9999) * BRIGHTEST_TISSUE, 0, BRIGHTEST_TISSUE)
            inverse = np.where(tissue > 40, 1.2 * BRIGHTEST_TISSUE - tissue, tissue)
            values = {
                "localizer": tissue * 0.5,
                "FLAIR": np.where(tissue > 100, BRIGHTEST_TISSUE - np.abs(tissue - 600), tissue),
                "T2": inverse,
                "T1": tissue * 0.8,
                POST: tissue,
                AGAIN: inverse,
            }
            np.savez(path, **{name: _with_slices(array, SHAPES[name]) for name, array in values.items()})
    with np.load(path) as stored:
        return {name: _over_the_same_box(coarse, stored[name]) for name in SHAPES}


def _with_slices(array: NDArray[np.float32], shape: tuple[int, int, int]) -> Pixels:
    """The same box of the patient, cut into so many slices, rows and columns, with a little noise."""
    factors = np.divide(shape, array.shape)
    values = ndimage.zoom(array.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest")
    values += np.random.default_rng(SEED).normal(0, 8, shape)
    return np.clip(values, 0, BRIGHTEST_TISSUE).round().astype(np.uint16)


def _over_the_same_box(geometry: hd.VolumeGeometry, array: Pixels) -> hd.Volume:
    """The array on a grid of its own over the box of that geometry."""
    factors = np.divide(array.shape, geometry.spatial_shape)
    affine = geometry.affine.copy()
    affine[:3, :3] = geometry.affine[:3, :3] / factors
    # The corner of the box stays where it was; the centre of its first voxel does not.
    affine[:3, 3] += geometry.affine[:3, :3] @ (0.5 / factors - 0.5)
    return hd.Volume(array, affine, "PATIENT")


def _with(lesions: Sequence[tuple[NDArray[np.float64], float]], image: hd.Volume) -> hd.Volume:
    """The image with balls in it."""
    array = image.array.astype(np.float32)
    for centre, diameter_mm in lesions:
        middle = image.map_reference_to_indices(np.array([centre]))[0]
        half = np.ceil(diameter_mm / np.array(image.spacing)).astype(int)
        box = tuple(slice(int(m) - n, int(m) + n + 1) for m, n in zip(middle, half, strict=True))
        away_mm = np.linalg.norm(
            [(axis - m) * mm for axis, m, mm in zip(np.mgrid[box], middle, image.spacing, strict=True)],
            axis=0,
        )
        share = np.clip(diameter_mm / 2 - away_mm + 0.5, 0, 1)
        array[box] += share * (LESION - array[box])
    return image.with_array(array.round().astype(np.uint16))
