"""The picture of a result: three planes through each lesion, outlined and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imaging.seg import colour
from lesions.measure import Lesion

ROW_INCHES = 3.0
WINDOW_PERCENTILES = (1.0, 99.7)
RESEARCH_USE = "Research use only. Not for diagnosis."


@dataclass(frozen=True)
class _Plane:
    """A slice direction of an LPS-ordered array (left-right, front-back, foot-head)."""

    name: str
    axis: int
    across: int
    down: int
    flip_down: bool
    edges: tuple[str, str]


PLANES = (
    _Plane("axial", axis=2, across=0, down=1, flip_down=False, edges=("R", "L")),
    _Plane("coronal", axis=1, across=0, down=2, flip_down=True, edges=("R", "L")),
    _Plane("sagittal", axis=0, across=1, down=2, flip_down=True, edges=("A", "P")),
)


def save_overlay(image: hd.Volume, labels: hd.Volume, lesions: Sequence[Lesion], path: Path) -> None:
    """Write a PNG: a row for each lesion (or one for the middle of the head), a column for each plane.

    image, labels: (slice, row, column) on one grid; the planes are the closest patient planes.
    """
    shown = image.to_patient_orientation("LPH")
    outlined = labels.to_patient_orientation("LPH")
    window = np.percentile(shown.array, WINDOW_PERCENTILES)
    rows = max(len(lesions), 1)
    figure = Figure(figsize=(9.6, ROW_INCHES * rows + 0.5), facecolor="black")
    axes = figure.subplots(rows, 3, squeeze=False)
    for row in range(rows):
        lesion = lesions[row] if lesions else None
        centre = _centre(shown, lesion)
        for column, plane in enumerate(PLANES):
            _draw(axes[row, column], shown, outlined, centre, plane, (float(window[0]), float(window[1])))
        _describe(axes[row, 0], lesion)
    figure.text(0.5, 0.12 / figure.get_figheight(), RESEARCH_USE, color="white", ha="center", size=8)
    figure.tight_layout(rect=(0, 0.25 / figure.get_figheight(), 1, 1))
    figure.savefig(path)


def _centre(shown: hd.Volume, lesion: Lesion | None) -> NDArray[np.int64]:
    if lesion is None:
        return np.array(shown.spatial_shape) // 2
    index = shown.map_reference_to_indices(np.array([lesion.centroid_lps_mm]))[0]
    nearest = np.clip(np.rint(index), 0, np.array(shown.spatial_shape) - 1)
    return np.asarray(nearest, dtype=np.int64)


def _draw(
    axes: Axes,
    shown: hd.Volume,
    outlined: hd.Volume,
    centre: NDArray[np.int64],
    plane: _Plane,
    window: tuple[float, float],
) -> None:
    across_mm = shown.spacing[plane.across] * shown.spatial_shape[plane.across]
    down_mm = shown.spacing[plane.down] * shown.spatial_shape[plane.down]
    grey, numbers = (_slice(volume, centre, plane) for volume in (shown, outlined))
    extent = (0.0, across_mm, down_mm, 0.0)
    axes.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="bilinear")
    across = (np.arange(numbers.shape[1]) + 0.5) * shown.spacing[plane.across]
    down = (np.arange(numbers.shape[0]) + 0.5) * shown.spacing[plane.down]
    for number in np.unique(numbers[numbers > 0]):
        axes.contour(
            across, down, numbers == number, levels=[0.5], colors=[colour(int(number)).hex], linewidths=1.0
        )
    axes.set_axis_off()
    axes.text(0.01, 0.5, plane.edges[0], color="white", size=8, transform=axes.transAxes)
    axes.text(0.96, 0.5, plane.edges[1], color="white", size=8, transform=axes.transAxes)
    axes.text(0.98, 0.02, plane.name, color="white", size=8, ha="right", transform=axes.transAxes)


def _slice(volume: hd.Volume, centre: NDArray[np.int64], plane: _Plane) -> NDArray[np.float32]:
    picture = np.take(volume.array, int(centre[plane.axis]), axis=plane.axis).astype(np.float32)
    if plane.across < plane.down:
        picture = picture.T
    return np.asarray(picture[::-1] if plane.flip_down else picture)


def _describe(axes: Axes, lesion: Lesion | None) -> None:
    if lesion is None:
        axes.set_title("No lesion found", color="white", size=9, loc="left")
        return
    measurable = "measurable" if lesion.measurable else "not measurable"
    axes.set_title(
        f"{lesion.number}  {lesion.long_axis_mm:.1f} × {lesion.short_axis_mm:.1f} mm  "
        f"{lesion.volume_ml:.2f} ml  {measurable}",
        color=colour(lesion.number).hex,
        size=9,
        loc="left",
    )
