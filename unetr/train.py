"""Train the compact default model on synthetic heads: one straight script, resumable.

    python -m unetr.train --out FOLDER [--steps 3600] [--heads 240]

FOLDER takes the prepared heads (made once), a checkpoint every few minutes and the learning curve as CSV.
Run it again to go on where it stopped; --export writes the half-precision weights beside the spec.
Arrays are (x, y, z) in the spec's orientation; patches are (batch, channel, x, y, z).
"""

import argparse
import csv
import math
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from numpy.typing import NDArray
from scipy import ndimage

from unetr import synth
from unetr.network import build, save_weights
from unetr.preprocess import prepare, resample_labels
from unetr.spec import load_spec

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
BATCH = 2
# Without smoothing the Dice of windows without a lesion has no gradient: false positives would cost nothing.
SMOOTH_VOXELS = 100.0
BRIGHT = 1.5
LESION_SHARE = 0.5
BRIGHT_SHARE = 0.25
PEAK_LEARNING_RATE = 8e-4
WARM_UP_STEPS = 60
CHECKPOINT_EVERY_S = 180.0
VALIDATE_EVERY = 100

# The network also learns where the brain is: what enhances in the face looks like a lesion but for its place.
OUTSIDE, LESION, BRAIN = 0, 1, 2
# Dice over the whole batch, and a cross-entropy that is heavy because lesions are few voxels.
LOSS = DiceCELoss(
    include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=SMOOTH_VOXELS,
    smooth_dr=SMOOTH_VOXELS, lambda_ce=5.0, weight=torch.tensor([1.0, 4.0, 1.0]),
)  # fmt: skip
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One head as the network sees it: image float16, labels uint8 lesion numbers, brain, all (x, y, z).

    centres: (n, 3) voxels, the lesions' centres. bright: (n, 3) voxels that are brighter than most of the
    head and no lesion: vessels, dura, marrow.
    """

    image: NDArray[np.float16]
    labels: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    centres: NDArray[np.int64]
    bright: NDArray[np.int64]


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
    centres = ndimage.center_of_mass(labels > 0, labels, [n for n in np.unique(labels) if n])
    bright = np.argwhere((image > BRIGHT) & (labels == 0))
    return Sample(
        image=image,
        labels=labels,
        brain=brain,
        centres=np.rint(centres).astype(np.int64).reshape(-1, 3),
        bright=bright[:: max(len(bright) // 4000, 1)],
    )


def patch(sample: Sample, size: int, rng: np.random.Generator, augment: bool = True) -> tuple[Array, Array]:
    """A window (x, y, z) with a lesion, with something bright that is none, or anywhere.

    Returns the image and the truth: 0 outside the brain, 1 lesion, 2 the rest of the brain.
    """
    shape = np.array(sample.image.shape)
    kind = rng.random()
    around = sample.centres if kind < LESION_SHARE else sample.bright
    if len(around) and kind < LESION_SHARE + BRIGHT_SHARE:
        first = around[rng.integers(len(around))] - size // 2 + rng.integers(-size // 3, size // 3 + 1, 3)
    else:
        first = rng.integers(-8, np.maximum(shape - size + 8, -7))
    first = np.clip(first, np.minimum(0, shape - size), np.maximum(shape - size, 0))
    image, labels, brain = (_cut(array, first, size) for array in (sample.image, sample.labels, sample.brain))
    truth = np.where(labels > 0, LESION, np.where(brain > 0, BRAIN, OUTSIDE)).astype(np.float32)
    if augment:
        for axis in range(3):
            if rng.random() < 0.5:
                image, truth = np.flip(image, axis), np.flip(truth, axis)
        image = image * rng.uniform(0.85, 1.15) + rng.uniform(-0.15, 0.15)
        if rng.random() < 0.3:
            image = ndimage.gaussian_filter(image, rng.uniform(0.0, 0.8, 3))
        image = np.asarray(image + rng.normal(0.0, rng.uniform(0.0, 0.15), image.shape), dtype=np.float32)
    return np.ascontiguousarray(image, dtype=np.float32), np.ascontiguousarray(truth)


def _cut(array: NDArray[Any], first: NDArray[np.int64], size: int) -> Array:
    inside = tuple(slice(max(int(start), 0), int(start) + size) for start in first)
    cut = array[inside].astype(np.float32)
    before = np.maximum(-first, 0)
    after = size - before - cut.shape
    lowest = float(array.min())
    return np.pad(cut, list(zip(before, after, strict=True)), constant_values=lowest)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < WARM_UP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARM_UP_STEPS
    done = min((step - WARM_UP_STEPS) / max(steps - WARM_UP_STEPS, 1), 1.0)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


def train(out: Path, steps: int, heads: int) -> None:
    """Make the heads, then train from the last checkpoint to ``steps`` optimiser steps."""
    spec = load_spec(SPEC)
    size = spec.window.shape[0]
    with get_context("spawn").Pool(2) as pool:
        training = pool.starmap(make_head, [(out, TRAINING_SEED + i) for i in range(heads)], chunksize=1)
        validation = pool.starmap(make_head, [(out, VALIDATION_SEED + i) for i in range(8)], chunksize=1)
    samples = [load_sample(path) for path in training]
    held_out = _validation_patches([load_sample(path) for path in validation], size)

    torch.manual_seed(TRAINING_SEED)
    network = build(spec.network).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-4)
    checkpoint = out / "last.ckpt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]

    saved = started = time.monotonic()
    recent: list[float] = []
    while step < steps:
        rng = np.random.default_rng((TRAINING_SEED, step))
        chosen = rng.choice(len(samples), BATCH, replace=False)
        patches = [patch(samples[i], size, rng) for i in chosen]
        image, truth = (torch.from_numpy(np.stack(arrays))[:, None] for arrays in zip(*patches, strict=True))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimiser.zero_grad()
        loss = LOSS(network(image.contiguous(memory_format=torch.channels_last_3d)), truth)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        recent.append(float(loss.detach()))
        if step % VALIDATE_EVERY == 0 or step == steps:
            score = _validate(network, held_out)
            _log(out / "curve.csv", step, float(np.mean(recent)), score, time.monotonic() - started)
            recent.clear()
        if time.monotonic() - saved > CHECKPOINT_EVERY_S or step == steps:
            unfinished = checkpoint.with_suffix(".part")
            torch.save(
                {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step},
                unfinished,
            )
            unfinished.rename(checkpoint)
            saved = time.monotonic()


def _validation_patches(samples: list[Sample], size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = np.random.default_rng(VALIDATION_SEED)
    patches = [patch(samples[i % len(samples)], size, rng, augment=False) for i in range(VALIDATION_PATCHES)]
    return [
        (torch.from_numpy(image)[None, None], torch.from_numpy(truth == LESION)) for image, truth in patches
    ]


def _validate(network: torch.nn.Module, patches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Dice of the lesion over all the voxels of all the patches."""
    network.eval()
    common = total = 0
    with torch.inference_mode():
        for image, truth in patches:
            logits = network(image)[0]
            found = logits.argmax(0) == LESION
            common += int((found & truth).sum())
            total += int(found.sum() + truth.sum())
    network.train()
    return 2.0 * common / max(total, 1)


def _log(path: Path, step: int, loss: float, score: float, seconds: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "training_loss", "validation_dice", "seconds"])
        writer.writerow([step, f"{loss:.4f}", f"{score:.4f}", f"{seconds:.0f}"])
    print(f"step {step}: loss {loss:.4f}, held-out Dice {score:.4f}, {seconds:.0f} s", flush=True)


def export(out: Path) -> None:
    """Write the last checkpoint's weights beside the spec and print the hash that the spec must name."""
    spec = load_spec(SPEC)
    network = build(spec.network)
    network.load_state_dict(torch.load(out / "last.ckpt", weights_only=True)["network"])
    target = SPEC.parent / spec.weights.file
    print(target, save_weights(network, target))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the compact default model on synthetic heads.")
    parser.add_argument("--out", type=Path, required=True, help="folder for heads, checkpoint and curve")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--heads", type=int, default=240)
    parser.add_argument("--export", action="store_true", help="only write the weights of the last checkpoint")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.export:
        export(arguments.out)
    else:
        train(arguments.out, arguments.steps, arguments.heads)


if __name__ == "__main__":
    main()
