"""bench.real: files are paired by their names, only lesions count as truth, and the figures are right."""

import json
import subprocess
import sys

import cc3d
import nibabel as nib
import numpy as np
import pytest

from bench.real_cases import known_of, real_cases
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def ramp(shape=(12, 14, 10)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def boxes(values):
    """Return a label volume with a box of 4 x 4 x 4 voxels (768 mm3) of each value."""
    label = np.zeros((12, 14, 10), dtype=np.uint8)
    for number, value in enumerate(values):
        label[1:5, 1:5, 1:5] = value if number == 0 else label[1:5, 1:5, 1:5]
        if number == 1:
            label[7:11, 8:12, 5:9] = value
        if number == 2:
            label[7:11, 1:5, 5:9] = value
    return label


def found(folder):
    return {source.name: source.load() for source in real_cases(folder)}


@pytest.mark.parametrize(
    ("image", "label"),
    [("a", "a-label"), ("a_image", "a_label"), ("a_T1POST", "a_gt"), ("a_t1ce", "a_seg"), ("a", "a_mask")],
)
def test_an_image_and_its_label_are_paired_by_their_names(tmp_path, image, label):
    save(tmp_path / "deeper" / f"{image}.nii.gz", ramp())
    save(tmp_path / "deeper" / f"{label}.nii.gz", boxes([1, 1]))
    (case,) = found(tmp_path).values()
    assert case.truth.array.max() == 2
    assert (case.truth.array > 0).sum() == 2 * 64


def test_oedema_of_brats_and_strays_are_no_lesions_and_a_parcellation_is_the_brain(tmp_path):
    label = boxes([1, 2, 4])
    label[11, 13, 9] = 1  # 12 mm3: a lesion; by real.toml's default strays are below 10 mm3
    save(tmp_path / "b_T1.nii.gz", ramp())
    save(tmp_path / "b_seg.nii.gz", label)
    save(tmp_path / "b_DLMUSE.nii.gz", boxes([47, 101]))
    case = found(tmp_path)["b_T1"]
    assert (case.truth.array > 0).sum() == 2 * 64 + 1
    assert case.truth.array.max() == 3
    assert case.brain.array.sum() >= 2 * 64


def test_an_image_without_label_has_no_known_truth_unless_it_is_a_public_one(tmp_path):
    save(tmp_path / "c.nii.gz", ramp())
    save(tmp_path / "Subj4_T1.nii.gz", ramp())
    cases = found(tmp_path)
    assert cases["c"].truth is None
    assert not cases["Subj4_T1"].truth.array.any()
    assert not known_of("Subj4_T1").trained
    assert known_of("Subj14_T1").trained
    assert known_of("somebody_T1") == known_of("c")


def test_a_folder_in_a_known_layout_is_read_as_that(tmp_path):
    case = tmp_path / "glioma" / "BraTS-GLI-00001-000"
    for name in ("t1n", "t1c", "t2w", "t2f"):
        save(case / f"{case.name}-{name}.nii.gz", ramp())
    save(case / f"{case.name}-seg.nii.gz", boxes([1, 2, 3]))
    (name,) = (cases := found(tmp_path))
    assert name == f"glioma/{case.name}"
    assert (cases[name].truth.array > 0).sum() == 2 * 64


def test_the_report_counts_lesions_findings_and_volumes(tmp_path):
    options = HeadOptions(lesion_count=(3, 3), diameter_mm=(16.0, 24.0), pose=False)
    head = metastases.head(metastases.grid((90, 110, 90), (2.0, 2.0, 2.0)), 12, options)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ head.image.affine
    for name, array in (("x", head.image.array), ("x-label", (head.labels.array > 0).astype(np.uint8))):
        (tmp_path / "data").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "data" / f"{name}.nii.gz")
    (tmp_path / "data" / "broken.nii.gz").write_bytes(b"rubbish")
    command = [sys.executable, "-m", "bench.real", "--data", tmp_path / "data", "--out", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads((tmp_path / "out" / "real.json").read_text())
    broken, case = sorted(report["cases"], key=lambda entry: entry["name"])
    assert broken["refused"] == "unreadable_file"
    assert case["total"] == case["touched"] == cc3d.connected_components(head.labels.array > 0).max()
    true_ml = (head.labels.array > 0).sum() * 8 / 1000
    assert case["truth_ml"] == pytest.approx(true_ml)
    assert case["found_ml"] == pytest.approx(true_ml, rel=0.3)
    assert case["dice"] > 0.75
    assert 800 < case["brain_ml"] < 2400
    assert case["warnings"] == []
    assert report["totals"]["median_dice"]["value"] == case["dice"]
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 10_000
