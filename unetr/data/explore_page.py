"""The data sheet as one self-contained HTML page: tables, sentences and figures."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imaging.seg import colour
from lesions.measurability import PROTOCOL_LD_MM
from unetr.data.cases import BadCase
from unetr.data.data_sheet import MEDIAN, PERCENTILES, Picture, Sheet, findings

# Most cases shown as pictures; the numbers include all.
PICTURES = 24
PICTURES_ACROSS = 4
BIN_MM = 2.0
BLUE = "#2f6fb0"
WINDOW_PERCENTILES = (1.0, 99.7)
HEADINGS = (
    "case", "slices × rows × columns", "spacing, mm", "towards", "lesions", "long axes, mm", "labels, ml",
    "sequences",
)  # fmt: skip
# Most long axes listed for a case.
AXES_NAMED = 8
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 80rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; display: block; margin: .5rem 0; }
.table { overflow: auto; max-height: 30rem; border: 1px solid #d0d7de; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e4e8ec; white-space: nowrap; }
th { position: sticky; top: 0; background: #f3f5f7; }
.bad { background: #fff4e5; border-color: #e0a458; } .bad td { white-space: normal; }
p.note { color: #57606a; }
"""


def page(title: str, sheets: Sequence[Sheet], bad: Sequence[BadCase], pictures: Sequence[Picture]) -> str:
    """Return the whole page as HTML. pictures: those of the first cases."""
    parts = [
        f"<h1>Data sheet: {escape(title)}</h1>",
        f"<p>{len(sheets)} cases can be used for training, {len(bad)} cannot. Research use only.</p>",
    ]
    if bad:
        parts += [
            "<h2>Cases that cannot be used for training</h2>",
            "<p class=note>Fix or remove them: MetScope skips them and lists them each time.</p>",
            _table(("case", "reason"), ((one.id, one.reason) for one in bad), "table bad"),
        ]
    if sheets:
        parts += ["<h2>What stands out</h2>", _list(findings(sheets)), *_figures(sheets, pictures)]
        parts += ["<h2>Every case</h2>", _table(*_rows(sheets), "table")]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Data sheet: {escape(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _figures(sheets: Sequence[Sheet], pictures: Sequence[Picture]) -> list[str]:
    return [
        "<h2>Lesion sizes</h2>",
        _image(_diameters(sheets), "Histogram of the lesions' long axes"),
        "<p class=note>A lesion is a connected component of all labelled voxels. If oedema is labelled too, "
        "drop it with --labels; otherwise neighbouring lesions merge.</p>",
        "<h2>Voxel sizes</h2>",
        _image(_spacings(sheets), "Voxel sizes of every case"),
        "<h2>Image intensities</h2>",
        _image(_intensities(sheets), "Intensities of every case"),
        f"<p class=note>For each case: the {PERCENTILES[0]}st to the {PERCENTILES[-1]}th percentile of the "
        "head's voxels, and their median.</p>",
        "<h2>Examples</h2>",
        _image(_montage(pictures), "A slice of each case with the outlines of its labels"),
        f"<p class=note>The axial slice with the most labelled pixels in each of the first {len(pictures)} "
        "cases; left is the patient's right. Outlines that miss the lesions indicate wrong positions.</p>",
    ]


def _diameters(sheets: Sequence[Sheet]) -> Figure:
    values = np.array([one.long_axis_mm for sheet in sheets for one in sheet.lesions])
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
    for axes, one in zip(cells, pictures, strict=False):
        low, high = np.percentile(one.grey, WINDOW_PERCENTILES)
        down_mm, across_mm = one.size_mm
        axes.imshow(one.grey, cmap="gray", vmin=low, vmax=high, extent=(0, across_mm, down_mm, 0))
        across, down = (
            (np.arange(count) + 0.5) * size / count
            for count, size in zip(one.truth.shape[::-1], (across_mm, down_mm), strict=True)
        )
        for value in np.unique(one.truth[one.truth > 0]).tolist():
            outline = {"levels": [0.5], "colors": [colour(value).hex], "linewidths": 0.9}
            axes.contour(across, down, one.truth == value, **outline)
        axes.set_title(one.id[-28:], color="white", size=8)
    return figure


def _counting(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _rows(sheets: Sequence[Sheet]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of cases."""
    return HEADINGS, [
        (
            sheet.id,
            " × ".join(map(str, sheet.shape)),
            " × ".join(f"{mm:.3g}" for mm in sheet.spacing_mm),
            sheet.orientation,
            str(len(sheet.lesions)),
            ", ".join(f"{one.long_axis_mm:.1f}" for one in sheet.lesions[:AXES_NAMED])
            + (" ..." if sheet.lesions[AXES_NAMED:] else ""),
            ", ".join(f"{value}: {ml:.2f}" for value, ml in sheet.label_ml.items()),
            ", ".join(sheet.intensities),
        )
        for sheet in sheets
    ]


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    headings = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='{kind}'><table><tr>{headings}</tr>{body}</table></div>"


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _image(figure: Figure, what: str) -> str:
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110)
    encoded = base64.b64encode(png.getvalue()).decode()
    return f"<img alt='{escape(what)}' src='data:image/png;base64,{encoded}'>"
