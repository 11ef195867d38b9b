"""A model's networks, and their weights on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from errors import WeightsInvalid
from unetr.network_spec import AnyNetwork, DynUNetNetwork, UNETRNetwork
from unetr.spec import ModelSpec

NAMED_KEYS = 5


def build(spec: ModelSpec) -> torch.nn.ModuleDict:
    """Build the networks of a spec with random weights: "lesion", and "brain" if the spec has one.

    All of MONAI's arguments are stated, because their defaults differ between versions.
    """
    networks = {"lesion": _build(spec.network)}
    if spec.brain is not None:
        networks["brain"] = _build(spec.brain.network)
    return torch.nn.ModuleDict(networks)


def _build(network: AnyNetwork) -> torch.nn.Module:
    # Importing MONAI is slow; here it costs nothing to callers that fail before they build a network.
    from monai.networks.nets.dynunet import DynUNet  # noqa: PLC0415
    from monai.networks.nets.unet import UNet  # noqa: PLC0415
    from monai.networks.nets.unetr import UNETR  # noqa: PLC0415

    if isinstance(network, UNETRNetwork):
        return UNETR(**network.arguments.model_dump())
    if isinstance(network, DynUNetNetwork):
        arguments = network.arguments.model_dump(exclude={"norm_name"})
        return DynUNet(
            spatial_dims=3, upsample_kernel_size=arguments["strides"][1:], dropout=None,
            norm_name=(network.arguments.norm_name, {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            deep_supervision=False, deep_supr_num=1, **arguments,
        )  # fmt: skip
    channels = network.arguments.channels
    return UNet(
        spatial_dims=3, strides=(2,) * (len(channels) - 1), kernel_size=3, up_kernel_size=3,
        act="PRELU", dropout=0.0, bias=True, adn_ordering="NDA", **network.arguments.model_dump(),
    )  # fmt: skip


def save_weights(networks: torch.nn.ModuleDict, path: Path) -> str:
    """Write the weights in half precision as safetensors and return the file's SHA-256.

    The same weights give the same file. Raises: WeightsInvalid if weights are not finite, or too large for
    half precision.
    """
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in networks.state_dict().items()
    }
    if unusable := sorted(name for name, tensor in halves.items() if not tensor.isfinite().all()):
        raise WeightsInvalid(f"Weights are not finite in half precision: {list_keys(unusable)}.")
    # Only one entry: safetensors writes several in an order that changes from run to run.
    save_file(halves, path, metadata={"networks": ", ".join(networks)})
    # save_file makes it readable to its owner only; the service may run as another user.
    path.chmod(0o644)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_weights(network: torch.nn.Module, path: Path, sha256: str) -> None:
    """Load weights into the network, in single precision, every key by name.

    Raises: WeightsInvalid if the file cannot be read, has another hash, or a key does not fit; in the last
    case its ``details`` list all keys at fault. After an error the network is unchanged.
    """
    content = _content(path)
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise WeightsInvalid(
            f"The weights {path.name} have SHA-256 {actual}, the specification says {sha256}."
        )
    fill(network, _tensors(content, path), path)


def load_network(network: torch.nn.Module, path: Path, name: str) -> None:
    """Load the weights of one network, "lesion" or "brain", from a safetensors file, without a hash check.

    Raises: WeightsInvalid, as ``load_weights`` does.
    """
    stored = _tensors(_content(path), path)
    fill(
        network, {k.removeprefix(f"{name}."): v for k, v in stored.items() if k.startswith(f"{name}.")}, path
    )


def load_matching(network: torch.nn.Module, path: Path, name: str) -> str:
    """Load the tensors of one network of a safetensors file that fit by key and shape; others stay random.

    Returns how many fit, as text. Raises: WeightsInvalid if the file cannot be read or no tensor fits.
    """
    stored = _tensors(_content(path), path)
    own = network.state_dict()
    fitting = {
        key: stored[f"{name}.{key}"].to(tensor.dtype)
        for key, tensor in own.items()
        if f"{name}.{key}" in stored and stored[f"{name}.{key}"].shape == tensor.shape
    }
    if not fitting:
        raise WeightsInvalid(f"No tensor of the weights {path.name} fits the {name} network.")
    network.load_state_dict({**own, **fitting})
    return f"{len(fitting)} of {len(own)} tensors from {path.name}"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsInvalid(f"The weights {path.name} cannot be read: {error.strerror}.") from error


def _tensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load(content)
    except SafetensorError as error:
        raise WeightsInvalid(f"The weights {path.name} are not a safetensors file: {error}.") from error
    return tensors


def fill(network: torch.nn.Module, stored: dict[str, torch.Tensor], path: Path) -> None:
    """Fill the network with the weights of a file, every key by name.

    Raises: WeightsInvalid, which names all keys at fault; the network is then unchanged.
    """
    expected = network.state_dict()
    faults = {
        "missing": sorted(expected.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": sorted(
            name for name in expected.keys() & stored.keys() if expected[name].shape != stored[name].shape
        ),
        "not finite": sorted(name for name, tensor in stored.items() if not tensor.isfinite().all()),
    }
    if any(faults.values()):
        named = "; ".join(f"{fault}: {list_keys(keys)}" for fault, keys in faults.items() if keys)
        raise WeightsInvalid(f"The weights {path.name} do not fit the network. Keys {named}.", faults)
    network.load_state_dict(stored, strict=True)


def list_keys(keys: Sequence[str]) -> str:
    """Join the first names and count the others, for a message."""
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return ", ".join(keys[:NAMED_KEYS]) + more


def write_model(spec: ModelSpec, networks: torch.nn.ModuleDict, models_dir: Path) -> ModelSpec:
    """Write weights, specification and golden logits; return the specification with the weights' hash."""
    models_dir.mkdir(parents=True, exist_ok=True)
    sha256 = save_weights(networks, models_dir / spec.weights.file)
    spec = spec.model_copy(
        update={"weights": spec.weights.model_copy(update={"sha256": sha256}), "folder": models_dir}
    )
    content = json.dumps(spec.model_dump(mode="json", exclude_none=True), indent=2)
    (models_dir / f"{spec.id}.json").write_text(content + "\n")
    np.save(models_dir / f"{spec.id}.golden.npy", golden_logits(spec))
    return spec


def golden_logits(spec: ModelSpec) -> NDArray[np.float32]:
    """Return the lesion network's logits (class, x, y, z) of seeded noise, at every fourth voxel."""
    network = build(spec)["lesion"]
    load_network(network, spec.weights_path, "lesion")
    shape = (len(spec.inputs), *spec.window.shape)
    window = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(window)[None])[0]
    return np.asarray(logits[:, ::4, ::4, ::4].numpy(), dtype=np.float32)
