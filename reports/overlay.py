"""Pictures of a result: three planes through lesions, outlined and measured, and the model's uncertainty."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imaging.seg import colour
from lesions.measure import Lesion
from reports.slices import PLANES, AnatomicalPlane, draw_slice, grey_window, outline_labels

ROW_INCHES = 3.0
# A picture is limited to 65535 pixels, and nobody looks at more rows than this.
MAX_ROWS = 50
PLANES_INCHES = 12.0
TITLE_INCHES = 0.4
# Of the caption: letters that fit below the pictures, and the height of a line.
CAPTION_LETTERS = 140
LINE_INCHES = 0.15
SCALE_MM = 20.0
# Lower entropy is not drawn over the image.
MIN_SHOWN_BITS = 0.05
RESEARCH_USE = "Research use only. Not for diagnosis."


def save_overlay(
    image: hd.Volume,
    labels: hd.Volume,
    lesions: Sequence[Lesion],
    path: Path,
    warnings: Sequence[str] = (),
) -> None:
    """Write a PNG: a row for each of the first lesions (or the middle of the head), a column for each plane.

    image, labels: (slice, row, column) on one grid; the planes are the closest patient planes.
    warnings: of the result, written below the pictures.
    """
    shown = image.to_patient_orientation("LPH")
    outlined = labels.to_patient_orientation("LPH")
    window = grey_window(shown.array)
    rows = min(max(len(lesions), 1), MAX_ROWS)
    shown_rows = f"{MAX_ROWS} of {len(lesions)} lesions are shown. " if len(lesions) > MAX_ROWS else ""
    caption = [line for warning in warnings for line in wrap(f"Warning: {warning}", CAPTION_LETTERS)]
    caption.append(shown_rows + RESEARCH_USE)
    inches = ROW_INCHES * rows + 0.35 + LINE_INCHES * len(caption)
    figure = Figure(figsize=(9.6, inches), facecolor="black", layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    for row in range(rows):
        lesion = lesions[row] if lesions else None
        centre = _centre(shown, lesion)
        for column, plane in enumerate(PLANES):
            _draw(axes[row, column], shown, outlined, centre, plane, window)
        _describe(axes[row, 0], lesion)
    # Names of files may contain $, which would begin a formula.
    figure.supxlabel("\n".join(caption), color="white", size=8, parse_math=False)
    figure.savefig(path)


def save_planes(
    image: hd.Volume,
    labels: hd.Volume,
    entropy: hd.Volume,
    lesions: Sequence[Lesion],
    path: Path,
    max_entropy_bits: float = 1.0,
) -> None:
    """Write a PNG of three planes through the largest lesion (or the middle of the head), all to one scale.

    The upper row has outlines and a bar of 20 mm, the lower row the entropy in bits, 0 to max_entropy_bits.
    image, labels, entropy: (slice, row, column) on one grid; the planes are the closest patient planes.
    """
    shown, outlined, uncertain = (volume.to_patient_orientation("LPH") for volume in (image, labels, entropy))
    window = grey_window(shown.array)
    lesion = lesions[0] if lesions else None
    centre = _centre(shown, lesion)
    heights, widths = zip(*(plane.size_mm(shown) for plane in PLANES), strict=True)
    tallest = max(heights)
    inches = 2.0 * (PLANES_INCHES * tallest / sum(widths) + TITLE_INCHES)
    figure = Figure(figsize=(PLANES_INCHES, inches), facecolor="black", layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=widths)
    for column, plane in enumerate(PLANES):
        for panel in axes[:, column]:
            _draw(panel, shown, outlined, centre, plane, window)
            panel.set_xlim(0.0, widths[column])
            panel.set_ylim(*_centre_limits(heights[column], tallest))
        _draw_scale(axes[0, column])
        bits = plane.cut(uncertain, centre)
        heat = axes[1, column].imshow(
            np.ma.masked_less(bits, MIN_SHOWN_BITS), cmap="inferno",
            vmin=0.0, vmax=max_entropy_bits, alpha=0.8,
            extent=(0.0, widths[column], heights[column], 0.0), interpolation="nearest",
        )  # fmt: skip
    _describe(axes[0, 0], lesion)
    axes[1, 0].set_title("Entropy of the mirrored predictions", color="white", size=9, loc="left")
    bar = figure.colorbar(heat, ax=axes[1, :], shrink=0.7, pad=0.01)
    bar.set_label(f"bits: 0 sure, {max_entropy_bits:.3g} even", color="white", size=8)
    bar.ax.tick_params(colors="white", labelsize=8)
    figure.supxlabel(RESEARCH_USE, color="white", size=8)
    figure.savefig(path, dpi=120)


def _centre_limits(size_mm: float, height_mm: float) -> tuple[float, float]:
    """Return the limits of a downward axis that is height_mm long and has size_mm in its middle."""
    spare = (height_mm - size_mm) / 2.0
    return size_mm + spare, -spare


def _draw_scale(axes: Axes) -> None:
    low, high = axes.get_ylim()
    at = low + 0.04 * (high - low)
    axes.plot([4.0, 4.0 + SCALE_MM], [at, at], color="white", linewidth=2.0)
    axes.text(4.0, at - 2.0, f"{SCALE_MM:.0f} mm", color="white", size=8)


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
    plane: AnatomicalPlane,
    window: tuple[float, float],
) -> None:
    size_mm = plane.size_mm(shown)
    draw_slice(axes, plane.cut(shown, centre), size_mm, window, "bilinear")
    outline_labels(axes, plane.cut(outlined, centre), size_mm)
    axes.text(0.01, 0.5, plane.edges[0], color="white", size=8, transform=axes.transAxes)
    axes.text(0.96, 0.5, plane.edges[1], color="white", size=8, transform=axes.transAxes)
    axes.text(0.98, 0.02, plane.name, color="white", size=8, ha="right", transform=axes.transAxes)


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
