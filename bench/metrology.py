"""The errors of measured diameters and volumes against known ones: `python -m bench.metrology`.

Draws spheres and ellipsoids (axis-aligned and rotated, axes 1 : 0.5-1 : 0.5-1) at random sub-voxel
offsets, sets each voxel that is at least half filled, measures the mask, and prints bias and root
mean square error by acquisition and largest diameter as a Markdown table.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from imaging.stack import SliceReference
from lesions.measure import measure

Floats = NDArray[np.float64]
SUBSAMPLE_MM = 0.35


def _oblique(degrees: float) -> Floats:
    """Return the orientation of axial slices turned about the patient's left-right axis."""
    s, c = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return np.array([[0, -s, c], [0, c, s], [1, 0, 0]])


# Unit vectors in LPS of the slice, row and column index.
ORIENTATIONS: dict[str, Floats] = {
    "axial": np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]),
    "sagittal": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "coronal": np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]]),
    "oblique 35°": _oblique(35),
}
ACQUISITIONS: list[tuple[str, tuple[float, float, float]]] = [
    ("axial", (1.0, 1.0, 1.0)),
    ("axial", (1.0, 0.5, 0.5)),
    ("axial", (1.0, 0.5, 1.0)),
    ("axial", (3.0, 1.0, 1.0)),
    ("axial", (5.0, 0.9, 0.9)),
    ("sagittal", (1.0, 1.0, 1.0)),
    ("sagittal", (5.0, 0.9, 0.9)),
    ("coronal", (1.5, 0.9, 0.9)),
    ("oblique 35°", (1.0, 1.0, 1.0)),
]
DIAMETERS_MM: list[tuple[float, float]] = [(5, 10), (10, 30)]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid. centre_mm: LPS. semi_axes_mm: along the rows of `axes`, an orthonormal matrix in LPS."""

    centre_mm: Floats
    semi_axes_mm: Floats
    axes: Floats

    @property
    def volume_ml(self) -> float:
        return float(4 / 3 * np.pi * self.semi_axes_mm.prod() / 1000)

    def axial_section(self) -> tuple[Floats, Floats]:
        """Return diameters, mm (longest first), and unit directions (x, y) of the largest axial section."""
        form = self.axes.T @ np.diag(self.semi_axes_mm**-2.0) @ self.axes
        values, vectors = np.linalg.eigh(form[:2, :2])
        return 2 / np.sqrt(values), vectors.T


def to_mask(ellipsoid: Ellipsoid, orientation: Floats, spacing_mm: tuple[float, float, float]) -> hd.Volume:
    """Return a bool volume around the ellipsoid; voxels are set that lie at least half inside.

    The grid is fixed to LPS (0, 0, 0), so the sub-voxel offset is that of the ellipsoid.
    """
    spacing = np.array(spacing_mm)
    direction = orientation.T * spacing
    centre = np.linalg.solve(direction, ellipsoid.centre_mm)
    reach = np.ceil(ellipsoid.semi_axes_mm.max() / spacing).astype(int) + 2
    first = np.round(centre).astype(int) - reach
    shape = 2 * reach + 1
    parts = np.maximum(3, np.ceil(spacing / SUBSAMPLE_MM)).astype(int) | 1  # odd: no voxel is half full
    to_unit = (ellipsoid.axes / ellipsoid.semi_axes_mm[:, None]) @ direction
    samples = [
        (np.arange(shape[k] * parts[k]) + 0.5) / parts[k] - 0.5 + first[k] - centre[k] for k in range(3)
    ]
    radius2: NDArray[np.float32] = np.zeros([len(at) for at in samples], dtype=np.float32)
    for row in to_unit.astype(np.float32):
        along = [(weight * at).astype(np.float32) for weight, at in zip(row, samples, strict=True)]
        radius2 += (along[0][:, None, None] + along[1][:, None] + along[2]) ** 2
    cells = (radius2 <= 1).reshape(shape[0], parts[0], shape[1], parts[1], shape[2], parts[2])
    affine = np.eye(4)
    affine[:3, :3] = direction
    affine[:3, 3] = direction @ first
    return hd.Volume(cells.mean(axis=(1, 3, 5)) >= 0.5, affine, "PATIENT")


def ellipsoids(count: int, diameters_mm: tuple[float, float], seed: int) -> Iterator[Ellipsoid]:
    """Yield spheres, axis-aligned and rotated ellipsoids in turn, at random offsets."""
    random = np.random.default_rng(seed)
    for k in range(count):
        semi_axes_mm = np.full(3, random.uniform(*diameters_mm) / 2)
        axes = np.eye(3)
        if k % 3:
            semi_axes_mm *= [1, *random.uniform(0.5, 1, 2)]
            axes = np.eye(3)[random.permutation(3)]
        if k % 3 == 2:
            axes = np.linalg.qr(random.normal(size=(3, 3)))[0]
        yield Ellipsoid(random.uniform(-5, 5, 3), semi_axes_mm, axes)


def errors(
    orientation: str,
    spacing_mm: tuple[float, float, float],
    diameters_mm: tuple[float, float],
    count: int,
    seed: int = 0,
) -> Floats:
    """Return measured minus true, (n, 3): long axis in mm, short axis in mm, volume in % of the true one."""
    rows = []
    for ellipsoid in ellipsoids(count, diameters_mm, seed):
        mask = to_mask(ellipsoid, ORIENTATIONS[orientation], spacing_mm)
        if not mask.array.any():
            continue
        slices = [SliceReference(hd.UID()) for _ in range(mask.spatial_shape[0])]
        (lesion,) = measure(mask.astype(np.int32), slices)
        longest_mm, shortest_mm = ellipsoid.axial_section()[0]
        rows.append(
            (
                lesion.long_axis_mm - longest_mm,
                lesion.short_axis_mm - shortest_mm,
                100 * (lesion.volume_ml / ellipsoid.volume_ml - 1),
            )
        )
    return np.array(rows)


def table(count: int) -> Iterator[str]:
    """Yield the lines of the Markdown table: `bias / RMSE` of each quantity."""
    yield "| acquisition | spacing, mm | diameter, mm | n | long axis, mm | short axis, mm | volume, % |"
    yield "|---|---|---|---|---|---|---|"
    for orientation, spacing_mm in ACQUISITIONS:
        for low, high in DIAMETERS_MM:
            deviations = errors(orientation, spacing_mm, (low, high), count)
            bias, rmse = deviations.mean(axis=0), np.sqrt((deviations**2).mean(axis=0))
            cells = [f"{b:+.2f} / {r:.2f}" for b, r in zip(bias[:2], rmse[:2], strict=True)]
            cells.append(f"{bias[2]:+.1f} / {rmse[2]:.1f}")
            spacing = " x ".join(f"{value:g}" for value in spacing_mm)
            yield (
                f"| {orientation} | {spacing} | {low:g}-{high:g} | {len(deviations)} | {' | '.join(cells)} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="shapes per row of the table (120)")
    for line in table(parser.parse_args().count):
        print(line, flush=True)
