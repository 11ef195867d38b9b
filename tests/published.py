"""Checkpoints as the published project's own code writes them."""

from pathlib import Path

import torch

from unetr.import_checkpoint import BACKBONE
from unetr.network import build
from unetr.network_spec import UNETRArguments, UNETRNetwork
from unetr.spec import load_spec

ARGUMENTS = UNETRArguments(
    in_channels=1, out_channels=2, img_size=(32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=40,
    num_heads=3, proj_type="perceptron", norm_name="instance", conv_block=True, res_block=True,
)  # fmt: skip


def network(arguments: UNETRArguments = ARGUMENTS) -> torch.nn.Module:
    """With weights that half precision holds, so that the imported ones are equal."""
    torch.manual_seed(3)
    spec = load_spec(Path("unetr/weights/metscope-compact.json"))
    chosen = {"network": UNETRNetwork(name="UNETR", arguments=arguments), "brain": None}
    model = build(spec.model_copy(update=chosen))["lesion"].eval()
    model.load_state_dict({key: (value + 0.01).half().float() for key, value in model.state_dict().items()})
    return model


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """As MONAI 0.7 named them, checked by hand against its own UNETR: outputs differ by 0.0."""
    state = {key: value for key, value in model.state_dict().items() if "norm_cross_attn" not in key}
    hidden, feature = ARGUMENTS.hidden_size, ARGUMENTS.feature_size
    state["vit.patch_embedding.cls_token"] = torch.ones(1, 1, hidden)
    for name, channels in (("encoder2.blocks.0", 2), ("encoder2.blocks.1", 2), ("encoder3.blocks.0", 4)):
        state[f"{name}.1.conv3.conv.weight"] = torch.ones(channels * feature, channels * feature, 1, 1, 1)
    return state


def save(folder: Path, state: dict[str, torch.Tensor], hyper_parameters: object = None) -> Path:
    """Write a checkpoint as the published project's own code does."""
    path = folder / "epoch=12.ckpt"
    stored = {f"model.{key}": value for key, value in state.items()}
    for key, value in state.items():
        module, _, rest = key.partition(".")
        if module in BACKBONE:
            stored[f"backbone.{BACKBONE.index(module)}.{rest}"] = value
    content = {"epoch": 12, "pytorch-lightning_version": "1.8.6", "state_dict": stored, "callbacks": {}}
    torch.save(content | {"hyper_parameters": hyper_parameters or {"num_heads": 3}}, path)
    return path


def published_checkpoint(path: Path) -> Path:
    """Write one of a small network with random weights."""
    return save(path.parent, state_of(network())).rename(path)
