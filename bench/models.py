"""A tiny model, for measurements and tests of everything but the model."""

import json
from pathlib import Path

import torch

from unetr.network import build, save_weights
from unetr.spec import ModelSpec

SHIPPED = Path(__file__).parents[1] / "unetr" / "weights" / "metscope-compact.json"
TINY = {"img_size": [32, 32, 32], "feature_size": 2, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}


def tiny_model(folder: Path, name: str, minimum_volume_mm3: float) -> Path:
    """Create a folder with a small, untrained model of that name; its findings are meaningless."""
    folder.mkdir()
    content = json.loads(SHIPPED.read_text())
    content |= {
        "id": name,
        "weights": {"file": f"{name}.safetensors", "sha256": "0" * 64},
        "brain": None,
        "postprocessing": {"threshold": 0.5, "minimum_volume_mm3": minimum_volume_mm3},
    }
    content["network"]["arguments"] |= TINY
    content["window"]["shape"] = TINY["img_size"]
    torch.manual_seed(7)
    networks = build(ModelSpec.model_validate(content))
    content["weights"]["sha256"] = save_weights(networks, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
