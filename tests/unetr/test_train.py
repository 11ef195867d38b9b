"""Training: windows that hold what they should, a loss that minds false positives, a run that goes on."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from unetr import train

SIZE = 32


@pytest.fixture
def sample(tmp_path) -> train.Sample:
    """A head of 48 voxels a side, brain below 24 along the first axis, with value 1.

    In it a lesion, whose image value is 5, and a bright spot, 3, that is none; outside another lesion-like 5.
    """
    image = np.zeros((48, 48, 48), np.float16)
    labels = np.zeros(image.shape, np.uint8)
    labels[6:9, 30:33, 40:43] = 7
    brain = np.zeros(image.shape, bool)
    brain[:24] = True
    image[brain] = 1
    image[labels == 7] = 5
    image[12, 10, 8] = 3
    image[40:43, 20:23, 20:23] = 5
    np.savez(tmp_path / "1.npz", image=image, labels=labels, brain=brain)
    return train.load_sample(tmp_path / "1.npz")


def test_a_window_holds_the_lesions_truth_where_its_image_is(sample):
    rng = np.random.default_rng(1)
    windows = [train.patch(sample, SIZE, rng, augment=False) for _ in range(60)]
    for image, truth in windows:
        assert image.shape == truth.shape == (SIZE, SIZE, SIZE)
        assert np.array_equal(truth == train.LESION, (image == 5) & (truth != train.UNSOUGHT))
        assert (truth[image == 1] == train.BACKGROUND).all()
    with_lesion = sum((truth == train.LESION).any() for _, truth in windows)
    with_spot = sum((image == 3).any() for image, _ in windows)
    assert with_lesion > 25
    assert with_spot > 10


def test_no_lesion_is_sought_beyond_the_brain_and_its_margin(sample):
    rng = np.random.default_rng(4)
    edges = set()
    for _ in range(20):
        image, truth = train.patch(sample, SIZE, rng, augment=False)
        column = truth[:, 0, 0]
        brain = int((image[:, 0, 0] == 1).sum())
        assert (column[: brain + 3] == train.BACKGROUND).all()
        assert (column[brain + 3 :] == train.UNSOUGHT).all()
        edges.add(brain)
    assert len(edges) > 3


def test_flips_and_noise_leave_the_truth_on_the_lesion(sample):
    rng = np.random.default_rng(2)
    around_lesion = dataclasses.replace(sample, bright=sample.centres, anywhere=sample.centres)
    seen = 0
    for _ in range(20):
        image, truth = train.patch(around_lesion, SIZE, rng)
        if (truth == train.LESION).sum() > 20:
            seen += 1
            assert image[truth == train.LESION].mean() > 2
            assert image[truth == train.BACKGROUND].mean() < 2
    assert seen > 10


def test_the_whole_head_lies_in_the_brains_window_with_its_truth(sample):
    brain = train.load_spec(train.SPEC).brain
    image, truth = train.whole_head(sample, brain, np.random.default_rng(0), augment=False)
    assert image.shape == truth.shape == brain.window.shape
    assert truth.sum() == 8 * 16 * 16
    assert truth[:8, :16, :16].all()
    for seed in range(10):
        image, truth = train.whole_head(sample, brain, np.random.default_rng(seed))
        assert 100 < truth.sum() <= 8 * 16 * 16
        assert image[truth == 1].mean() > image[truth == 0].mean() + 0.5


def quiet() -> torch.Tensor:
    logits = torch.zeros(1, 2, SIZE, SIZE, SIZE)
    logits[:, 0] = 10.0
    return logits


def test_a_false_positive_costs_in_a_window_without_lesions():
    truth = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    wrong = quiet()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    loss = train.lesion_loss(wrong, truth)
    loss.backward()
    assert float(loss.detach()) > float(train.lesion_loss(quiet(), truth)) + 0.1
    assert float(wrong.grad[0, 1, 4, 4, 4]) > 0


def test_what_is_said_where_nothing_is_sought_costs_nothing():
    truth = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    truth[:, :, :8] = train.UNSOUGHT
    wrong = quiet()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    loss = train.lesion_loss(wrong, truth)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(train.lesion_loss(quiet(), truth)), abs=1e-6)
    assert float(wrong.grad[:, :, :8].abs().max()) == 0.0


def test_a_run_that_goes_on_ends_where_a_run_in_one_piece_ends(tmp_path: Path, monkeypatch):
    # A size, not a function: 32 windows at each of three validations would take most of a minute.
    monkeypatch.setattr(train, "VALIDATION_PATCHES", 2)
    heads = {}
    for number, first in [
        (i, seed) for seed in (train.TRAINING_SEED, train.VALIDATION_SEED) for i in range(8)
    ]:
        rng = np.random.default_rng(number)
        labels = np.zeros((66, 70, 64), np.uint8)
        labels[20:26, 30:36, 20 + number : 26 + number] = 1
        heads[first + number] = (rng.normal(labels * 2.0, 0.5).astype(np.float16), labels)
    for name in ("pieces", "whole"):
        (tmp_path / name).mkdir()
        for seed, (image, labels) in heads.items():
            np.savez(tmp_path / name / f"{seed}.npz", image=image, labels=labels, brain=image > -9)

    for steps in (1, 2):
        train.train(tmp_path / "pieces", steps, steps, heads=4)
    train.train(tmp_path / "whole", 2, 2, heads=4)

    for network in ("brain", "lesion"):
        pieces, whole = (
            torch.load(tmp_path / name / f"{network}.ckpt", weights_only=True) for name in ("pieces", "whole")
        )
        assert pieces["step"] == whole["step"] == 2
        for key, tensor in whole["network"].items():
            assert torch.equal(pieces["network"][key], tensor), key
        with (tmp_path / "pieces" / f"{network}.csv").open() as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
