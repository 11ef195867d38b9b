"""Weights are loaded whole, from the very file that the spec names, or not at all."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.models import SHIPPED
from errors import WeightsInvalid
from unetr.network import build, load_weights, save_weights
from unetr.network_spec import UNetArguments, UNetNetwork, UNETRArguments, UNETRNetwork
from unetr.spec import load_spec

SMALL = UNETRNetwork(
    name="UNETR",
    arguments=UNETRArguments(
        in_channels=1, out_channels=2, img_size=(32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=48,
        num_heads=2, proj_type="conv", norm_name="instance", conv_block=True, res_block=True,
    ),
)  # fmt: skip


SMALL_BRAIN = UNetNetwork(
    name="UNet",
    arguments=UNetArguments(
        in_channels=1, out_channels=2, channels=(4, 4, 4), num_res_units=1, norm="instance"
    ),
)


def network(seed: int) -> torch.nn.ModuleDict:
    torch.manual_seed(seed)
    spec = load_spec(SHIPPED)
    brain = spec.brain.model_copy(update={"network": SMALL_BRAIN})
    return build(spec.model_copy(update={"network": SMALL, "brain": brain})).eval()


def stored_sha256(tensors: dict[str, torch.Tensor], path: Path) -> str:
    save_file(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["lesion", "brain"])
def test_each_network_gives_a_logit_per_channel_and_voxel(name):
    with torch.inference_mode():
        assert network(0)[name](torch.zeros(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)


def test_weights_come_back_in_single_precision_as_half_precision_holds_them(tmp_path):
    path = tmp_path / "w.safetensors"
    saved, loaded = network(1), network(2)
    sha256 = save_weights(saved, path)
    load_weights(loaded, path, sha256)
    for name, parameter in loaded.state_dict().items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, saved.state_dict()[name].half().float()), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"networks": "lesion, brain"}
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_the_same_weights_make_the_same_file(tmp_path):
    first = save_weights(network(1), tmp_path / "a.safetensors")
    assert first == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert first == save_weights(network(1), tmp_path / "b.safetensors")
    assert first != save_weights(network(2), tmp_path / "c.safetensors")


def test_a_file_of_another_hash_is_refused_with_both_hashes(tmp_path):
    path = tmp_path / "w.safetensors"
    actual = save_weights(network(1), path)
    with pytest.raises(WeightsInvalid) as caught:
        load_weights(network(2), path, "0" * 64)
    assert actual in caught.value.problem
    assert "0" * 64 in caught.value.problem


def test_keys_that_do_not_fit_are_named_and_the_network_stays_as_it_was(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {name: tensor.clone() for name, tensor in network(1).state_dict().items()}
    removed = "lesion.vit.patch_embedding.position_embeddings"
    del tensors[removed]
    tensors["backbone.extra"] = torch.zeros(3)
    tensors["lesion.out.conv.conv.bias"] = torch.zeros(7)
    sha256 = stored_sha256(tensors, path)
    target = network(2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsInvalid) as caught:
        load_weights(target, path, sha256)
    assert caught.value.problem.endswith(
        f"Keys missing: {removed}; unexpected: backbone.extra; of another shape: lesion.out.conv.conv.bias."
    )
    assert caught.value.details["missing"] == [removed]
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_and_the_network_stays_as_it_was(tmp_path, value):
    path = tmp_path / "w.safetensors"
    tensors = {name: tensor.clone() for name, tensor in network(1).state_dict().items()}
    tensors["lesion.out.conv.conv.bias"][0] = value
    target = network(2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsInvalid, match=r"Keys not finite: lesion\.out\.conv\.conv\.bias\."):
        load_weights(target, path, stored_sha256(tensors, path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_many_keys_at_fault_are_counted_in_the_sentence_and_listed_in_the_details(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {f"model.{name}": tensor for name, tensor in network(1).state_dict().items()}
    with pytest.raises(
        WeightsInvalid, match=rf"missing: .* and {len(tensors) - 5} more; unexpected: "
    ) as caught:
        load_weights(network(2), path, stored_sha256(tensors, path))
    assert "\n" not in caught.value.problem
    assert caught.value.details["unexpected"] == sorted(tensors)


def test_a_missing_file_and_one_of_another_format_are_refused(tmp_path):
    with pytest.raises(WeightsInvalid, match=r"absent\.safetensors cannot be read"):
        load_weights(network(1), tmp_path / "absent.safetensors", "0" * 64)
    path = tmp_path / "pickled.safetensors"
    torch.save(network(1).state_dict(), path)
    with pytest.raises(WeightsInvalid, match=r"pickled\.safetensors are not a safetensors file"):
        load_weights(network(1), path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_shipped_weights_are_those_of_the_shipped_spec_and_small():
    spec = load_spec(SHIPPED)
    shipped = build(spec)
    load_weights(shipped, spec.weights_path, spec.weights.sha256)
    assert set(shipped) == {"lesion", "brain"}
    assert all(torch.isfinite(tensor).all() for tensor in shipped.state_dict().values())
    assert spec.weights_path.stat().st_size <= 15e6
