"""Training configurations: YAML files in ``unetr/configs``, or the user's own."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from errors import ModelSpecInvalid
from unetr.spec import ModelSpec
from unetr.synthesis.cohorts import COMPONENTS

CONFIGS = Path(__file__).parents[1] / "configs"
NO_WEIGHTS = "0" * 64


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Course(_Part):
    """The training course of one network of the model.

    start_from: initial weights, a safetensors file; its path is relative to the configuration.
    learning_rate: the peak, reached after ``warm_up`` steps; then a cosine to a hundredth. cross_entropy: its
    weight in the loss, where Dice has 1. foreground: weight of a label's voxel in the cross-entropy.
    size_exponent: lesions are sampled and weighted by 1 over their volume to this power, so that small ones
    count more (see ``unetr.training.samples``).
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


class _Data(_Part):
    """An entry of the data. weight: how often windows come from its cases, relative to the other entries.

    labels: new values by the data's own; others are kept, 0 drops a label; "merge" makes all 1.
    """

    weight: PositiveFloat = 1.0
    labels: dict[int, int] | Literal["merge"] = {}


class Generated(_Data):
    """Synthetic cases by their seeds (``unetr.training.preparation``). training, validation: number of cases.

    heads: for metastases in real heads (``unetr.synthesis.real_heads``), a folder in the layout nnunet of T1
    images with the brain as label 1; its path is relative to the configuration. without: a component left out
    of the heads with metastases (``unetr.synthesis.cohorts.COMPONENTS``).
    """

    generator: Literal["metastases", "glioma", "spine"]
    training: PositiveInt
    validation: int = Field(ge=0)
    heads: Path | None = None
    without: str | None = None

    @model_validator(mode="after")
    def _require_known_component(self) -> Self:
        if self.without is not None and (self.generator != "metastases" or self.without not in COMPONENTS):
            raise ValueError(f"without is for metastases, and one of {', '.join(COMPONENTS)}")
        if self.heads is not None and self.generator != "metastases":
            raise ValueError("heads is for metastases")
        return self


class Labelled(_Data):
    """Cases of a folder in a layout of ``unetr.data.datasets``; its path is relative to the configuration.

    validation: approximate share of the patients that are held out. seed: of this split.
    """

    folder: Path
    layout: Literal["nnunet", "msd", "brats", "dicom"]
    validation: float = Field(ge=0, lt=1)
    seed: int = 1


def _kind_of(entry: object) -> str:
    fields = entry if isinstance(entry, dict) else vars(entry)
    return "folder" if "folder" in fields else "generator"


Data = Annotated[
    Annotated[Generated, Tag("generator")] | Annotated[Labelled, Tag("folder")], Discriminator(_kind_of)
]


class TrainingConfig(_Part):
    """A model and its training. spec: as in ``unetr.spec``, without its weights.

    windows: number of held-out windows on which the network is validated every ``validate_every`` steps.
    """

    spec: ModelSpec
    data: tuple[Data, ...] = Field(min_length=1)
    courses: tuple[Course, ...] = Field(min_length=1)
    seed: int = 1
    validate_every: PositiveInt = 200
    windows: PositiveInt = 32


def load_config(name_or_path: str) -> TrainingConfig:
    """Read a configuration of ``unetr/configs`` by its name, or any by its path.

    A configuration may inherit from a ``base``, which may have one itself, and list only its overrides. A
    network with a different name replaces the base's network entirely.
    Raises: ModelSpecInvalid, which names file and field.
    """
    path = _path(name_or_path, Path())
    content = _content(path)
    spec = content.get("spec")
    if isinstance(spec, dict):
        spec.setdefault("weights", {"file": f"{spec.get('id')}.safetensors", "sha256": NO_WEIGHTS})
    try:
        config = TrainingConfig.model_validate(content)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelSpecInvalid(f"{path.name}: {fields}.") from error
    if any(course.network == "brain" for course in config.courses) and config.spec.brain is None:
        raise ModelSpecInvalid(f"{path.name}: courses train the brain's network, but spec.brain is missing.")
    return config


def _path(name_or_path: str, folder: Path) -> Path:
    shipped = CONFIGS / f"{name_or_path}.yaml"
    return shipped if shipped.exists() else folder / name_or_path


def _content(path: Path, inheriting: tuple[Path, ...] = ()) -> dict[str, object]:
    """Return the fields of a file merged into those of its base. inheriting: files that inherit from it."""
    if path.resolve() in inheriting:
        raise ModelSpecInvalid(f"{path.name}: base: {path.name} inherits from itself.")
    content = _read(path)
    if "base" not in content:
        return content
    base = _path(str(content.pop("base")), path.parent)
    return _merged(_content(base, (*inheriting, path.resolve())), content)


def _read(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise ModelSpecInvalid(f"There is no configuration {str(path)!r}. Available: {names}.") from error
    except yaml.YAMLError as error:
        raise ModelSpecInvalid(f"{path.name} is not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ModelSpecInvalid(f"{path.name} contains no fields.")
    # Resolved before a base is merged: paths are relative to the file that contains them.
    for name, field in (("courses", "start_from"), ("data", "folder"), ("data", "heads")):
        for entry in content.get(name) or ():
            if isinstance(entry, dict) and isinstance(entry.get(field), str):
                entry[field] = path.parent / entry[field]
    return content


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge recursively; lists, and networks with a different name, are replaced, not merged."""
    both = {
        key: _merged(base[key], value) if _alike(base.get(key), value) else value
        for key, value in changes.items()
    }
    return base | both


def _alike(base: object, change: object) -> bool:
    """Tell whether two fields can be merged: one network's arguments do not fit another network."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return False
    return change.get("name", base.get("name")) == base.get("name")
