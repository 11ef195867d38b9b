"""Small pictures of failures: three planes through each, with truth and prediction outlined."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

SIDE_MM = 50.0
TRUE_COLOUR, PREDICTED_COLOUR = "#4fd16b", "#ff5a4f"
WINDOW_PERCENTILES = (1.0, 99.7)
# The axis normal to each plane, in an array whose indices increase to the left, the back and the head.
PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))


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
    window = np.percentile(image.array, WINDOW_PERCENTILES)
    turned = [volume.to_patient_orientation("LPH") for volume in (image, truth, predicted)]
    centre = turned[0].map_reference_to_indices(centre_lps_mm[None])[0]
    box = _box(turned[0], centre)
    parts = [volume.array[box] for volume in turned]
    middle = [round(float(at)) - side.start for at, side in zip(centre, box, strict=True)]
    for axes, (name, axis) in zip(figure.subplots(1, 3), PLANES, strict=True):
        # Head up: in the coronal and sagittal planes the picture's rows run downwards from the head.
        cuts = [np.take(part, min(middle[axis], part.shape[axis] - 1), axis=axis).T for part in parts]
        across, down = (size for at, size in enumerate(turned[0].spacing) if at != axis)
        _draw(axes, [cut[::-1] if axis != 2 else cut for cut in cuts], (down, across), window)
        axes.set_title(name, color="white", size=7, pad=2)
    figure.tight_layout(pad=0.4)
    figure.savefig(path)


def _box(volume: hd.Volume, centre: NDArray[Any]) -> tuple[slice, slice, slice]:
    half = SIDE_MM / 2.0 / np.array(volume.spacing)
    first = np.clip(np.floor(centre - half), 0, np.array(volume.spatial_shape) - 1).astype(int)
    last = np.clip(np.ceil(centre + half) + 1, first + 1, volume.spatial_shape).astype(int)
    return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])


def _draw(axes: Axes, cuts: list[NDArray[Any]], pixel_mm: tuple[float, float], window: NDArray[Any]) -> None:
    grey, truth, predicted = cuts
    rows, columns = grey.shape
    extent = (0.0, columns * pixel_mm[1], rows * pixel_mm[0], 0.0)
    axes.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], extent=extent)
    x, y = (np.arange(columns) + 0.5) * pixel_mm[1], (np.arange(rows) + 0.5) * pixel_mm[0]
    for mask, colour in ((truth > 0, TRUE_COLOUR), (predicted > 0, PREDICTED_COLOUR)):
        if mask.any() and min(mask.shape) > 1:
            axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=0.9)
    axes.set_axis_off()
