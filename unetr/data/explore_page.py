"""The data sheet as one self-contained HTML page: tables, sentences and figures."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lesions.measurability import PROTOCOL_LD_MM
from reports.pages import data_uri, render
from reports.slices import draw_slice, grey_window, outline_labels
from unetr.data.cases import RejectedCase
from unetr.data.data_sheet import MEDIAN, PERCENTILES, Picture, Sheet, findings

# Most cases shown as pictures; the numbers include all.
PICTURES = 24
PICTURES_ACROSS = 4
BIN_MM = 2.0
BLUE = "#2f6fb0"
# Most long axes listed for a case.
AXES_NAMED = 8


def page(
    title: str, sheets: Sequence[Sheet], bad: Sequence[RejectedCase], pictures: Sequence[Picture]
) -> str:
    """Return the whole page as HTML. pictures: those of the first cases."""
    figures = {}
    if sheets:
        figures = {
            "diameters": _diameters(sheets),
            "spacings": _spacings(sheets),
            "intensities": _intensities(sheets),
            "montage": _montage(pictures),
        }
    return render(
        "data-sheet.html",
        title=title,
        sheets=sheets,
        bad=bad,
        findings=findings(sheets) if sheets else [],
        percentiles=PERCENTILES,
        picture_count=len(pictures),
        axes_named=AXES_NAMED,
        **{name: _png(figure) for name, figure in figures.items()},
    )


def _diameters(sheets: Sequence[Sheet]) -> Figure:
    values = np.array([lesion.long_axis_mm for sheet in sheets for lesion in sheet.lesions])
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(0, max([*values, PROTOCOL_LD_MM]) + BIN_MM, BIN_MM).tolist()
    axes.hist(values, bins=edges, color=BLUE, edgecolor="white")
    axes.axvline(PROTOCOL_LD_MM, color="black", linestyle="--", linewidth=1)
    where = axes.get_xaxis_transform()
    axes.text(PROTOCOL_LD_MM, 1.02, "measurable from here", transform=where, ha="center", size=9)
    axes.set(xlabel="long axis, mm", ylabel="lesions")
    return _counting(figure)


def _spacings(sheets: Sequence[Sheet]) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, axis, name in zip(figure.subplots(1, 3), range(3), ("slices", "rows", "columns"), strict=True):
        values = [sheet.spacing_mm[axis] for sheet in sheets]
        edges = np.linspace(0, max(max(sheet.spacing_mm) for sheet in sheets) * 1.1, 24).tolist()
        axes.hist(values, bins=edges, color=BLUE, edgecolor="white")
        axes.set(xlabel=f"between {name}, mm", ylabel="cases")
    return _counting(figure)


def _intensities(sheets: Sequence[Sheet]) -> Figure:
    names = list(dict.fromkeys(name for sheet in sheets for name in sheet.intensities))
    figure = Figure(figsize=(9, 1.2 + 1.8 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        values = np.array([sheet.intensities[name] for sheet in sheets if name in sheet.intensities])
        values = values[np.argsort(values[:, MEDIAN])]
        axes.vlines(np.arange(1, len(values) + 1), values[:, 0], values[:, -1], color="#9db8d6", linewidth=3)
        axes.plot(np.arange(1, len(values) + 1), values[:, MEDIAN], "o", color=BLUE, markersize=4)
        axes.set(title=name, ylabel="stored value", xlabel="cases, by their median")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _plain(figure)


def _montage(pictures: Sequence[Picture]) -> Figure:
    rows = -(-len(pictures) // PICTURES_ACROSS)
    figure = Figure(figsize=(10, 2.75 * rows), facecolor="black", layout="constrained")
    cells = figure.subplots(rows, PICTURES_ACROSS, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, picture in zip(cells, pictures, strict=False):
        draw_slice(axes, picture.grey, picture.size_mm, grey_window(picture.grey))
        outline_labels(axes, picture.truth, picture.size_mm)
        axes.set_title(picture.id[-28:], color="white", size=8)
    return figure


def _counting(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _png(figure: Figure) -> str:
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return data_uri("image/png", png.getvalue())
