"""Which models a folder holds, and which of them is the default."""

from collections.abc import Iterator
from pathlib import Path

from errors import ModelError, ModelNotFound, ModelSpecInvalid
from unetr.spec import ModelSpec, load_spec

DEFAULT_MODEL = "metscope-unet"


def find_models(models_dir: Path) -> dict[str, ModelSpec]:
    """Return the models of a folder by id, without those whose spec is not valid, a half-copied one say."""
    return {spec.id: spec for spec in _read_specs(models_dir) if isinstance(spec, ModelSpec)}


def invalid_specs(models_dir: Path) -> list[ModelError]:
    """Return why each spec of the folder is skipped that is not valid."""
    return [spec for spec in _read_specs(models_dir) if isinstance(spec, ModelError)]


def _read_specs(models_dir: Path) -> Iterator[ModelSpec | ModelError]:
    for path in sorted(models_dir.glob("*.json")):
        try:
            yield load_spec(path)
        except ModelError as error:
            yield error


def served_models(models_dir: Path, model_path: Path | None = None) -> dict[str, ModelSpec]:
    """The models that may be asked for, by id: those of the folder and that of the file ``model_path``.

    Raises: ModelNotFound, ModelSpecInvalid.
    """
    models = find_models(models_dir)
    if model_path is not None:
        default = default_model(models_dir, model_path)
        models[default.id] = default
    return models


def default_model(models_dir: Path, model_path: Path | None = None) -> ModelSpec:
    """The model of the weights file ``model_path``, else the shipped one, else the only one of the folder.

    Raises: ModelNotFound, ModelSpecInvalid.
    """
    if model_path is not None:
        if model_path.suffix != ".safetensors":
            raise ModelNotFound(
                f"MODEL_PATH names {model_path.name}, a checkpoint that was not imported when this process "
                "started; `python -m unetr import` says why."
            )
        spec = load_spec(model_path.with_suffix(".json"))
        if spec.weights.file != model_path.name:
            raise ModelSpecInvalid(
                f"{spec.id}.json: weights.file: is {spec.weights.file}, MODEL_PATH names {model_path.name}."
            )
        return spec
    shipped = models_dir / f"{DEFAULT_MODEL}.json"
    if shipped.exists():
        return load_spec(shipped)
    models = find_models(models_dir)
    if len(models) == 1:
        return next(iter(models.values()))
    raise ModelNotFound(f"{models_dir} holds {len(models)} models and none is named {DEFAULT_MODEL}.")
