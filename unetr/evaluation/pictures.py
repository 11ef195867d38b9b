"""Small pictures of failures: three planes through each, with truth and prediction outlined."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports.slices import PLANES, draw_slice, grey_window, outline

SIDE_MM = 50.0
TRUE_COLOUR, PREDICTED_COLOUR = "#4fd16b", "#ff5a4f"


@dataclass(frozen=True)
class Failure:
    """A missed lesion (size_mm: diameter) or a false positive (size_mm: long axis; mean probability)."""

    what: Literal["missed", "false"]
    number: int
    size_mm: float
    probability: float | None


def save_picture(
    image: hd.Volume, truth: hd.Volume, predicted: hd.Volume, centre_lps_mm: NDArray[Any], path: Path
) -> None:
    """Write a PNG of 5 cm around a point: axial, coronal, sagittal, the patient's right on the left.

    image, truth, predicted: (slice, row, column) on one grid. An oblique stack is shown in its own planes.
    """
    figure = Figure(figsize=(4.8, 1.85), dpi=100, facecolor="black")
    window = grey_window(image.array)
    turned = [volume.to_patient_orientation("LPH") for volume in (image, truth, predicted)]
    centre = turned[0].map_reference_to_indices(centre_lps_mm[None])[0]
    box = _box(turned[0], centre)
    shown, *masks = (volume[box] for volume in turned)  # type: ignore[index]  # as in unetr.preprocess
    offset = np.rint(centre).astype(np.int64) - [side.start for side in box]
    middle = np.minimum(offset, np.array(shown.spatial_shape) - 1)
    for axes, plane in zip(figure.subplots(1, 3), PLANES, strict=True):
        size_mm = plane.size_mm(shown)
        draw_slice(axes, plane.cut(shown, middle), size_mm, window)
        for mask, hexadecimal in zip(masks, (TRUE_COLOUR, PREDICTED_COLOUR), strict=True):
            outline(axes, plane.cut(mask, middle) > 0, size_mm, hexadecimal)
        axes.set_title(plane.name, color="white", size=7, pad=2)
    figure.tight_layout(pad=0.4)
    figure.savefig(path)


def _box(volume: hd.Volume, centre: NDArray[Any]) -> tuple[slice, slice, slice]:
    half = SIDE_MM / 2.0 / np.array(volume.spacing)
    first = np.clip(np.floor(centre - half), 0, np.array(volume.spatial_shape) - 1).astype(int)
    last = np.clip(np.ceil(centre + half) + 1, first + 1, volume.spatial_shape).astype(int)
    return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])
