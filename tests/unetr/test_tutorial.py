"""The learners' steps, each run as they run it."""

import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging import nifti
from unetr import tutorial
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions
from unetr.training.config import load_config

ROOT = Path(__file__).parents[2]


def test_check_says_of_every_shipped_model_that_its_weights_fit(capsys):
    tutorial.check([])
    stdout = capsys.readouterr().out
    for spec in (ROOT / "unetr" / "weights").glob("*.json"):
        assert f"Model {spec.stem} " in stdout
    assert "Everything works." in stdout


def test_pipeline_tells_the_models_spacing_and_draws_both_volumes(tmp_path, capsys):
    tutorial.pipeline(["--model", "metscope-compact", "--out", str(tmp_path)])
    stdout = capsys.readouterr().out
    assert "170 x 240 x 240 voxels of 1 x 1 x 1 mm" in stdout
    assert "voxels of 1.5 x 1.5 x 1.5 mm" in stdout
    assert (tmp_path / "pipeline.png").read_bytes().startswith(b"\x89PNG")


def test_build_counts_the_weights_and_passes_a_window_through(capsys):
    tutorial.build(["--config", "tiny"])
    stdout = capsys.readouterr().out
    channels = load_config("tiny").spec.network.arguments.channels
    assert channels == (8, 16, 24)
    assert "in (1, 1, 32, 32, 32)" in stdout
    assert "out (1, 2, 32, 32, 32)" in stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """infer, of a small head of which the truth is known."""
    folder = tmp_path_factory.mktemp("lesson")
    head = metastases.head(
        metastases.grid((60, 80, 66), (2.8, 2.6, 2.6)), 11, HeadOptions((3, 3), (20.0, 30.0))
    )
    nifti.write_values(head.image, folder / "head.nii.gz")
    with (folder / "stderr.txt").open("w") as stderr, redirect_stderr(stderr):
        tutorial.infer(["--image", str(folder / "head.nii.gz"), "--out", str(folder)])
    nifti.write_labels(head.labels, folder / tutorial.TRUTH)
    return folder


def test_infer_warns_that_the_file_proves_no_sequence(run):
    assert "warning: A NIfTI file does not say which sequence it is" in (run / "stderr.txt").read_text()


def test_infer_writes_what_it_found_on_the_images_grid(run):
    image, labels = (nib.load(run / name) for name in (tutorial.IMAGE, tutorial.FOUND))
    assert image.shape == labels.shape == (66, 80, 60)
    assert np.allclose(image.affine, labels.affine)
    assert np.asarray(labels.dataobj).max() >= 1


def test_visualize_draws_each_lesion_and_says_where_it_is(run, capsys):
    tutorial.visualize(["--run", str(run)])
    stdout = capsys.readouterr().out
    labels = np.asarray(nib.load(run / tutorial.FOUND).dataobj)
    for number in range(1, int(labels.max()) + 1):
        assert (run / f"lesion-{number}.png").exists()
        assert f"lesion-{number}.png" in stdout
    assert "Green: true." in stdout


def test_visualize_without_a_run_is_told_in_one_line(tmp_path):
    command = [sys.executable, "-m", "unetr", "visualize", "--run", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("unreadable_file: ")
    assert done.stderr.count("\n") == 1
