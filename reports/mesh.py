"""A self-contained HTML page that shows the brain and its lesions as surfaces to turn with the mouse.

Only this module of the package needs plotly and scikit-image (requirements-training.txt).
"""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

from imaging.derived import METASTASES
from imaging.seg import colour
from lesions.measure import Lesion
from reports.overlay import RESEARCH_USE

# Gaussian smoothing and smallest triangle edge of the brain's surface; a lesion's surface keeps every voxel.
BRAIN_SMOOTHING_MM = 2.0
BRAIN_STEP_MM = 3.0
BRAIN_COLOUR = "#b9b4ae"
BACKGROUND = "#111111"
FULL_PAGE = f"document.body.style.margin = 0; document.body.style.background = '{BACKGROUND}';"
# From the left, the front and above, LPS.
CAMERA = {"eye": {"x": 1.2, "y": -1.4, "z": 0.8}, "up": {"x": 0, "y": 0, "z": 1}}
Points = NDArray[np.float64]
Triangles = NDArray[np.int64]


def surface(mask: hd.Volume, smoothing_mm: float = 0.0, step_mm: float = 0.0) -> tuple[Points, Triangles]:
    """Return the surface of a mask that is not empty: corners (points, 3) in LPS mm, and triangles
    (triangles, 3) of their numbers, counter-clockwise as seen from outside.

    Marching cubes after Lewiner et al. 2003: without smoothing, halfway between the centres of voxels inside
    and outside. The surface is closed, even where the mask touches the edge of its grid. step_mm: smallest
    wanted edge of a triangle.
    """
    box = ndimage.find_objects(mask.array.astype(np.uint8))[0]
    spacing_mm = np.array(mask.spacing)
    step = max(1, round(step_mm / float(spacing_mm.min())))
    margin = 1 + int(np.ceil(3.0 * smoothing_mm / float(spacing_mm.min()))) + step
    padded = np.pad(mask.array[box].astype(np.float32), margin)
    if smoothing_mm:
        padded = ndimage.gaussian_filter(padded, smoothing_mm / spacing_mm)
    corners, triangles, _, _ = marching_cubes(padded, 0.5, step_size=step)
    indices = corners.astype(np.float64) - margin + [side.start for side in box]
    # scikit-image orders corners clockwise in right-handed (slice, row, column) axes.
    if np.linalg.det(mask.affine[:3, :3]) > 0:
        triangles = triangles[:, ::-1]
    return mask.map_indices_to_reference(indices), triangles.astype(np.int64)


def save_mesh(
    brain: hd.Volume,
    labels: hd.Volume,
    lesions: Sequence[Lesion],
    path: Path,
    subject: str = METASTASES.name,
) -> None:
    """Write an HTML page of some 6 MB, most of it plotly.js.

    brain: a mask on any grid; labels: the lesions' numbers; subject: their name in the title. Axes are LPS
    mm; each lesion has its usual colour and is labelled with its volume.
    """
    figure = go.Figure([_brain(brain), *(_lesion(labels, lesion) for lesion in lesions)])
    axis = {"backgroundcolor": BACKGROUND, "gridcolor": "#333333", "zerolinecolor": "#555555"}
    figure.update_layout(
        title={"text": f"{subject}. {RESEARCH_USE}"},
        template="plotly_dark",
        paper_bgcolor=BACKGROUND,
        scene={
            "aspectmode": "data",
            "camera": CAMERA,
            "annotations": [_label(lesion) for lesion in lesions],
            "xaxis": {"title": {"text": "right \u2192 left, mm"}, **axis},
            "yaxis": {"title": {"text": "front \u2192 back, mm"}, **axis},
            "zaxis": {"title": {"text": "feet \u2192 head, mm"}, **axis},
        },
    )
    figure.write_html(path, include_plotlyjs=True, default_height="100vh", post_script=FULL_PAGE)


def _brain(brain: hd.Volume) -> go.Mesh3d:
    mesh = _mesh(*surface(brain, BRAIN_SMOOTHING_MM, BRAIN_STEP_MM))
    return mesh.update(name="brain", color=BRAIN_COLOUR, opacity=0.15, hoverinfo="skip", showlegend=True)


def _lesion(labels: hd.Volume, lesion: Lesion) -> go.Mesh3d:
    mesh = _mesh(*surface(labels.with_array(labels.array == lesion.number)))
    return mesh.update(
        name=f"{lesion.number}  {lesion.name}, {lesion.volume_ml:.2f} ml",
        color=colour(lesion.number).hex,
        hovertemplate=(
            f"{lesion.name}<br>{lesion.volume_ml:.2f} ml, {lesion.long_axis_mm:.1f} × "
            f"{lesion.short_axis_mm:.1f} mm<br>LPS %{{x:.1f}} %{{y:.1f}} %{{z:.1f}} mm<extra></extra>"
        ),
        showlegend=True,
    )


def _mesh(corners: Points, triangles: Triangles) -> go.Mesh3d:
    (x, y, z), (i, j, k) = corners.astype(np.float32).T, triangles.astype(np.int32).T
    return go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k)


def _label(lesion: Lesion) -> dict[str, object]:
    """Return the annotation of a lesion, drawn over all surfaces so that it is never hidden."""
    x, y, z = lesion.centroid_lps_mm
    shade = colour(lesion.number).hex
    return {
        "x": x, "y": y, "z": z, "text": f"{lesion.number}: {lesion.volume_ml:.2f} ml",
        "font": {"size": 13, "color": shade}, "arrowcolor": shade, "arrowhead": 0, "ax": 30, "ay": -40,
    }  # fmt: skip
