"""Training: windows that hold what they should, a loss that minds false positives, a run that goes on."""

import csv
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
import yaml

from errors import ModelSpecInvalid, WeightsInvalid
from unetr import config, export, samples, train
from unetr.__main__ import STEPS
from unetr.kinds import TRAINING_SEED, VALIDATION_SEED
from unetr.predict import Predictor
from unetr.spec import load_spec

ROOT = Path(__file__).parents[2]
SIZE = 32
EXPONENT = 0.5
SHIPPED = config.load_config("metscope-unet")


def stored(folder: Path, image, lesions, brain, spec=SHIPPED.spec) -> samples.Sample:
    folder.mkdir(parents=True)
    volume = hd.Volume(image.astype(np.float32), np.diag([*spec.spacing_mm, 1.0]), "PATIENT")
    for name, array in samples.arrays(volume, lesions, brain, spec).items():
        np.save(folder / f"{name}.npy", array)
    return samples.load(folder)


@pytest.fixture
def sample(tmp_path) -> samples.Sample:
    """A head of 48 voxels a side, brain below 24 along the first axis, with value 1.

    In it a lesion, whose image value is 5, and a bright spot, 3, that is none; outside another lesion-like 5.
    """
    image = np.zeros((48, 48, 48))
    lesions = np.zeros(image.shape, np.uint8)
    lesions[6:9, 30:33, 40:43] = 7
    brain = np.zeros(image.shape, bool)
    brain[:24] = True
    image[brain] = 1
    image[lesions == 7] = 5
    image[12, 10, 8] = 3
    image[40:43, 20:23, 20:23] = 5
    return stored(tmp_path / "head", image, lesions, brain)


def window(sample: samples.Sample, rng: np.random.Generator, augment: bool = False) -> samples.Window:
    return samples.lesion_window(sample, SIZE, EXPONENT, rng, augment)


def test_a_window_holds_the_lesions_truth_where_its_image_is(sample):
    rng = np.random.default_rng(1)
    windows = [window(sample, rng) for _ in range(60)]
    for w in windows:
        assert w.image.shape == w.truth.shape == w.weight.shape == (SIZE, SIZE, SIZE)
        assert np.array_equal(w.truth == 1, (w.image == 5) & (w.truth != samples.UNSOUGHT))
        assert (w.truth[w.image == 1] == 0).all()
    assert sum((w.truth == 1).any() for w in windows) > 25
    assert sum((w.image == 3).any() for w in windows) > 10


def test_no_lesion_is_sought_beyond_the_brain_and_its_margin(sample):
    rng = np.random.default_rng(4)
    edges = set()
    for _ in range(20):
        w = window(sample, rng)
        column = w.truth[:, 0, 0]
        brain = int((w.image[:, 0, 0] == 1).sum())
        assert (column[: brain + 3] == 0).all()
        assert (column[brain + 3 :] == samples.UNSOUGHT).all()
        edges.add(brain)
    assert len(edges) > 3


def test_flips_and_noise_leave_the_truth_on_the_lesion(sample):
    rng = np.random.default_rng(2)
    around_lesion = dataclasses.replace(sample, bright=sample.centres, anywhere=sample.centres)
    seen = 0
    for _ in range(20):
        w = window(around_lesion, rng, augment=True)
        if (w.truth == 1).sum() > 20:
            seen += 1
            assert w.image[w.truth == 1].mean() > 2
            assert w.image[w.truth == 0].mean() < 2
    assert seen > 10


def test_a_small_lesion_is_seen_and_counts_more_than_a_large_one(tmp_path):
    lesions = np.zeros((96, 40, 40), np.uint8)
    lesions[10:12, 18:20, 18:20] = 1  # 8 voxels
    lesions[70:78, 16:24, 16:24] = 2  # 512 voxels: 64 times as many, so an eighth of the weight
    image = np.where(lesions == 1, 5.0, np.where(lesions == 2, 9.0, 1.0))
    head = stored(tmp_path / "head", image, lesions, np.ones(lesions.shape, bool))
    rng = np.random.default_rng(3)
    seen = {5.0: 0, 9.0: 0}
    for _ in range(150):
        w = window(head, rng)
        for value in seen:
            seen[value] += bool((w.image == value).any())
        assert (w.weight[w.image == 1] == 1).all()
        if (w.image == 5).any() and (w.image == 9).any():
            pytest.fail("a window of 32 voxels holds both")
        if (w.image == 9).any():
            assert set(w.weight[w.image == 9]) == {
                np.float32((512 * 1.125**3 / samples.REFERENCE_MM3) ** -EXPONENT)
            }
    assert seen[5.0] > 2 * seen[9.0] > 0


def test_the_whole_head_lies_in_the_brains_window_with_its_truth(tmp_path):
    brain = SHIPPED.spec.brain.model_copy(update={"factor": 2})
    mask = np.zeros((48, 48, 48), bool)
    mask[:24] = True
    spec = SHIPPED.spec.model_copy(update={"brain": brain})
    head = stored(tmp_path / "head", mask * 1.0, np.zeros(mask.shape, np.uint8), mask, spec)
    w = samples.brain_window(head, brain, np.random.default_rng(0), augment=False)
    assert w.image.shape == w.truth.shape == brain.window.shape
    assert w.truth.sum() == 12 * 24 * 24
    assert w.truth[:12, :24, :24].all()
    for seed in range(10):
        w = samples.brain_window(head, brain, np.random.default_rng(seed), augment=True)
        assert 500 < w.truth.sum() <= 12 * 24 * 24
        assert w.image[w.truth == 1].mean() > w.image[w.truth == 0].mean() + 0.5


COURSE = SHIPPED.courses[-1]


def quiet() -> torch.Tensor:
    logits = torch.zeros(1, 2, SIZE, SIZE, SIZE)
    logits[:, 0] = 10.0
    return logits


def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return train.loss(logits, truth, torch.ones(truth.shape) if weight is None else weight, COURSE)


def test_a_false_positive_costs_in_a_window_without_lesions():
    truth = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    wrong = quiet()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    value = loss(wrong, truth)
    value.backward()
    assert float(value.detach()) > float(loss(quiet(), truth)) + 0.1
    assert float(wrong.grad[0, 1, 4, 4, 4]) > 0


def test_what_is_said_where_nothing_is_sought_costs_nothing():
    truth = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    truth[:, :8] = samples.UNSOUGHT
    wrong = quiet()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    value = loss(wrong, truth)
    value.backward()
    assert float(value.detach()) == pytest.approx(float(loss(quiet(), truth)), abs=1e-3)
    assert float(wrong.grad[:, :, :8].abs().max()) == 0.0


def test_a_missed_lesion_costs_by_its_weight():
    truth = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    truth[:, 3:6, 3:6, 3:6] = 1
    light, heavy = torch.ones(truth.shape), torch.ones(truth.shape)
    heavy[truth == 1] = 3.0
    none = float(loss(quiet(), torch.zeros_like(truth)))
    assert float(loss(quiet(), truth, heavy)) > 2 * float(loss(quiet(), truth, light)) - none > none


TINY = {
    "spec": {
        **config.load_config("tiny").spec.model_dump(mode="json", exclude={"weights", "brain"}),
        "id": "trial",
        "spacing_mm": [6.0, 6.0, 6.0],
        "window": {"shape": [16, 16, 16], "overlap": 0.25},
    },
    "heads": {"training": 3, "validation": 1},
    "courses": [{"network": "lesion", "steps": 60, "batch": 2, "learning_rate": 0.002, "warm_up": 5}],
    "validate_every": 15,
    "windows": 2,
}


@pytest.fixture
def trial(tmp_path) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def with_heads(out: Path, spec) -> Path:
    for number, seed in enumerate([*range(TRAINING_SEED, TRAINING_SEED + 3), VALIDATION_SEED]):
        lesions = np.zeros((32, 30, 28), np.uint8)
        lesions[10:13, 12:15, 8 + number : 12 + number] = 1
        image = np.random.default_rng(number).normal(lesions * 2.0, 0.5)
        stored(samples.path_of(out / "heads", seed, spec), image, lesions, np.ones(lesions.shape, bool), spec)
    return out


def running(trial: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "unetr", "train", "--config", str(trial), "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT)


def curve(out: Path) -> list[dict[str, str]]:
    with (out / "lesion.csv").open() as file:
        return [{k: row[k] for k in row if k != "seconds"} for row in csv.DictReader(file)]


def test_a_training_that_was_killed_ends_where_an_unbroken_one_ends_and_the_service_can_use_it(
    tmp_path, trial
):
    spec = config.load_config(str(trial)).spec
    killed, whole = (with_heads(tmp_path / name, spec) for name in ("killed", "whole"))
    process = running(trial, killed)
    deadline = time.monotonic() + 120
    while not (killed / "lesion" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = torch.load(killed / "lesion" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < 60
    assert running(trial, killed).wait() == 0
    assert running(trial, whole).wait() == 0

    ends = [torch.load(out / "lesion" / "last.ckpt", weights_only=True) for out in (killed, whole)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 60
    for key, tensor in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][key], tensor), key
    assert curve(killed)[-1] == curve(whole)[-1]
    assert {row["step"] for row in curve(killed)} == {"15", "30", "45", "60"}

    exported = export.export(config.load_config(str(trial)), whole, tmp_path / "models")
    again = load_spec(tmp_path / "models" / "trial.json")
    assert again.weights == exported.weights
    noise = np.random.default_rng(0).normal(size=(32, 30, 28))
    volume = hd.Volume(noise, np.diag([-6.0, -6.0, 6.0, 1.0]), "PATIENT")
    assert Predictor.load(again)(volume).mask.spatial_shape == (32, 30, 28)
    golden = np.load(tmp_path / "models" / "trial.golden.npy")
    assert np.abs(export.golden(again) - golden).max() < 1e-4
    assert exported.weights.sha256 in (tmp_path / "models" / "trial.md").read_text()


def test_a_run_without_a_checkpoint_exports_nothing(tmp_path, trial):
    with pytest.raises(WeightsInvalid, match=r"no lesion/best.ckpt"):
        export.export(config.load_config(str(trial)), tmp_path, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"courses": []}, "courses"),
        ({"step": 3}, "step"),
        ({"courses": [{**TINY["courses"][0], "network": "brain"}]}, "spec.brain is missing"),
        ({"spec": {**TINY["spec"], "window": {"shape": [18, 16, 16], "overlap": 0}}}, "no multiple of 8"),
    ],
)
def test_a_wrong_configuration_is_refused_by_file_and_field(trial, change, told):
    trial.write_text(yaml.safe_dump({**TINY, **change}))
    with pytest.raises(ModelSpecInvalid, match=told) as refused:
        config.load_config(str(trial))
    assert "trial.yaml" in refused.value.message


def test_an_unknown_configuration_or_step_is_told_in_one_line(tmp_path):
    def said(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "unetr", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    status, line = said("train", "--config", "none-of-that-name", "--out", str(tmp_path / "run"))
    assert status == 5
    assert line.startswith("model_spec_invalid: ")
    assert "metscope-compact, metscope-unet, tiny" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert said("dance") == (2, f"usage: python -m unetr {{{'|'.join(STEPS)}}} …\n")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "unetr" / "weights").glob("*.json")), ids=lambda path: path.stem
)
def test_a_shipped_model_is_what_its_configuration_describes(path):
    chosen_later = {"weights", "postprocessing", "confidence"}
    shipped, described = load_spec(path), config.load_config(path.stem).spec
    assert shipped.model_dump(exclude=chosen_later) == described.model_dump(exclude=chosen_later)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "unetr" / "weights").glob("*.golden.npy")), ids=lambda p: p.name
)
def test_a_shipped_network_says_what_it_said_when_it_was_exported(path):
    spec = load_spec(path.with_name(path.name.replace(".golden.npy", ".json")))
    assert np.abs(export.golden(spec) - np.load(path)).max() < 1e-3
