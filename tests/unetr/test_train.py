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
def sample() -> train.Sample:
    """A head of 48 voxels a side: a lesion, whose image value is 5, and a bright spot, 3, that is none.

    The brain is the lower half along the first axis, with value 1 but for the lesion.
    """
    image = np.zeros((48, 48, 48), np.float16)
    labels = np.zeros(image.shape, np.uint8)
    labels[6:9, 30:33, 40:43] = 7
    brain = np.zeros(image.shape, bool)
    brain[:24] = True
    image[brain] = 1
    image[labels == 7] = 5
    image[40, 10, 8] = 3
    return train.Sample(image, labels, brain, np.array([[7, 31, 41]]), np.array([[40, 10, 8]]))


def test_a_window_holds_the_lesions_truth_where_its_image_is(sample):
    rng = np.random.default_rng(1)
    windows = [train.patch(sample, SIZE, rng, augment=False) for _ in range(60)]
    for image, truth in windows:
        assert image.shape == truth.shape == (SIZE, SIZE, SIZE)
        assert np.array_equal(truth == train.LESION, image == 5)
        assert np.array_equal(truth == train.BRAIN, image == 1)
    with_lesion = sum((truth == train.LESION).any() for _, truth in windows)
    with_spot = sum((image == 3).any() for image, _ in windows)
    assert with_lesion > 25
    assert with_spot > 10


def test_flips_and_noise_leave_the_truth_on_the_lesion(sample):
    rng = np.random.default_rng(2)
    for _ in range(20):
        image, truth = train.patch(dataclasses.replace(sample, bright=sample.centres), SIZE, rng)
        if (truth == train.LESION).sum() > 20:
            means = [image[truth == kind].mean() for kind in (train.OUTSIDE, train.BRAIN, train.LESION)]
            assert means == sorted(means)
            assert means[2] > 2


def test_a_false_positive_costs_in_a_window_without_lesions():
    truth = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    quiet = torch.zeros(1, 3, SIZE, SIZE, SIZE)
    quiet[:, 0] = 10.0
    wrong = quiet.clone()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    loss = train.LOSS(wrong, truth)
    loss.backward()
    assert float(loss.detach()) > float(train.LOSS(quiet, truth)) + 0.1
    assert float(wrong.grad[0, 1, 4, 4, 4]) > 0


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
        train.train(tmp_path / "pieces", steps, heads=2)
    train.train(tmp_path / "whole", 2, heads=2)

    pieces, whole = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("pieces", "whole")
    )
    assert pieces["step"] == whole["step"] == 2
    for key, tensor in whole["network"].items():
        assert torch.equal(pieces["network"][key], tensor), key
    with (tmp_path / "pieces" / "curve.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
