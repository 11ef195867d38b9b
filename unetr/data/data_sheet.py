"""Numbers and a picture that describe a labelled study, and findings across many of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from imaging.grid import MM3_PER_ML
from imaging.sequences import T1_POST_CONTRAST
from imaging.stack import SliceReference
from lesions.measurability import PROTOCOL_LD_MM
from lesions.measure import components, measure
from reports.slices import AXIAL
from unetr.data.cases import Case
from unetr.preprocess import head_mask

PERCENTILES = (1, 25, 50, 75, 99)
MEDIAN = PERCENTILES.index(50)
SMALL_MM = 5.0
THICK_MM = 1.5
# Smallest ratio between the medians of two cases at which intensities are reported as different.
SPREAD = 2.0
# Most cases named in a sentence.
NAMED = 5


@dataclass(frozen=True)
class LesionFigures:
    """A connected component of all labelled voxels, regardless of their values.

    long_axis_mm: as for RANO-BM (lesions/diameters.py).
    """

    volume_ml: float
    long_axis_mm: float
    centroid_lps_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Sheet:
    """The numbers of one case.

    shape, spacing_mm: slices, rows, columns. orientation: the patient directions in which these indices
    increase. intensities: PERCENTILES of the head's voxels, by sequence. label_ml: by label value.
    """

    id: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    intensities: Mapping[str, tuple[float, ...]]
    label_ml: Mapping[int, float]
    lesions: tuple[LesionFigures, ...]


@dataclass(frozen=True)
class Picture:
    """The axial slice of a case with the most labelled pixels, or the middle one if nothing is labelled.

    grey, truth: (rows, columns); left is the patient's right. size_mm: down and across.
    """

    id: str
    grey: NDArray[np.float32]
    truth: NDArray[np.uint8]
    size_mm: tuple[float, float]


def describe(case: Case) -> Sheet:
    """Compute the numbers of one case."""
    truth = case.truth
    slices = [SliceReference(None)] * truth.spatial_shape[0]
    lesions = measure(components(truth.with_array(truth.array > 0)), slices)
    counts = np.bincount(truth.array.ravel()).tolist()
    return Sheet(
        id=case.id,
        shape=truth.spatial_shape,
        spacing_mm=tuple(round(float(mm), 4) for mm in truth.spacing),
        orientation="".join(end.value for end in truth.get_closest_patient_orientation()),
        intensities={name: _percentiles(volume) for name, volume in case.images.items()},
        label_ml={
            value: round(count * truth.voxel_volume / MM3_PER_ML, 6)
            for value, count in enumerate(counts)
            if value and count
        },
        lesions=tuple(
            LesionFigures(round(lesion.volume_ml, 6), round(lesion.long_axis_mm, 3), lesion.centroid_lps_mm)
            for lesion in lesions
        ),
    )


def picture(case: Case) -> Picture:
    """Return the picture of one case, from its post-contrast T1 if it has one."""
    image = case.images.get(T1_POST_CONTRAST, next(iter(case.images.values())))
    shown, truth = (volume.to_patient_orientation("LPH") for volume in (image, case.truth))
    labelled = (truth.array > 0).sum(axis=(0, 1))
    index = int(labelled.argmax()) if labelled.any() else len(labelled) // 2
    grey, labels = (AXIAL.cut(volume, (0, 0, index)).copy() for volume in (shown, truth))
    return Picture(case.id, grey, labels, AXIAL.size_mm(shown))


def findings(sheets: Sequence[Sheet]) -> list[str]:
    """Describe what stands out among the cases, one plain sentence each."""
    sentences = [*_without_labels(sheets), *_sizes(sheets)]
    spacings = np.array([sheet.spacing_mm for sheet in sheets])
    thick = int((spacings.max(axis=1) > THICK_MM).sum())
    sentences.append(
        f"Voxels are {spacings.min():.2g} to {spacings.max():.2g} mm wide; in {thick} of {len(sheets)} cases "
        f"one side is longer than {THICK_MM:g} mm, and lesions smaller than that side are blurred."
    )
    turned = Counter(sheet.orientation for sheet in sheets)
    named = ", ".join(f"{letters} ({count})" for letters, count in turned.most_common())
    sentences.append(
        f"The stored axes (slices, rows, columns) point towards {named}: L and R the patient's left and "
        "right, P and A back and front, H and F head and feet. Different directions are not an error: "
        "MetScope orients every volume by its affine, never by the order of its voxels."
    )
    for name in dict.fromkeys(name for sheet in sheets for name in sheet.intensities):
        medians = np.array([sheet.intensities[name][MEDIAN] for sheet in sheets if name in sheet.intensities])
        if medians.min() > 0 and medians.max() / medians.min() >= SPREAD:
            sentences.append(
                f"{name}: the brightest case is {medians.max() / medians.min():.1f} times as bright as the "
                "darkest. MR has no units: normalise the intensities case by case (the model's spec does)."
            )
    return sentences


def _without_labels(sheets: Sequence[Sheet]) -> list[str]:
    empty = [sheet.id for sheet in sheets if not sheet.lesions]
    if not empty:
        return []
    more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
    return [
        f"In {len(empty)} of {len(sheets)} cases nothing is labelled: {', '.join(empty[:NAMED])}{more}. They "
        "teach the model what is not a lesion; check that they are not simply unlabelled."
    ]


def _sizes(sheets: Sequence[Sheet]) -> list[str]:
    diameters_mm = np.array([lesion.long_axis_mm for sheet in sheets for lesion in sheet.lesions])
    if not len(diameters_mm):
        return []
    per_case = np.array([len(sheet.lesions) for sheet in sheets])
    small, measurable = np.mean(diameters_mm < SMALL_MM), np.mean(diameters_mm >= PROTOCOL_LD_MM)
    return [
        f"{len(diameters_mm)} lesions in {len(sheets)} cases, {np.median(per_case):g} in the median case and "
        f"at most {per_case.max()}. Their long axes: median {np.median(diameters_mm):.1f} mm, from "
        f"{diameters_mm.min():.1f} to {diameters_mm.max():.1f} mm.",
        f"{small:.0%} of the lesions are smaller than {SMALL_MM:g} mm, {measurable:.0%} are measurable by "
        f"RANO-BM ({PROTOCOL_LD_MM:g} mm or more). A Dice over all voxels hardly notices the small ones: "
        "count found and missed lesions too.",
    ]


def _percentiles(volume: hd.Volume) -> tuple[float, ...]:
    """Compute percentiles of the head's voxels, the same that the model's normalisation uses."""
    head = volume.array[head_mask(volume.array)]
    # An image with hardly any contrast may have an empty head mask.
    counted = head if head.size else volume.array
    return tuple(float(value) for value in np.round(np.percentile(counted, PERCENTILES), 4))
