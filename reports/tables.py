"""Lesions as a table that a spreadsheet opens."""

import csv
from collections.abc import Sequence
from pathlib import Path

from lesions.measure import Lesion
from schemas.results import LesionAnswer

COLUMNS = (
    "number", "name", "tracking_id", "volume_ml", "voxel_count", "long_axis_mm", "short_axis_mm", "feret_mm",
    "slices_spanned", "mean_probability", "confidence", "measurable", "measurable_reason",
)  # fmt: skip
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def save_csv(lesions: Sequence[Lesion], path: Path) -> None:
    """Write one row for each lesion, with a header row and the centroid in LPS mm in three columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "centroid_l_mm", "centroid_p_mm", "centroid_s_mm"])
        for lesion in lesions:
            row = LesionAnswer.of(lesion)
            cells = [getattr(row, column) for column in COLUMNS]
            writer.writerow([*map(_escape_formula, cells), *row.centroid_lps_mm])


def _escape_formula(cell: object) -> object:
    """Return the cell with an apostrophe before a text that a spreadsheet would run as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell
