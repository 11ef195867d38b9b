"""The drawing of slices: planes of the patient, grey levels in true proportions, outlines of masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from imaging.seg import colour

WINDOW_PERCENTILES = (1.0, 99.7)
SAMPLED_VOXELS = 2_000_000


@dataclass(frozen=True)
class AnatomicalPlane:
    """A plane of the patient, normal to one axis of an array whose indices increase to the left, back, head.

    edges: the patient's directions at the left and right of the picture.
    """

    name: str
    axis: int
    edges: tuple[str, str]

    def cut(self, volume: hd.Volume, index: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """Return the slice through an index: (rows, columns), front or head first."""
        # A view, because np.take would copy an entire array whose axes are permuted.
        picture: NDArray[Any] = np.moveaxis(volume.array, self.axis, 0)[int(index[self.axis])].T
        return picture if self.axis == 2 else picture[::-1]

    def size_mm(self, volume: hd.Volume) -> tuple[float, float]:
        """Return the height and width of the volume's slices, mm."""
        across, down = np.delete(np.multiply(volume.spatial_shape, volume.spacing), self.axis).tolist()
        return down, across


AXIAL = AnatomicalPlane("axial", 2, ("R", "L"))
PLANES = (AXIAL, AnatomicalPlane("coronal", 1, ("R", "L")), AnatomicalPlane("sagittal", 0, ("A", "P")))


def grey_window(array: NDArray[Any]) -> tuple[float, float]:
    """Return the grey levels shown as black and white, from an even sample of a large volume or slice."""
    step = max(round((array.size / SAMPLED_VOXELS) ** (1 / array.ndim)), 1)
    low, high = np.percentile(array[(slice(None, None, step),) * array.ndim], WINDOW_PERCENTILES)
    return float(low), float(high)


def draw_slice(
    axes: Axes,
    grey: NDArray[Any],
    size_mm: tuple[float, float],
    window: tuple[float, float],
    interpolation: str = "auto",
) -> None:
    """Draw a slice (rows, columns) in mm, without axes. size_mm: height, width; window: black, white."""
    down_mm, across_mm = size_mm
    axes.imshow(
        grey, cmap="gray", vmin=window[0], vmax=window[1], extent=(0.0, across_mm, down_mm, 0.0),
        interpolation=interpolation,
    )  # fmt: skip
    axes.set_axis_off()


def outline(axes: Axes, mask: NDArray[np.bool_], size_mm: tuple[float, float], hexadecimal: str) -> None:
    """Draw the border of a mask (rows, columns), if it has one, over a slice of that height and width."""
    if min(mask.shape) > 1 and mask.any() and not mask.all():
        down, across = (
            (np.arange(count) + 0.5) * mm / count for count, mm in zip(mask.shape, size_mm, strict=True)
        )
        axes.contour(across, down, mask, levels=[0.5], colors=[hexadecimal], linewidths=1.0)


def outline_labels(axes: Axes, labels: NDArray[Any], size_mm: tuple[float, float]) -> None:
    """Draw the border of each label (rows, columns; 0 is background) in its colour."""
    for number in np.unique(labels[labels > 0]).tolist():
        outline(axes, labels == number, size_mm, colour(int(number)).hex)
