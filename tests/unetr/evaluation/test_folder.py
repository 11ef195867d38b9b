"""Evaluation and operating point on folders of labelled studies: balls, and models with weights by hand.

At 1 mm the models' logit is 20 x (intensity / 1000 - 0.5): p 0.5 at 500, 0.98 at 700, nothing at 100.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from errors import DataRefused
from tests import labelled, several
from unetr.evaluation import evaluate, operating_point
from unetr.spec import load_spec

SIDE = 64
TISSUE = 100.0
# The edges of the balls, half-way up on the surface: wide, because the models look at every second voxel.
RAMP_MM = 8.0
# LPS mm.
FIRST, SECOND, THIRD = (-16.0, -16.0, -16.0), (16.0, 16.0, -16.0), (-16.0, 16.0, 16.0)


def affine() -> np.ndarray:
    """Index (x, y, z) of the files -> LPS mm: a cube of 64 mm about the origin, voxels of 1 mm, RAS."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, (SIDE - 1) / 2)
    return affine


def inside_mm(centre: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """How far each voxel lies inside of the ball's surface; negative outside."""
    index = np.stack([*np.indices((SIDE,) * 3), np.ones((SIDE,) * 3)])
    points = np.tensordot(affine()[:3], index, axes=1)
    return radius_mm - np.linalg.norm(points - np.array(centre)[:, None, None, None], axis=0)


def ball_ml(radius_mm: float) -> float:
    return 4.0 / 3.0 * math.pi * radius_mm**3 / 1000.0


def write_case(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    labelled.save(image.astype(np.float32), affine(), folder / "imagesTr" / f"{name}_0000.nii.gz")
    labelled.save(label.astype(np.uint8), affine(), folder / "labelsTr" / f"{name}.nii.gz")


def bright(*balls: tuple[tuple[float, float, float], float, float]) -> np.ndarray:
    """Tissue with balls of (centre, radius in mm, intensity)."""
    image = np.full((SIDE,) * 3, TISSUE)
    for centre, radius_mm, intensity in balls:
        share = np.clip(inside_mm(centre, radius_mm) / RAMP_MM + 0.5, 0.0, 1.0)
        image += share * (intensity - TISSUE)
    return image


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    labels = [several.label(1, "Metastasis", several.TUMOUR)]
    by_hand = {"title": "Bright", "inputs": ["T1 post-contrast"], "labels": labels}
    several.save_model(folder, {"id": "bright", **by_hand}, [([1.0], -0.5)])
    several.save_model(folder, {"id": "sensitive", **by_hand}, [([2.0], -0.5)])
    several.save_model(folder, several.GLIOMA, several.OF_GLIOMA)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    """One lesion found, one missed and one invented; one found; none; two cases that cannot be used."""
    folder = tmp_path / "Mustermann"
    none = np.zeros((SIDE,) * 3)
    large, faint, small = inside_mm(FIRST, 8.0) > 0, inside_mm(SECOND, 4.0) > 0, inside_mm(THIRD, 5.0) > 0
    write_case(
        folder, "mixed", bright((FIRST, 8.0, 900.0), (SECOND, 4.0, 300.0), (THIRD, 6.0, 900.0)), large | faint
    )
    write_case(folder, "found", bright((THIRD, 5.0, 900.0)), small)
    write_case(folder, "healthy", bright((FIRST, 12.0, 300.0)), none)
    write_case(folder, "odd", bright((THIRD, 5.0, 900.0)), 3 * small)
    write_case(folder, "unlabelled", bright(), none)
    (folder / "labelsTr" / "unlabelled.nii.gz").unlink()
    labelled.describe(folder, {
        "channel_names": {"0": "T1-Gd"}, "labels": {"background": 0, "metastasis": 1},
        "file_ending": ".nii.gz",
    })  # fmt: skip
    return folder


def options(model: Path, folder: Path, out: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--folder", str(folder), "--layout", "nnunet", "--out", str(out), *more]


def test_found_missed_and_invented_lesions_of_a_folder_are_counted_and_measured(
    models, folder, tmp_path, capsys
):
    out = tmp_path / "out"
    evaluate.main(options(models / "bright.json", folder, out))
    report = json.loads((out / "report.json").read_text())
    (kind, everything) = report["kinds"]
    assert (kind["name"], kind["heads"], kind["lesions"]) == ("nnunet", 3, 3)
    assert everything["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert everything["false_positives"]["value"] == pytest.approx(1 / 3)
    assert {row["name"]: (row["found"], row["lesions"]) for row in report["bins"]} == {
        "2-3 mm": (0, 0), "3-5 mm": (0, 0), "5-10 mm": (0, 1), "10 mm and more": (2, 2),
        "3 mm and more": (2, 3), "all": (2, 3),
    }  # fmt: skip
    assert (report["lesion_free"]["heads"], report["lesion_free"]["none_reported"]) == (1, 1)
    # Between every second voxel, a surface of radius 5 mm is cut by up to 0.2 mm.
    assert report["agreement"]["volume, % of the mean"]["bias"]["value"] == pytest.approx(0.0, abs=10.0)
    (stored,) = out.glob("bright-*/mixed-*.json")
    case = json.loads(stored.read_text())
    assert [(lesion["found"], lesion["volume_ml"]) for lesion in case["lesions"]] == [
        (True, pytest.approx(ball_ml(8.0), rel=0.03)), (False, pytest.approx(ball_ml(4.0), rel=0.06)),
    ]  # fmt: skip
    assert [(part["real"], part["volume_ml"]) for part in case["components"]] == [
        (True, pytest.approx(ball_ml(8.0), rel=0.05)), (False, pytest.approx(ball_ml(6.0), rel=0.05)),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "| nnunet | 3 |" in printed
    assert "2 cases cannot be used:\n  unlabelled: The label is missing" in printed


def test_the_report_says_what_the_cases_are_and_not_where_they_lie(models, folder, tmp_path):
    out = tmp_path / "out"
    evaluate.main(options(models / "bright.json", folder, out, "--labels", "1=1"))
    page, numbers = (out / "report.html").read_text(), (out / "report.json").read_text()
    assert "Evaluated on 3 labelled cases in the layout nnunet, labels 1=1 (2 more cannot be used" in page
    assert "false positives per case" in page
    for text in ("ynthetic", "seed 0", " head", str(tmp_path), "Mustermann"):
        assert text not in page
        assert text not in numbers
    rejected = {bad["id"]: bad["reason"] for bad in json.loads(numbers)["origin"]["rejected"]}
    assert rejected == {
        "unlabelled": "The label is missing: there is no labelsTr/unlabelled.nii.gz.",
        "odd": "odd.nii.gz: The label holds the value 3; the layout knows 1.",
    }
    for reason in rejected.values():
        assert reason in page
    drawn_ml = (inside_mm(SECOND, 4.0) > 0).sum() / 1000.0
    diameter_mm = 2.0 * (drawn_ml / ball_ml(1.0)) ** (1.0 / 3.0)
    assert f"missed: diameter {diameter_mm:.1f} mm; nnunet, mixed" in " ".join(page.split())


def test_a_label_that_was_corrected_is_scored_again(models, folder, tmp_path):
    out = tmp_path / "out"

    def lesions() -> int:
        evaluate.main(options(models / "bright.json", folder, out))
        return json.loads((out / "report.json").read_text())["bins"][-1]["lesions"]

    assert lesions() == 3
    mask = inside_mm(THIRD, 5.0) > 0
    labelled.save(mask.astype(np.uint8), affine(), folder / "labelsTr" / "healthy.nii.gz")
    assert lesions() == 4


@pytest.mark.parametrize(
    ("layout", "write", "more"),
    [
        ("nnunet", labelled.nnunet, ()),
        ("msd", labelled.msd, ("--labels", "3=1")),
        ("brats", labelled.brats_2021, ("--labels", "merge")),
        ("brats", labelled.brats_2023, ("--labels", "1=0", "2=0", "3=1")),
        ("dicom", labelled.dicom, ()),
    ],
)
def test_every_layout_can_be_evaluated(models, tmp_path, layout, write, more):
    """Each holds a ball of 7 mm, at 400."""
    write(tmp_path / "data")
    out = tmp_path / "out"
    evaluate.main(
        ["--model", str(models / "sensitive.json"), "--folder", str(tmp_path / "data"), "--layout", layout,
         "--out", str(out), *more]
    )  # fmt: skip
    (stored,) = out.glob("sensitive-*/*.json")
    case = json.loads(stored.read_text())
    (lesion,), (component,) = case["lesions"], case["components"]
    assert lesion["found"]
    assert component["real"]
    assert lesion["volume_ml"] == pytest.approx(ball_ml(labelled.RADIUS_MM), rel=0.05)
    assert component["volume_ml"] == pytest.approx(ball_ml(labelled.RADIUS_MM), rel=0.15)


def test_models_of_several_inputs_and_labels_are_scored_label_by_label(models, tmp_path, capsys):
    """The cyst that T1 and T2 show is not labelled, and the model does not take it for a tumour."""
    grid = several.grid(np.diag([-1.0, -1.0, 1.0])[:, ::-1], (2.0, 2.0, 2.0))
    necrosis, enhancing, oedema = (
        several.ball(grid, several.CENTRE, radius_mm) > 0.5
        for radius_mm in (several.NECROSIS_MM, several.ENHANCING_MM, several.OEDEMA_MM)
    )
    label = np.where(necrosis, 1, np.where(enhancing, 3, np.where(oedema, 2, 0))).astype(np.uint8)
    to_lps = grid.permute_spatial_axes((2, 1, 0)).affine
    name = "BraTS-GLI-00001-000"
    ends = {"FLAIR": "t2f", "T1": "t1n", "T1 post-contrast": "t1c", "T2": "t2w"}
    arrays = {end: several.tumour(sequence, grid).array for sequence, end in ends.items()} | {"seg": label}
    for end, array in arrays.items():
        labelled.save(array.transpose(2, 1, 0), to_lps, tmp_path / "data" / name / f"{name}-{end}.nii.gz")
    evaluate.main(
        ["--model", str(models / "glioma.json"), "--folder", str(tmp_path / "data"), "--layout", "brats",
         "--out", str(tmp_path / "out")]
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(region["name"], region["cases"]) for region in report["regions"]] == [
        ("NCR", 1), ("ED", 1), ("ET", 1),
    ]  # fmt: skip
    for region in report["regions"]:
        assert region["dice"]["value"] > 0.8
        assert region["hd95_mm"]["value"] < 2.5
    # All labels together are one lesion.
    assert [(row["found"], row["lesions"]) for row in report["bins"]][-1] == (1, 1)
    assert report["kinds"][-1]["false_positives"]["value"] == 0.0
    assert "| NCR | 1 |" in capsys.readouterr().out
    assert "<h2>By label</h2>" in (tmp_path / "out" / "report.html").read_text()


@pytest.fixture
def ramps(tmp_path) -> Path:
    """Two lesions, drawn where p exceeds 0.8, with highest p 0.953 and 0.858; unlabelled, one of 0.881."""
    image = bright((FIRST, 10.0, 650.0), (SECOND, 10.0, 590.0), (THIRD, 10.0, 600.0))
    label = (image > 500.0 + 50.0 * math.log(0.8 / 0.2)) & (inside_mm(THIRD, 16.0) < 0.0)
    folder = tmp_path / "ramps"
    write_case(folder, "one", image, label)
    labelled.describe(folder, {"channel_names": {"0": "T1-Gd"}, "labels": {"background": 0, "lesion": 1}})
    return folder


@pytest.mark.parametrize(("rate", "threshold"), [("0", 0.9), ("1", 0.8)])
def test_the_operating_point_is_the_one_that_can_be_derived(models, ramps, tmp_path, rate, threshold):
    """Volumes are right at 0.8; without a false positive only what is surer than 0.881 may count.

    All are larger than 10 mm at 0.8, so that no seed threshold drops one.
    """
    own = tmp_path / "models"
    own.mkdir()
    for path in models.glob("bright.*"):
        (own / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    operating_point.main(options(own / "bright.json", ramps, out, "--false-positives", rate))
    chosen = load_spec(own / "bright.json").postprocessing
    assert chosen.threshold == threshold
    assert chosen.seed_threshold is None
    (stored,) = out.glob("bright-*/one-*.json")
    case = json.loads(stored.read_text())
    # Without false positives the second lesion is lost.
    assert [lesion["found"] for lesion in case["lesions"]] == [True, rate == "1"]
    assert [part["real"] for part in case["components"]].count(False) == int(rate)


def test_without_lesions_there_is_no_operating_point_and_the_model_stays(models, folder, tmp_path):
    for name in ("mixed", "found"):
        (folder / "labelsTr" / f"{name}.nii.gz").unlink()
    before = (models / "bright.json").read_text()
    with pytest.raises(DataRefused, match="None of the 1 cases has a lesion of 3 mm or more"):
        operating_point.main(options(models / "bright.json", folder, tmp_path / "out"))
    assert (models / "bright.json").read_text() == before


@pytest.mark.parametrize("command", [evaluate.main, operating_point.main])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folder", "x"], "--folder and --layout belong together"),
        (["--layout", "msd"], "--folder and --layout belong together"),
        (["--folder", "x", "--layout", "martian"], "invalid choice: 'martian'"),
        (["--labels", "merge"], "--labels belongs to --folder"),
        (["--folder", "x", "--layout", "msd", "--labels", "1:2"], "--labels: "),
        (["--folder", "x", "--layout", "msd", "--labels", "1=256"], "--labels: label values are 0 to 255"),
        (["--folder", "x", "--layout", "msd", "--heads", "10"], "--heads chooses synthetic heads"),
        (["--folder", "x", "--layout", "msd", "--first-seed", "1"], "--first-seed chooses synthetic heads"),
    ],
)
def test_contradicting_options_are_refused_at_once(command, arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        command(["--model", "there-is-none", "--out", "out", *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_kinds_are_of_synthetic_heads_only(capsys):
    arguments = ["--folder", "x", "--layout", "msd", "--kinds", "ordinary", "--model", "m", "--out", "o"]
    with pytest.raises(SystemExit):
        evaluate.main(arguments)
    assert "--kinds chooses synthetic heads" in capsys.readouterr().err


@pytest.mark.parametrize("command", [evaluate.main, operating_point.main])
@pytest.mark.parametrize(
    ("model", "kept", "reason"),
    [
        ("bright", ("odd", "unlabelled"), "no case that can be used, as unlabelled: The label is missing"),
        ("bright", (), r"no case that can be used\."),
        ("glioma", ("found",), "There is no FLAIR among T1 post-contrast"),
    ],
)
def test_a_folder_without_a_usable_case_is_refused(command, model, kept, reason, models, folder):
    for path in folder.glob("*Tr/*.nii.gz"):
        if not path.name.startswith(kept):
            path.unlink()
    with pytest.raises(DataRefused, match=reason):
        command(options(models / f"{model}.json", folder, folder / "out"))
    assert not (folder / "out").exists()


def test_a_label_that_the_model_does_not_have_is_named(models, tmp_path):
    labelled.msd(tmp_path / "data")
    with pytest.raises(DataRefused, match=r"BRATS_001: The label holds the value 3; bright has 1 to 1"):
        evaluate.main(
            ["--model", str(models / "bright.json"), "--folder", str(tmp_path / "data"), "--layout", "msd",
             "--out", str(tmp_path / "out")]
        )  # fmt: skip
