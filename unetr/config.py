"""How models are trained: YAML files in ``unetr/configs``, or the reader's own."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from errors import ModelSpecInvalid
from unetr.spec import ModelSpec

CONFIGS = Path(__file__).parent / "configs"
NO_WEIGHTS = "0" * 64


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Course(_Part):
    """How one network of the model is trained.

    start_from: weights to begin with, a safetensors file; its path begins at the configuration.
    learning_rate: its peak, after ``warm_up`` steps; then a cosine to a hundredth. cross_entropy: its weight
    beside Dice's 1. foreground: how much more a voxel of the label counts in it. size_exponent: small
    lesions are seen and count more, by 1 over their volume to that power (see ``unetr.samples``).
    """

    network: Literal["lesion", "brain"]
    start_from: Path | None = None
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat
    warm_up: int = Field(60, ge=0)
    weight_decay: float = Field(1e-4, ge=0)
    cross_entropy: float = Field(1.0, ge=0)
    foreground: PositiveFloat = 1.0
    size_exponent: float = Field(0.0, ge=0)


class Heads(_Part):
    """Synthetic heads, by their seeds (see ``unetr.kinds``)."""

    training: PositiveInt
    validation: PositiveInt


class TrainingConfig(_Part):
    """A model and how it comes about. spec: as ``unetr.spec`` has it, but for its weights.

    windows: held-out ones, by which the learning is followed every ``validate_every`` steps.
    """

    spec: ModelSpec
    heads: Heads
    courses: tuple[Course, ...] = Field(min_length=1)
    seed: int = 1
    validate_every: PositiveInt = 200
    windows: PositiveInt = 32


def load_config(name_or_path: str) -> TrainingConfig:
    """Read one configuration, of ``unetr/configs`` by its name or any by its path.

    Raises: ModelSpecInvalid naming file and field.
    """
    shipped = CONFIGS / f"{name_or_path}.yaml"
    path = shipped if shipped.exists() else Path(name_or_path)
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        known = ", ".join(sorted(known.stem for known in CONFIGS.glob("*.yaml")))
        raise ModelSpecInvalid(f"There is no configuration {name_or_path!r}; there are: {known}.") from error
    except yaml.YAMLError as error:
        raise ModelSpecInvalid(f"{path.name} is no YAML: {error}.") from error
    if isinstance(content, dict) and isinstance(content.get("spec"), dict):
        weights = {"file": f"{content['spec'].get('id')}.safetensors", "sha256": NO_WEIGHTS}
        content["spec"].setdefault("weights", weights)
    try:
        config = TrainingConfig.model_validate(content)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelSpecInvalid(f"{path.name}: {fields}.") from error
    if any(course.network == "brain" for course in config.courses) and config.spec.brain is None:
        raise ModelSpecInvalid(f"{path.name}: courses train the brain's network, but spec.brain is missing.")
    courses = tuple(
        course.model_copy(update={"start_from": course.start_from and path.parent / course.start_from})
        for course in config.courses
    )
    return config.model_copy(update={"courses": courses})
