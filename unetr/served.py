"""The models of a folder, and the default model."""

from collections.abc import Iterator
from pathlib import Path

from errors import ModelError, ModelNotFound, ModelSpecInvalid
from schemas.results import ModelReference
from settings import Settings
from unetr.spec import ModelSpec, load_spec

DEFAULT_MODEL = "metscope-unet"


def find_models(models_dir: Path) -> dict[str, ModelSpec]:
    """Return the models of a folder by id, without those with an invalid spec, e.g. a half-copied one."""
    return {spec.id: spec for spec in _read_specs(models_dir) if isinstance(spec, ModelSpec)}


def invalid_specs(models_dir: Path) -> list[ModelError]:
    """Return the error of each invalid spec of the folder."""
    return [spec for spec in _read_specs(models_dir) if isinstance(spec, ModelError)]


def _read_specs(models_dir: Path) -> Iterator[ModelSpec | ModelError]:
    for path in sorted(models_dir.glob("*.json")):
        try:
            yield load_spec(path)
        except ModelError as error:
            yield error


def served_models(models_dir: Path, model_path: Path | None = None) -> dict[str, ModelSpec]:
    """Return the available models by id: those of the folder and that of the weights file ``model_path``.

    Raises: ModelNotFound, ModelSpecInvalid.
    """
    models = find_models(models_dir)
    if model_path is not None:
        default = default_model(models_dir, model_path)
        models[default.id] = default
    return models


def default_model(models_dir: Path, model_path: Path | None = None) -> ModelSpec:
    """Return the model of the weights file ``model_path``, or the shipped one, or the folder's only one.

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
    raise ModelNotFound(f"{models_dir} contains {len(models)} models, but no model is named {DEFAULT_MODEL}.")


def find_spec(settings: Settings, model_id: str | None) -> ModelSpec:
    """Return the served model of that id, or the default one. Raises: ModelNotFound, ModelSpecInvalid."""
    if model_id is None:
        return default_model(settings.models_dir, settings.model_path)
    models = served_models(settings.models_dir, settings.model_path)
    if model_id not in models:
        raise ModelNotFound(f"There is no model {model_id!r}. Available models: {', '.join(sorted(models))}.")
    return models[model_id]


def reference_to(spec: ModelSpec) -> ModelReference:
    """Return the id, version and weights of a model, as each of its results names them."""
    return ModelReference(id=spec.id, version=spec.version, sha256=spec.weights.sha256)
