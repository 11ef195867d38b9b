"""The data sheet: numbers that can be reckoned with, a page that needs nothing else."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests import labelled
from tests.labelled import CENTRE, ELSEWHERE, RADIUS_MM, affine_lps, sphere
from unetr.data.data_sheet import describe, picture
from unetr.data.datasets import cases
from unetr.data.explore import HEADS, SYNTHETIC_SEED, main
from unetr.synthesis import metastases

NAMES = ("BraTS-MET-00001-000", "BraTS-MET-00002-000", "BraTS-MET-00003-000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three cases: one lesion; two lesions of which one has oedema; no T2."""
    folder = tmp_path_factory.mktemp("data <set>")
    labelled.brats_2023(folder, NAMES)
    affine = affine_lps("RAS")
    label = 2 * sphere(affine, radius_mm=9.0).astype(np.uint8)
    label[sphere(affine)] = 3
    label[sphere(affine, ELSEWHERE, 4.0)] = 3
    labelled.save(label, affine, folder / NAMES[1] / f"{NAMES[1]}-seg.nii.gz")
    (folder / NAMES[2] / f"{NAMES[2]}-t2w.nii.gz").unlink()
    return folder


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "sheet"
    assert main([str(folder), "--layout", "brats", "--out", str(out), "--labels", "2=0", "3=1"]) == 0
    return out


def ball_ml(radius_mm: float) -> float:
    return 4 / 3 * np.pi * radius_mm**3 / 1000


def test_the_lesions_are_counted_measured_and_placed(out):
    first, second = json.loads((out / "cases.json").read_text())["cases"]
    assert [case["id"] for case in (first, second)] == list(NAMES[:2])
    (lesion,) = first["lesions"]
    assert lesion["volume_ml"] == pytest.approx(ball_ml(RADIUS_MM), rel=0.05)
    assert lesion["long_axis_mm"] == pytest.approx(2 * RADIUS_MM, abs=1.5)
    assert lesion["centroid_lps_mm"] == pytest.approx(CENTRE, abs=0.3)
    larger, smaller = second["lesions"]
    assert larger["centroid_lps_mm"] == pytest.approx(CENTRE, abs=0.3)
    assert smaller["centroid_lps_mm"] == pytest.approx(ELSEWHERE, abs=0.3)
    assert smaller["long_axis_mm"] == pytest.approx(8.0, abs=1.5)
    assert second["label_ml"]["1"] == pytest.approx(ball_ml(RADIUS_MM) + ball_ml(4.0), rel=0.06)


def test_shapes_spacings_orientation_and_intensities(out):
    case = json.loads((out / "cases.json").read_text())["cases"][0]
    assert case["shape"] == list(labelled.SHAPE[::-1])
    assert case["spacing_mm"] == pytest.approx(labelled.SPACING_MM[::-1])
    # The file's x grows to the right, y to the front, z to the head; slices are its z.
    assert case["orientation"] == "HAR"
    assert set(case["intensities"]) == {"T1", "T1 post-contrast", "T2", "FLAIR"}
    assert case["intensities"]["T2"][2] == pytest.approx(100.0, abs=1.0)


def test_the_table_has_a_row_for_every_case_good_or_bad(out):
    with (out / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(NAMES)
    assert [row["lesions"] for row in rows] == ["1", "2", ""]
    assert [bool(row["reason"]) for row in rows] == [False, False, True]
    assert float(rows[0]["largest_long_axis_mm"]) == pytest.approx(2 * RADIUS_MM, abs=1.5)


def test_the_page_needs_nothing_else_and_names_the_bad_case(out):
    page = (out / "data-sheet.html").read_text()
    assert re.findall(r"(?:src|href)=(?!\"data:image/png;base64,)", page) == []
    assert "<script" not in page
    assert page.count("data:image/png") == 4
    assert f"{NAMES[2]}-t2w.nii.gz" in page
    assert "data &lt;set&gt;" in page
    assert "3 lesions in 2 cases" in page


def test_the_picture_shows_the_patient_s_right_on_the_left_and_the_front_above(folder):
    figure = picture(next(cases(folder, "brats")))
    rows, columns = np.nonzero(figure.truth)
    middle = np.array(figure.truth.shape) / 2
    # The sphere is 10 mm to the left of the grid's centre and 15 mm in front of it.
    pixel_mm = np.array(figure.size_mm) / figure.truth.shape
    offset = (np.array([rows.mean(), columns.mean()]) + 0.5 - middle) * pixel_mm
    assert offset == pytest.approx([-15.0, 10.0], abs=0.7)
    assert figure.size_mm == pytest.approx([40 * 1.6, 36 * 1.8])


def test_what_is_done_is_said_in_words(folder, tmp_path, capsys):
    assert main([str(folder), "--layout", "brats", "--out", str(tmp_path), "--labels", "merge"]) == 0
    stdout = capsys.readouterr().out
    assert "2 cases can be used for training, 1 cannot" in stdout
    assert f"{NAMES[2]}: T2 is missing" in stdout
    assert str(tmp_path / "data-sheet.html") in stdout


def test_a_folder_without_a_good_case_has_a_sheet_too(folder, tmp_path):
    arguments = ["--out", str(tmp_path / "sheet"), "--sequences", "T2"]
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / NAMES[2]).symlink_to(folder / NAMES[2])
    assert main([str(bad), "--layout", "brats", *arguments]) == 0
    sheet = json.loads((tmp_path / "sheet" / "cases.json").read_text())
    assert sheet["cases"] == []
    assert len(sheet["bad_cases"]) == 1


def test_cases_in_which_nothing_is_labelled_are_flagged_and_described(folder, tmp_path, capsys):
    assert main([str(folder), "--layout", "brats", "--out", str(tmp_path), "--labels", "2=0", "3=0"]) == 0
    sheet = json.loads((tmp_path / "cases.json").read_text())
    assert [case["lesions"] for case in sheet["cases"]] == [[], []]
    assert len(sheet["bad_cases"]) == 1
    message = f"In 2 of 2 cases nothing is labelled: {NAMES[0]}, {NAMES[1]}."
    assert message in capsys.readouterr().out
    assert message in (tmp_path / "data-sheet.html").read_text()
    with (tmp_path / "cases.csv").open() as file:
        assert [row["largest_long_axis_mm"] for row in csv.DictReader(file)] == ["0.0", "0.0", ""]


def test_a_folder_of_another_layout_ends_with_one_line(folder, tmp_path, capsys):
    assert main([str(folder), "--layout", "msd", "--out", str(tmp_path / "sheet")]) == 3
    assert capsys.readouterr().err.startswith("data_refused: ")
    assert not (tmp_path / "sheet").exists()


@pytest.mark.parametrize(
    "arguments", [["--layout", "brats"], ["FOLDER"], ["FOLDER", "--layout", "brats", "--labels", "2:0"]]
)
def test_wrong_usage(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_without_arguments_synthetic_heads_are_described(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert "synthetic heads" in capsys.readouterr().out
    described = json.loads((tmp_path / "data-sheet" / "cases.json").read_text())["cases"]
    assert len(described) == len(HEADS)
    shape, spacing_mm, plane = HEADS[0]
    head = metastases.head(metastases.grid(shape, spacing_mm, plane), SYNTHETIC_SEED + 1)
    largest = max(head.lesions, key=lambda lesion: lesion.volume_ml)
    assert described[0]["lesions"][0]["centroid_lps_mm"] == pytest.approx(largest.centre_lps_mm, abs=3.0)
    labelled_ml = (head.labels.array > 0).sum() * np.prod(spacing_mm) / 1000
    assert sum(lesion["volume_ml"] for lesion in described[0]["lesions"]) == pytest.approx(labelled_ml)


def test_a_volume_below_zero_has_the_percentiles_of_its_head(tmp_path):
    """As of BraTS images that somebody z-scored before."""
    labelled.nnunet(tmp_path)
    affine = affine_lps("RAS")
    image = labelled.head(affine, sphere(affine)) - 500
    labelled.save(image, affine, tmp_path / "imagesTr" / "Case_001_0000.nii.gz")
    sheet = describe(next(cases(tmp_path, "nnunet")))
    inside = image[image > -500]
    assert sheet.intensities["T1 post-contrast"][0] == pytest.approx(np.percentile(inside, 1), abs=0.01)


def test_a_volume_of_nearly_one_value_has_percentiles(tmp_path):
    labelled.nnunet(tmp_path)
    image = np.full(labelled.SHAPE, 7.0, np.float32)
    image[0, 0, 0] = 0.0
    labelled.save(image, affine_lps("RAS"), tmp_path / "imagesTr" / "Case_001_0000.nii.gz")
    assert set(describe(next(cases(tmp_path, "nnunet"))).intensities["T1 post-contrast"]) == {7.0}
