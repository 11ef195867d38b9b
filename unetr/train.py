"""Trains a model as a configuration says: Lightning, one course for each of its networks.

    python -m unetr train --config tiny --out FOLDER [--devices N] [--processes N] [--logger wandb]
        [--precision bf16-mixed]

FOLDER takes the prepared heads (made once) and, for each network, the last and the best checkpoint and the
learning curve as CSV, written at each look at the held-out windows. Run it again to go on where it stopped:
the windows of a step depend on the step alone, so that a run in pieces learns what a run in one piece learns.
"""

import argparse
import csv
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from unetr.config import Course, TrainingConfig, load_config
from unetr.kinds import TRAINING_SEED, VALIDATION_SEED
from unetr.network import build, load_network
from unetr.samples import UNSOUGHT, Sample, Window, brain_window, lesion_window, make_all
from unetr.spec import ModelSpec

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Cut = Callable[[Sample, np.random.Generator, bool], Window]

# Without smoothing the Dice of windows without a lesion has no gradient: false positives would cost nothing.
SMOOTH_VOXELS = 100.0
GRADIENT_NORM = 5.0


def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, course: Course) -> torch.Tensor:
    """Dice over the batch and the cross-entropy, of the voxels where something is sought.

    logits: (batch, class, x, y, z). truth, weight: (batch, x, y, z); see ``unetr.samples``. The mean of the
    cross-entropy is over all voxels: windows that reach beyond the brain count less.
    """
    target = truth.masked_fill(truth == UNSOUGHT, 0).long()
    weight = weight * (truth != UNSOUGHT)
    classes = logits.shape[1]
    importance = logits.new_tensor([1.0] + [course.foreground] * (classes - 1))
    entropy = F.cross_entropy(logits, target, importance, reduction="none") * weight
    probability = logits.softmax(1)[:, 1:]
    true = F.one_hot(target, classes).movedim(-1, 1)[:, 1:]
    axes = (0, 2, 3, 4)
    common = (weight[:, None] * probability * true).sum(axes)
    total = (weight[:, None] * (probability + true)).sum(axes)
    dice = (2.0 * common + SMOOTH_VOXELS) / (total + SMOOTH_VOXELS)
    return 1.0 - dice.mean() + course.cross_entropy * entropy.mean()


class Checks(Dataset[Batch]):
    """The windows by which the learning is followed: always the same, and none augmented."""

    def __init__(self, samples: Sequence[Sample], cut: Cut, count: int) -> None:
        rng = np.random.default_rng(VALIDATION_SEED)
        self.batches = [collate([cut(samples[i % len(samples)], rng, False)]) for i in range(count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


class Windows(IterableDataset[Batch]):
    """The batches of a course from one step on, each drawn by the seed, the step and the process alone."""

    def __init__(self, samples: Sequence[Sample], cut: Cut, course: Course, seed: tuple[int, int]) -> None:
        """seed: of the run, and this process's number among those that train together."""
        self.samples, self.cut, self.course, self.seed = samples, cut, course, seed
        self.first = 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for step in range(self.first + number, self.course.steps, count):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """The windows of one step."""
        rng = np.random.default_rng((*self.seed, step))
        chosen = rng.choice(
            len(self.samples), self.course.batch, replace=self.course.batch > len(self.samples)
        )
        return collate([self.cut(self.samples[i], rng, True) for i in chosen])


def collate(windows: Sequence[Window]) -> Batch:
    """image (batch, 1, x, y, z), truth and weight (batch, x, y, z)."""
    arrays = ([w.image for w in windows], [w.truth for w in windows], [w.weight for w in windows])
    image, truth, weight = (torch.from_numpy(np.stack(array)) for array in arrays)
    return image[:, None], truth, weight


class Learner(lightning.LightningModule):
    """One network on its course."""

    def __init__(self, network: torch.nn.Module, course: Course, curve: Path) -> None:
        super().__init__()
        # The layout of memory in which a CPU's convolutions are fastest.
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.course, self.curve = course, curve
        self.recent: list[float] = []
        self.counts = [0, 0]
        self.started = time.monotonic()

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        image, truth, weight = batch
        value = loss(self.network(image), truth, weight, self.course)
        self.log("loss", value)
        self.recent.append(float(value.detach()))
        return value

    def on_validation_epoch_start(self) -> None:
        self.counts = [0, 0]

    def validation_step(self, batch: Batch, _: int) -> None:
        image, truth, _weight = batch
        found = (self.network(image).argmax(1) > 0) & (truth != UNSOUGHT)
        true = (truth > 0) & (truth != UNSOUGHT)
        self.counts[0] += int((found & true).sum())
        self.counts[1] += int(found.sum() + true.sum())

    def on_validation_epoch_end(self) -> None:
        dice = 2.0 * self.counts[0] / max(self.counts[1], 1)
        self.log("dice", dice, sync_dist=True)
        if self.trainer.is_global_zero and self.recent:
            seconds = time.monotonic() - self.started
            _note(self.curve, self.global_step, float(np.mean(self.recent)), dice, seconds)
        self.recent.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.course.learning_rate, weight_decay=self.course.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The share of the learning rate's peak: a linear warm-up, then a cosine to a hundredth."""
        warm_up, steps = self.course.warm_up, self.course.steps
        if step < warm_up:
            return (step + 1) / warm_up
        done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))


def _note(path: Path, step: int, mean_loss: float, dice: float, seconds: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "training_loss", "validation_dice", "seconds"])
        writer.writerow([step, f"{mean_loss:.4f}", f"{dice:.4f}", f"{seconds:.0f}"])
    print(
        f"{path.stem} step {step}: loss {mean_loss:.4f}, held-out Dice {dice:.4f}, {seconds:.0f} s",
        flush=True,
    )


@dataclass(frozen=True)
class Run:
    """One training. processes: that make heads, and cut windows while the network learns.

    precision: as Lightning names it; None for 16-mixed on a GPU and 32-true on a CPU.
    """

    config: TrainingConfig
    out: Path
    devices: int = 1
    processes: int = 2
    logger: str = "tensorboard"
    precision: str | None = None


def train(run: Run) -> None:
    """Make the heads, then bring each network from its last checkpoint to the end of its course.

    Raises: WeightsInvalid.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    spec, heads = run.config.spec, run.config.heads

    def made(first: int, count: int) -> list[Sample]:
        return make_all(run.out / "heads", range(first, first + count), spec, run.processes)

    samples, held_out = made(TRAINING_SEED, heads.training), made(VALIDATION_SEED, heads.validation)
    for course in run.config.courses:
        torch.manual_seed(run.config.seed)
        network = build(spec)[course.network]
        if course.start_from is not None:
            load_network(network, course.start_from, course.network)
        _fit(run, course, network, samples, held_out)


def window_of(spec: ModelSpec, course: Course) -> Cut:
    """How that course's windows are cut out of a head."""
    brain, size = spec.brain, spec.window.shape[0]
    if course.network == "brain" and brain is not None:
        return lambda sample, rng, augment: brain_window(sample, brain, rng, augment)
    return lambda sample, rng, augment: lesion_window(sample, size, course.size_exponent, rng, augment)


def _fit(
    run: Run, course: Course, network: torch.nn.Module, samples: list[Sample], held_out: list[Sample]
) -> None:
    cut = window_of(run.config.spec, course)
    folder = run.out / course.network
    last = folder / "last.ckpt"
    gpu = torch.cuda.is_available()
    trainer = lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=run.devices,
        strategy="ddp" if run.devices > 1 else "auto",
        precision=run.precision or ("16-mixed" if gpu else "32-true"),  # type: ignore[arg-type]
        max_steps=course.steps,
        val_check_interval=min(run.config.validate_every, course.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=GRADIENT_NORM,
        logger=_logger(run.logger, folder),
        callbacks=[
            ModelCheckpoint(
                folder, "best", monitor="dice", mode="max", save_last=True, enable_version_counter=False
            )
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    windows = Windows(samples, cut, course, (run.config.seed, trainer.global_rank))
    if last.exists():
        windows.first = torch.load(last, weights_only=True)["global_step"]
    # One process keeps up with a CPU's training and leaves it the cores.
    workers = run.processes if gpu else min(run.processes, 1)
    loader = DataLoader(windows, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    checks = DataLoader(Checks(held_out, cut, run.config.windows), batch_size=None)
    learner = Learner(network, course, run.out / f"{course.network}.csv")
    trainer.fit(
        learner, loader, checks, ckpt_path=last if last.exists() else None, weights_only=True,
    )  # fmt: skip


def _logger(name: str, folder: Path) -> Logger:
    if name == "wandb":
        return WandbLogger(project="metscope", save_dir=folder)
    return TensorBoardLogger(folder, name=None, version="")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m unetr train", description="Train a model.")
    parser.add_argument("--config", default="tiny", help="a name in unetr/configs, or a file")
    parser.add_argument("--out", type=Path, required=True, help="folder for heads, checkpoints and curves")
    parser.add_argument("--devices", type=int, default=1, help="GPUs that train together (DDP)")
    parser.add_argument("--processes", type=int, default=2, help="that make heads and cut windows")
    parser.add_argument("--logger", choices=("tensorboard", "wandb"), default="tensorboard")
    parser.add_argument(
        "--precision", choices=("32-true", "16-mixed", "bf16-mixed"), help="on a GPU 16-mixed, else 32-true"
    )
    options = parser.parse_args(arguments)
    # Lightning advises about loaders and devices that were chosen on purpose.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    config = load_config(options.config)
    train(Run(config, options.out, options.devices, options.processes, options.logger, options.precision))


if __name__ == "__main__":
    main()
