"""Training of a model by a configuration, with Lightning, one course for each of its networks.

    python -m unetr train --config tiny --out FOLDER [--devices N] [--processes N] [--logger wandb]
        [--precision bf16-mixed]

FOLDER receives the prepared cases (made once) and, for each network, the last and the best checkpoint and the
learning curve as CSV, written at each validation. Run it again to resume where it stopped: the windows of a
step depend on the step alone, so that an interrupted run sees the same windows as an uninterrupted one.
"""

import argparse
import csv
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from errors import DataRefused, RequestError
from unetr.network import build, load_matching
from unetr.spec import ModelSpec
from unetr.synthesis.cohorts import VALIDATION_SEED
from unetr.training.config import Course, TrainingConfig, load_config
from unetr.training.preparation import TRAINED, Group, gather, trained_range
from unetr.training.samples import IGNORE_LABEL, Sample, TrainingWindow, brain_window, lesion_window

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Cut = Callable[[Sample, np.random.Generator, bool], TrainingWindow]

# Without smoothing, the Dice of windows without a lesion has no gradient: false positives would cost nothing.
SMOOTH_VOXELS = 100.0
GRADIENT_NORM = 5.0
# Lightning's name for fetching a training step's batch.
NEXT_WINDOWS = "[_TrainingEpochLoop].train_dataloader_next"


def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, course: Course) -> torch.Tensor:
    """Compute Dice loss over the batch plus weighted cross-entropy, both over the searched voxels.

    logits: (batch, class, x, y, z). truth, weight: (batch, x, y, z); see ``unetr.training.samples``. The
    cross-entropy is divided by the number of all voxels, so windows that reach beyond the brain count less.
    Where a voxel is partly lesion, Dice is least for that share: the semimetric loss of Wang et al., NeurIPS
    2023 (arXiv 2303.16296), which for whole voxels is the usual soft Dice loss.
    """
    searched = truth != IGNORE_LABEL
    weight = weight * searched
    logits = logits.float()
    classes = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1, 1)
    # The share of each class; a label between two values occurs only between background and the one label.
    target = (1.0 - (truth.masked_fill(~searched, 0.0)[:, None] - classes).abs()).clamp(min=0.0)
    importance = logits.new_tensor([1.0] + [course.foreground] * (logits.shape[1] - 1)).view(-1, 1, 1, 1)
    entropy = -(importance * target * logits.log_softmax(1)).sum(1) * weight
    probability, true = logits.softmax(1)[:, 1:], target[:, 1:]
    axes = (0, 2, 3, 4)
    apart = (weight[:, None] * (probability - true).abs()).sum(axes)
    total = (weight[:, None] * (probability + true)).sum(axes)
    dice = (total - apart + SMOOTH_VOXELS) / (total + SMOOTH_VOXELS)
    return 1.0 - dice.mean() + course.cross_entropy * entropy.mean()


class Checks(Dataset[Batch]):
    """The validation windows: always the same, without augmentation."""

    def __init__(self, samples: Sequence[Sample], cut: Cut, count: int) -> None:
        rng = np.random.default_rng(VALIDATION_SEED)
        self.batches = [collate([cut(samples[i % len(samples)], rng, False)]) for i in range(count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


class Windows(IterableDataset[Batch]):
    """The batches of a course from one step on, each determined by the seed, the step and the process."""

    def __init__(self, groups: Sequence[Group], cut: Cut, course: Course, seed: tuple[int, int]) -> None:
        """Collect the samples. groups: sampled by their weights. seed: the run's, and this process's rank."""
        self.samples = [sample for group in groups for sample in group.training]
        weights = np.concatenate([np.full(len(g.training), g.weight / len(g.training)) for g in groups])
        self.shares = weights / weights.sum()
        self.cut, self.course, self.seed = cut, course, seed
        self.first = 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for step in range(self.first + number, self.course.steps, count):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """Cut the windows of one step."""
        rng = np.random.default_rng((*self.seed, step))
        chosen = rng.choice(len(self.samples), self.course.batch, p=self.shares)
        return collate([self.cut(self.samples[i], rng, True) for i in chosen])


def collate(windows: Sequence[TrainingWindow]) -> Batch:
    """Stack windows to image (batch, channel, x, y, z), truth and weight (batch, x, y, z)."""
    arrays = ([w.image for w in windows], [w.truth for w in windows], [w.weight for w in windows])
    image, truth, weight = (torch.from_numpy(np.stack(array)) for array in arrays)
    return image, truth, weight


class Learner(lightning.LightningModule):
    """A network in training on its course. labels: names of its channels without the background."""

    def __init__(self, network: torch.nn.Module, course: Course, labels: Sequence[str], curve: Path) -> None:
        super().__init__()
        self.profiler = SimpleProfiler()
        # The memory layout with the fastest convolutions on a CPU.
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.course, self.labels, self.curve = course, labels, curve
        self.recent: list[float] = []
        self.common, self.total = np.zeros(len(labels)), np.zeros(len(labels))
        self.started = time.monotonic()

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        image, truth, weight = batch
        value = loss(self.network(image), truth, weight, self.course)
        self.log("loss", value)
        self.recent.append(float(value.detach()))
        return value

    def on_validation_epoch_start(self) -> None:
        self.common[:], self.total[:] = 0, 0

    def validation_step(self, batch: Batch, _: int) -> None:
        image, truth, _weight = batch
        answer = self.network(image).argmax(1).masked_fill(truth == IGNORE_LABEL, 0)
        for index in range(len(self.labels)):
            predicted, true = answer == index + 1, truth.round() == index + 1
            self.common[index] += int((predicted & true).sum())
            self.total[index] += int(predicted.sum() + true.sum())

    def on_validation_epoch_end(self) -> None:
        dice = 2.0 * self.common / np.maximum(self.total, 1)
        self.log("dice", float(dice.mean()), sync_dist=True)
        if self.trainer.is_global_zero and self.recent:
            seconds = time.monotonic() - self.started
            noted = {
                "step": str(self.global_step),
                "training_loss": f"{np.mean(self.recent):.4f}",
                "validation_dice": f"{dice.mean():.4f}",
                "seconds": f"{seconds:.0f}",
                "waiting": f"{sum(self.profiler.recorded_durations[NEXT_WINDOWS]) / seconds:.3f}",
            }
            if len(self.labels) > 1:
                noted |= {
                    f"dice_{name}": f"{value:.4f}" for name, value in zip(self.labels, dice, strict=True)
                }
            _note(self.curve, noted)
        self.recent.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.course.learning_rate, weight_decay=self.course.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Return the share of the peak learning rate: a linear warm-up, then a cosine to a hundredth."""
        warm_up, steps = self.course.warm_up, self.course.steps
        if step < warm_up:
            return (step + 1) / warm_up
        done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))


def _note(path: Path, noted: dict[str, str]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(noted))
        if new:
            writer.writeheader()
        writer.writerow(noted)
    labels = "".join(
        f", {key.removeprefix('dice_')} {noted[key]}" for key in noted if key.startswith("dice_")
    )
    print(
        f"{path.stem} step {noted['step']}: loss {noted['training_loss']}, held-out Dice "
        f"{noted['validation_dice']}{labels}, {noted['seconds']} s, of which {float(noted['waiting']):.0%} "
        "waiting for data",
        flush=True,
    )


@dataclass(frozen=True)
class Run:
    """A training run. processes: number that prepare cases, and cut windows during training; 0: none, this
    process does both.

    precision: Lightning's name; None for 16-mixed on a GPU and 32-true on a CPU.
    """

    config: TrainingConfig
    out: Path
    devices: int = 1
    processes: int = 2
    logger: str = "tensorboard"
    precision: str | None = None


def train(run: Run) -> None:
    """Prepare the cases, then train each network from its last checkpoint to the end of its course.

    Raises: RequestError (the logger is not installed), WeightsInvalid, DataRefused.
    """
    if run.logger == "wandb":
        _require_wandb()
    # Lightning warns about loaders and devices that were chosen on purpose.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    run.out.mkdir(parents=True, exist_ok=True)
    spec = run.config.spec
    groups = [gather(entry, spec, run.out / "cases", run.processes) for entry in run.config.data]
    for group in groups:
        tell(group)
    if not any(group.held_out for group in groups):
        raise DataRefused("No case is held out, so the best network cannot be selected.")
    samples = [sample for group in groups for sample in group.training]
    if spec.brain is not None and (trained := trained_range(samples, spec.brain.factor)):
        (run.out / TRAINED).write_text(trained.model_dump_json(indent=2) + "\n")
    for course in run.config.courses:
        torch.manual_seed(run.config.seed)
        network = build(spec)[course.network]
        if course.start_from is not None:
            print(
                f"{course.network}: {load_matching(network, course.start_from, course.network)}", flush=True
            )
        _fit(run, course, network, groups)


def tell(group: Group) -> None:
    """Print how many cases an entry of the data gave, and which are bad and why."""
    print(
        f"{group.name}: {len(group.training)} training cases, {len(group.held_out)} held out; "
        f"{group.negatives} without labels; {len(group.bad)} unusable and skipped",
        flush=True,
    )
    for case in group.bad:
        print(f"  {case.id}: {case.reason}", flush=True)


def groups_of(course: Course, groups: Sequence[Group]) -> list[Group]:
    """Return the groups with the samples usable for the course: the brain's network needs a known brain.

    Raises: DataRefused if no held-out sample is usable.
    """
    if course.network == "lesion":
        return list(groups)
    groups_with_brain = [
        replace(
            group,
            training=[sample for sample in group.training if sample.brain is not None],
            held_out=[sample for sample in group.held_out if sample.brain is not None],
        )
        for group in groups
    ]
    usable = [group for group in groups_with_brain if group.training]
    if not any(group.held_out for group in usable):
        raise DataRefused(
            "The brain is not known in any training case or in any held-out case: do not train a network for "
            "it."
        )
    return usable


def window_of(spec: ModelSpec, course: Course) -> Cut:
    """Return the function that cuts the course's windows out of a sample."""
    brain, size = spec.brain, spec.window.shape[0]
    if course.network == "brain" and brain is not None:
        return lambda sample, rng, augment: brain_window(sample, brain, rng, augment)
    return lambda sample, rng, augment: lesion_window(sample, size, course.size_exponent, rng, augment)


def _fit(run: Run, course: Course, network: torch.nn.Module, groups: Sequence[Group]) -> None:
    cut = window_of(run.config.spec, course)
    groups = groups_of(course, groups)
    labels = ["Brain"] if course.network == "brain" else [label.name for label in run.config.spec.labels]
    learner = Learner(network, course, labels, run.out / f"{course.network}.csv")
    folder = run.out / course.network
    last = folder / "last.ckpt"
    reached = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    if reached >= course.steps:
        print(
            f"{course.network} has finished: {reached} of {course.steps} steps. To train it again, give "
            "another folder as --out; to train it further, raise steps in the configuration.",
            flush=True,
        )
        return
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
            ModelCheckpoint(folder, "best", monitor="dice", mode="max", enable_version_counter=False),
            # A separate callback, because Lightning's save_last writes only with a new best.
            ModelCheckpoint(folder, "last", enable_version_counter=False),
        ],
        profiler=learner.profiler,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    windows = Windows(groups, cut, course, (run.config.seed, trainer.global_rank))
    windows.first = reached
    # On a CPU one process keeps up with the training and leaves it the cores.
    workers = run.processes if gpu else min(run.processes, 1)
    loader = DataLoader(windows, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    held_out = [sample for group in groups for sample in group.held_out]
    checks = DataLoader(Checks(held_out, cut, run.config.windows), batch_size=None)
    trainer.fit(
        learner, loader, checks, ckpt_path=last if last.exists() else None, weights_only=True,
    )  # fmt: skip


def _require_wandb() -> None:
    """Check that the optional package of Weights & Biases is installed. Raises: RequestError."""
    try:
        import_module("wandb")
    except ModuleNotFoundError:
        raise RequestError(
            "--logger wandb needs the package wandb, which is not installed: python -m pip install wandb."
        ) from None


def _logger(name: str, folder: Path) -> Logger:
    if name == "wandb":
        return WandbLogger(project="metscope", save_dir=folder)
    return TensorBoardLogger(folder, name=None, version="")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m unetr train", description="Train a model.")
    parser.add_argument("--config", default="tiny", help="a name in unetr/configs, or a file")
    parser.add_argument("--out", type=Path, required=True, help="folder for cases, checkpoints and curves")
    parser.add_argument("--devices", type=int, default=1, help="GPUs that train together (DDP)")
    parser.add_argument("--processes", type=int, default=2, help="that prepare cases and cut windows")
    parser.add_argument("--logger", choices=("tensorboard", "wandb"), default="tensorboard")
    parser.add_argument(
        "--precision", choices=("32-true", "16-mixed", "bf16-mixed"), help="on a GPU 16-mixed, else 32-true"
    )
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    train(Run(config, options.out, options.devices, options.processes, options.logger, options.precision))


if __name__ == "__main__":
    main()
