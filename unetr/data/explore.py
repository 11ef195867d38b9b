"""A data sheet of labelled studies, to inspect them before training.

    python -m unetr explore                                   a few synthetic heads, to see what it does
    python -m unetr explore FOLDER --layout msd --out SHEET   also nnunet, brats, dicom (docs/training.md)

SHEET receives data-sheet.html, a self-contained page with tables and figures; cases.csv, with a row for each
case; cases.json, with everything, including each lesion. Unusable cases are listed with the reason.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import MetScopeError
from imaging.sequences import T1_POST_CONTRAST
from unetr.data.data_sheet import PERCENTILES, Picture, Sheet, describe, findings, picture
from unetr.data.datasets import LAYOUTS, Case, RejectedCase, cases
from unetr.data.explore_page import PICTURES, page
from unetr.data.options import add_labels_option, label_values
from unetr.synthesis import metastases

SYNTHETIC = "synthetic"
# Acquisitions of several protocols: shape, spacing in mm, plane.
HEADS = (
    ((88, 104, 88), (2.0, 2.0, 2.0), "axial"),
    ((76, 88, 104), (2.2, 2.0, 2.0), "sagittal"),
    ((44, 104, 88), (4.0, 2.0, 2.0), "axial"),
)
SYNTHETIC_SEED = 4_000_000
FIELDS = (
    "id", "reason", "slices", "rows", "columns", "spacing_mm", "orientation", "sequences", "lesions",
    "largest_long_axis_mm", "labelled_ml",
)  # fmt: skip


def explore(
    studies: Iterable[Case | RejectedCase], out: Path, title: str
) -> tuple[list[Sheet], list[RejectedCase]]:
    """Read every case once, write the sheet into the folder ``out``, return the good and the bad cases."""
    sheets: list[Sheet] = []
    bad: list[RejectedCase] = []
    pictures: list[Picture] = []
    for case in tqdm(studies, unit=" cases", disable=None, leave=False):
        if isinstance(case, RejectedCase):
            bad.append(case)
            continue
        sheets.append(describe(case))
        if len(pictures) < PICTURES:
            pictures.append(picture(case))
    out.mkdir(parents=True, exist_ok=True)
    everything = {
        "percentiles": PERCENTILES,
        "cases": [asdict(sheet) for sheet in sheets],
        "bad_cases": [asdict(case) for case in bad],
    }
    (out / "cases.json").write_text(json.dumps(everything, indent=1), encoding="utf-8")
    _write_csv(sheets, bad, out / "cases.csv")
    (out / "data-sheet.html").write_text(page(title, sheets, bad, pictures), encoding="utf-8")
    return sheets, bad


def synthetic() -> Iterator[Case]:
    """Yield a few synthetic heads (unetr/synthesis); every lesion has the value 1."""
    for number, (shape, spacing_mm, plane) in enumerate(HEADS, start=1):
        head = metastases.head(metastases.grid(shape, spacing_mm, plane), SYNTHETIC_SEED + number)
        truth = head.labels.with_array((head.labels.array > 0).astype(np.uint8))
        yield Case(f"synthetic-{number}-{plane}", {T1_POST_CONTRAST: head.image}, truth)


def _write_csv(sheets: Sequence[Sheet], bad: Sequence[RejectedCase], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for sheet in sheets:
            writer.writerow({
                "id": sheet.id,
                **dict(zip(("slices", "rows", "columns"), sheet.shape, strict=True)),
                "spacing_mm": " x ".join(f"{mm:g}" for mm in sheet.spacing_mm),
                "orientation": sheet.orientation,
                "sequences": ", ".join(sheet.intensities),
                "lesions": len(sheet.lesions),
                "largest_long_axis_mm": max((lesion.long_axis_mm for lesion in sheet.lesions), default=0.0),
                "labelled_ml": round(sum(sheet.label_ml.values()), 6),
            })  # fmt: skip
        writer.writerows(asdict(case) for case in bad)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, return the exit code: 0 done, even with bad cases; 2 usage; 3 another layout."""
    parser = argparse.ArgumentParser(
        prog="python -m unetr explore", description="Make a data sheet of labelled studies."
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="without it, synthetic heads")
    parser.add_argument("--layout", choices=[*LAYOUTS, SYNTHETIC], default=SYNTHETIC)
    parser.add_argument("--out", type=Path, default=Path("data-sheet"), metavar="SHEET", help="a folder")
    add_labels_option(parser)
    parser.add_argument("--sequences", nargs="+", metavar="NAME", help='only these, e.g. "T1 post-contrast"')
    options = parser.parse_args(arguments)
    if (options.folder is None) != (options.layout == SYNTHETIC):
        parser.error("FOLDER and --layout belong together")
    if options.folder is None:
        print("No folder is given. MetScope creates a few synthetic heads with exact labels.")
        studies: Iterable[Case | RejectedCase] = synthetic()
    else:
        print(f"Reading {options.folder} case by case in the layout {options.layout}.")
        try:
            studies = cases(options.folder, options.layout, label_values(options.labels), options.sequences)
        except ValueError as error:
            parser.error(f"--labels: {error}")
    return _run(studies, options.out, options.folder.resolve().name if options.folder else "synthetic heads")


def _run(studies: Iterable[Case | RejectedCase], out: Path, title: str) -> int:
    try:
        sheets, bad = explore(studies, out, title)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    print(f"\n{len(sheets)} cases can be used for training, {len(bad)} cannot{':' if bad else '.'}")
    for case in bad:
        print(f"  {case.id}: {case.reason}")
    for sentence in findings(sheets) if sheets else ():
        print(f"- {sentence}")
    print(f"\nThe page with the figures: {out / 'data-sheet.html'}")
    print(f"The tables: {out / 'cases.csv'}, {out / 'cases.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
