"""Support for a MODEL_PATH that names a training checkpoint: imported once, kept below DATA_DIR.

The import runs in a separate process, so that the API never loads torch.
"""

import hashlib
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from errors import WeightsInvalid
from settings import ROOT, Settings

WEIGHTS_SUFFIX = ".safetensors"
DIGEST_LENGTH = 8

logger = logging.getLogger("metscope.models")


def with_served_model(settings: Settings) -> Settings:
    """Return the settings; a MODEL_PATH that names a checkpoint is replaced by the imported weights.

    Each checkpoint is imported only once. Raises: WeightsInvalid if it cannot be imported.
    """
    checkpoint = settings.model_path
    if checkpoint is None or checkpoint.suffix == WEIGHTS_SUFFIX:
        return settings
    with checkpoint.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:DIGEST_LENGTH]
    name = re.sub(r"[^a-z0-9._-]+", "-", checkpoint.stem.lower()).strip("-._") or "checkpoint"
    model_id = f"{name}-{digest}"
    folder = settings.data_dir / "models"
    if not (folder / f"{model_id}.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _import(checkpoint, folder, model_id)
        logger.info("MODEL_PATH is a checkpoint; it was imported as the model %s", model_id)
    return settings.model_copy(update={"model_path": folder / f"{model_id}{WEIGHTS_SUFFIX}"})


def with_served_model_or_log(settings: Settings) -> Settings:
    """Return the same for a service; a failed import is logged, and the service starts without the model."""
    try:
        return with_served_model(settings)
    except WeightsInvalid as error:
        logger.error("%s: %s", error.code, error.message)
        return settings


def _import(checkpoint: Path, folder: Path, model_id: str) -> None:
    """Import into the folder; the specification is moved last, because it makes the model visible."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = ["import", "--checkpoint", str(checkpoint.resolve()), "--out", scratch, "--id", model_id]
        done = subprocess.run(
            [sys.executable, "-m", "unetr", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            message = done.stderr.strip().rpartition("\n")[2].removeprefix(f"{WeightsInvalid.code}: ")
            raise WeightsInvalid(f"MODEL_PATH cannot be imported. {message}")
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file.suffix == ".json"):
            file.replace(folder / file.name)
