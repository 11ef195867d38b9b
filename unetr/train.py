"""Train the compact default model on synthetic heads: one straight script, resumable.

    python -m unetr.train --out FOLDER [--steps 3600] [--brain-steps 600] [--heads 200]

First the small network that finds the brain, then the one that finds lesions in it. FOLDER takes the
prepared heads (made once), a checkpoint every few minutes and the learning curve as CSV, for each.
Run it again to go on where it stopped; --export writes the half-precision weights beside the spec.
Arrays are (x, y, z) in the spec's orientation; patches are (batch, channel, x, y, z).
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from numpy.typing import NDArray
from scipy import ndimage

from errors import ModelSpecInvalid
from unetr import synth
from unetr.brain import pooled
from unetr.network import build, save_weights
from unetr.preprocess import prepare, resample_labels
from unetr.spec import Brain, ModelSpec, load_spec

SPEC = Path(__file__).parent / "weights" / "metscope-compact.json"
ACQUISITIONS = (  # shape (slices, rows, columns), spacing mm, plane, share of the heads
    ((128, 148, 124), (1.5, 1.5, 1.5), "axial", 0.25),
    ((152, 184, 152), (1.2, 1.2, 1.2), "sagittal", 0.2),
    ((180, 224, 192), (1.0, 1.0, 1.0), "axial", 0.25),
    ((60, 200, 170), (3.0, 1.1, 1.1), "axial", 0.15),
    ((72, 176, 168), (2.5, 1.0, 1.1), "coronal", 0.15),
)
TRAINING_SEED = 1_000_000
VALIDATION_SEED = 2_000_000
VALIDATION_PATCHES = 32
# Without smoothing the Dice of windows without a lesion has no gradient: false positives would cost nothing.
SMOOTH_VOXELS = 100.0
BRIGHT = 1.5
LESION_SHARE = 0.5
BRIGHT_SHARE = 0.25
WARM_UP_STEPS = 60
CHECKPOINT_EVERY_S = 180.0
VALIDATE_EVERY = 200
# Voxels around the brain in which the network still has to tell what is no lesion; beyond, none is sought.
SOUGHT_MARGIN = 3
BACKGROUND, LESION, UNSOUGHT = 0, 1, 2
# On the brain's grid: how far a head is moved, cut where it leaves the window; how much of its lower end may
# be missing.
SHIFT = 6
MISSING_SHARE = 0.35

# Dice over the whole batch, and a cross-entropy that is heavy because lesions are few voxels.
LOSS = DiceCELoss(
    include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=SMOOTH_VOXELS,
    smooth_dr=SMOOTH_VOXELS, lambda_ce=5.0, weight=torch.tensor([1.0, 4.0]),
)  # fmt: skip
BRAIN_LOSS = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
Array = NDArray[np.float32]
Example = tuple[Array, Array]


@dataclass(frozen=True)
class Sample:
    """One head as the network sees it: image float16, labels uint8 lesion numbers, masks, all (x, y, z).

    sought: the brain and a margin. centres: (n, 3) voxels, the lesions' centres. bright: (n, 3) voxels of
    sought that are brighter than most of the head and no lesion: vessels, dura. anywhere: (n, 3) of sought.
    """

    image: NDArray[np.float16]
    labels: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    sought: NDArray[np.bool_]
    centres: NDArray[np.int64]
    bright: NDArray[np.int64]
    anywhere: NDArray[np.int64]


def make_head(folder: Path, seed: int) -> Path:
    """The head of that seed after the very preprocessing of inference, made unless it is there already."""
    path = folder / f"{seed}.npz"
    if path.exists():
        return path
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    shape, spacing, plane, _ = ACQUISITIONS[rng.choice(len(ACQUISITIONS), p=[a[3] for a in ACQUISITIONS])]
    options = synth.HeadOptions(
        lesion_count=(0, 0) if rng.random() < 0.08 else (2, 14), skull=bool(rng.random() < 0.85)
    )
    head = synth.head(synth.grid(shape, spacing, plane), seed, options)
    prepared = prepare(head.image, load_spec(SPEC))
    unfinished = path.with_suffix(".part.npz")
    np.savez(
        unfinished,
        image=prepared.volume.array.astype(np.float16),
        labels=resample_labels(head.labels, prepared).array.astype(np.uint8),
        brain=resample_labels(head.brain, prepared).array > 0,
    )
    unfinished.rename(path)
    return path


def load_sample(path: Path) -> Sample:
    """A head that ``make_head`` made."""
    with np.load(path) as stored:
        image, labels, brain = stored["image"], stored["labels"], stored["brain"]
    sought = ndimage.binary_dilation(brain, iterations=SOUGHT_MARGIN)
    centres = ndimage.center_of_mass(labels > 0, labels, [n for n in np.unique(labels) if n])
    bright = np.argwhere((image > BRIGHT) & (labels == 0) & sought)
    anywhere = np.argwhere(sought)
    return Sample(
        image=image,
        labels=labels,
        brain=brain,
        sought=sought,
        centres=np.rint(centres).astype(np.int64).reshape(-1, 3),
        bright=bright[:: max(len(bright) // 4000, 1)].copy(),
        anywhere=anywhere[:: max(len(anywhere) // 4000, 1)].copy(),
    )


def patch(sample: Sample, size: int, rng: np.random.Generator, augment: bool = True) -> Example:
    """A window (x, y, z) about a lesion, about something bright that is none, or anywhere in the brain.

    Returns the image and the truth: BACKGROUND, LESION or UNSOUGHT.
    """
    kind = rng.random()
    around = sample.anywhere
    if kind < LESION_SHARE and len(sample.centres):
        around = sample.centres
    elif kind < LESION_SHARE + BRIGHT_SHARE and len(sample.bright):
        around = sample.bright
    shape = np.array(sample.image.shape)
    first = around[rng.integers(len(around))] - size // 2 + rng.integers(-size // 3, size // 3 + 1, 3)
    first = np.clip(first, np.minimum(0, shape - size), np.maximum(shape - size, 0))
    image, labels, sought = (
        _cut(array, first, size) for array in (sample.image, sample.labels, sample.sought)
    )
    truth = np.where(labels > 0, LESION, np.where(sought > 0, BACKGROUND, UNSOUGHT)).astype(np.float32)
    if augment:
        for axis in range(3):
            if rng.random() < 0.5:
                image, truth = np.flip(image, axis), np.flip(truth, axis)
        image = _varied(image, rng)
    return np.ascontiguousarray(image, dtype=np.float32), np.ascontiguousarray(truth)


def whole_head(sample: Sample, brain: Brain, rng: np.random.Generator, augment: bool = True) -> Example:
    """A head on the brain's grid, in one window of it, and the brain (0 or 1)."""
    image, truth = sample.image.astype(np.float32), sample.brain.astype(np.float32)
    if augment:
        if rng.random() < 0.5:
            missing = int(rng.uniform(0.0, MISSING_SHARE) * image.shape[2])
            image, truth = image[:, :, missing:], truth[:, :, missing:]
        if rng.random() < 0.5:
            image, truth = image[::-1], truth[::-1]
        image = _varied(image, rng)
    image, truth = pooled(image, brain.factor), pooled(truth, brain.factor)
    first = rng.integers(-SHIFT, SHIFT + 1, 3) if augment else np.zeros(3, np.int64)
    size = brain.window.shape[0]
    return _cut(image, first, size), np.rint(_cut(truth, first, size))


def _varied(image: Array, rng: np.random.Generator) -> Array:
    """Another contrast, sharpness and noise."""
    image = image * rng.uniform(0.85, 1.15) + rng.uniform(-0.15, 0.15)
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, rng.uniform(0.0, 0.8, 3))
    return np.asarray(image + rng.normal(0.0, rng.uniform(0.0, 0.15), image.shape), dtype=np.float32)


def _cut(array: NDArray[Any], first: NDArray[np.int64], size: int) -> Array:
    inside = tuple(slice(max(int(start), 0), int(start) + size) for start in first)
    cut = array[inside].astype(np.float32)
    before = np.maximum(-first, 0)
    after = size - before - cut.shape
    lowest = float(array.min())
    return np.pad(cut, list(zip(before, after, strict=True)), constant_values=lowest)


def lesion_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The loss where lesions are sought; elsewhere the network may say what it likes.

    The mean of the cross-entropy is over all voxels: windows that reach beyond the brain count less.
    """
    unsought = truth == UNSOUGHT
    surely_none = logits.new_tensor([10.0, -10.0]).view(1, 2, 1, 1, 1)
    loss: torch.Tensor = LOSS(
        torch.where(unsought, surely_none, logits), truth.masked_fill(unsought, BACKGROUND)
    )
    return loss


@dataclass(frozen=True)
class Course:
    """How one network is trained. window: makes one window of a head, augmented or not."""

    name: str
    network: torch.nn.Module
    window: Callable[[Sample, np.random.Generator, bool], Example]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    peak_learning_rate: float
    batch: int
    steps: int

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to a hundredth of the peak."""
        if step < WARM_UP_STEPS:
            return self.peak_learning_rate * (step + 1) / WARM_UP_STEPS
        done = min((step - WARM_UP_STEPS) / max(self.steps - WARM_UP_STEPS, 1), 1.0)
        return self.peak_learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


def _shipped() -> tuple[ModelSpec, Brain]:
    spec = load_spec(SPEC)
    if spec.brain is None:
        raise ModelSpecInvalid(f"{SPEC.name} names no network that finds the brain.")
    return spec, spec.brain


def train(out: Path, steps: int, brain_steps: int, heads: int) -> None:
    """Make the heads, then train both networks from their last checkpoints to that many optimiser steps."""
    spec, brain = _shipped()
    with get_context("spawn").Pool(2) as pool:
        training = pool.starmap(make_head, [(out, TRAINING_SEED + i) for i in range(heads)], chunksize=1)
        validation = pool.starmap(make_head, [(out, VALIDATION_SEED + i) for i in range(8)], chunksize=1)
    samples = [load_sample(path) for path in training]
    held_out = [load_sample(path) for path in validation]

    def head(sample: Sample, rng: np.random.Generator, augment: bool) -> Example:
        return whole_head(sample, brain, rng, augment)

    def part(sample: Sample, rng: np.random.Generator, augment: bool) -> Example:
        return patch(sample, spec.window.shape[0], rng, augment)

    for name, window, loss, rate, batch, last in (
        ("brain", head, BRAIN_LOSS, 2e-3, 4, brain_steps),
        ("lesion", part, lesion_loss, 8e-4, 2, steps),
    ):
        torch.manual_seed(TRAINING_SEED)
        _fit(Course(name, build(spec)[name], window, loss, rate, batch, last), out, samples, held_out)


def _fit(course: Course, out: Path, samples: list[Sample], held_out: list[Sample]) -> None:
    network = course.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=course.peak_learning_rate, weight_decay=1e-4)
    checkpoint = out / f"{course.name}.ckpt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    rng = np.random.default_rng(VALIDATION_SEED)
    validation = [course.window(held_out[i % len(held_out)], rng, False) for i in range(VALIDATION_PATCHES)]

    saved = started = time.monotonic()
    recent: list[float] = []
    while step < course.steps:
        rng = np.random.default_rng((TRAINING_SEED, step))
        chosen = rng.choice(len(samples), course.batch, replace=False)
        windows = [course.window(samples[i], rng, True) for i in chosen]
        image, truth = (torch.from_numpy(np.stack(arrays))[:, None] for arrays in zip(*windows, strict=True))
        for group in optimiser.param_groups:
            group["lr"] = course.learning_rate(step)
        optimiser.zero_grad()
        loss = course.loss(network(image.contiguous(memory_format=torch.channels_last_3d)), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        recent.append(float(loss.detach()))
        if step % VALIDATE_EVERY == 0 or step == course.steps:
            row = (step, float(np.mean(recent)), _dice(network, validation), time.monotonic() - started)
            _log(out / f"{course.name}.csv", *row)
            recent.clear()
        if time.monotonic() - saved > CHECKPOINT_EVERY_S or step == course.steps:
            unfinished = checkpoint.with_suffix(".part")
            torch.save(
                {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step},
                unfinished,
            )
            unfinished.rename(checkpoint)
            saved = time.monotonic()


def _dice(network: torch.nn.Module, windows: list[Example]) -> float:
    """Dice of the foreground over all the windows' voxels where it is sought."""
    network.eval()
    common = total = 0
    with torch.inference_mode():
        for image, truth in windows:
            logits = network(torch.from_numpy(image)[None, None])[0].numpy()
            found = (logits[1] > logits[0]) & (truth != UNSOUGHT)
            common += int((found & (truth == 1)).sum())
            total += int(found.sum() + (truth == 1).sum())
    network.train()
    return 2.0 * common / max(total, 1)


def _log(path: Path, step: int, loss: float, score: float, seconds: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "training_loss", "validation_dice", "seconds"])
        writer.writerow([step, f"{loss:.4f}", f"{score:.4f}", f"{seconds:.0f}"])
    print(f"{path.stem} step {step}: loss {loss:.4f}, held-out Dice {score:.4f}, {seconds:.0f} s", flush=True)


def export(out: Path) -> None:
    """Write the last checkpoints' weights beside the spec and print the hash that the spec must name."""
    spec, _ = _shipped()
    networks = build(spec)
    for name, network in networks.items():
        network.load_state_dict(torch.load(out / f"{name}.ckpt", weights_only=True)["network"])
    print(spec.weights_path, save_weights(networks, spec.weights_path))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the compact default model on synthetic heads.")
    parser.add_argument("--out", type=Path, required=True, help="folder for heads, checkpoints and curves")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--brain-steps", type=int, default=600)
    parser.add_argument("--heads", type=int, default=200)
    parser.add_argument(
        "--export", action="store_true", help="only write the weights of the last checkpoints"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.export:
        export(options.out)
    else:
        train(options.out, options.steps, options.brain_steps, options.heads)


if __name__ == "__main__":
    main()
