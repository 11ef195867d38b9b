"""A published checkpoint becomes a served model: every key by its name, and nothing of it is executed."""

import enum
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from errors import WeightsInvalid
from tests.published import ARGUMENTS, network, save, state_of
from unetr.import_checkpoint import Placeholder, import_checkpoint, main, read_checkpoint
from unetr.network import build, golden_logits, load_network, load_weights
from unetr.spec import load_spec


@pytest.fixture
def project(monkeypatch) -> types.ModuleType:
    """A module of the checkpoint's project with an enumeration, which reading it must not import."""
    module = types.ModuleType("their_project")
    kind = enum.Enum("EmbeddingKind", {"PERCEPTRON": "perceptron"}, module="their_project")
    module.EmbeddingKind = kind
    monkeypatch.setitem(sys.modules, "their_project", module)
    return module


@pytest.mark.parametrize("proj_type", ["perceptron", "conv"])
def test_the_imported_model_says_what_the_checkpoint_s_network_says(
    tmp_path, project, monkeypatch, proj_type
):
    model = network(ARGUMENTS.model_copy(update={"proj_type": proj_type}))
    kinds = {"pos_embed": project.EmbeddingKind.PERCEPTRON, "num_heads": 3, "path": Path("/data")}
    path = save(tmp_path, state_of(model), kinds)
    monkeypatch.delitem(sys.modules, "their_project")
    main(["--checkpoint", str(path), "--out", str(tmp_path / "models"), "--id", "theirs"])

    assert "their_project" not in sys.modules
    spec = load_spec(tmp_path / "models" / "theirs.json")
    assert spec.network.arguments == ARGUMENTS.model_copy(update={"proj_type": proj_type})
    assert (spec.orientation, spec.spacing_mm) == ("LAS", (1.5, 1.5, 2.0))
    imported = build(spec)
    load_weights(imported, spec.weights_path, spec.weights.sha256)
    window = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 32, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        assert torch.equal(imported["lesion"].eval()(window), model(window))
    assert np.array_equal(golden_logits(spec), np.load(tmp_path / "models" / "theirs.golden.npy"))
    # A training may begin with it.
    begun = build(spec)["lesion"]
    load_network(begun, spec.weights_path, "lesion")
    assert torch.equal(begun.state_dict()["out.conv.conv.bias"], model.state_dict()["out.conv.conv.bias"])


def test_heads_are_counted_by_the_size_where_nothing_names_them(tmp_path):
    wide = ARGUMENTS.model_copy(update={"hidden_size": 128, "num_heads": 2})
    model = network(wide)
    state = state_of(model) | {"vit.patch_embedding.cls_token": torch.ones(1, 1, 128)}
    spec = import_checkpoint(save(tmp_path, state, {"lr": 1e-4}), tmp_path / "models", "theirs")
    assert spec.network.arguments.num_heads == 2


@pytest.mark.parametrize("prefix", ["model", "backbone", "ema"])
def test_keys_that_nobody_knows_are_all_named(tmp_path, prefix):
    path = save(tmp_path, state_of(network()))
    content = torch.load(path, weights_only=True)
    extra = [f"{prefix}.adapter.{name}" for name in ("a", "b", "c", "d", "e", "f", "g")]
    content["state_dict"] |= {name: torch.zeros(1) for name in extra}
    torch.save(content, path)
    with pytest.raises(WeightsInvalid) as refused:
        import_checkpoint(path, tmp_path / "models", "theirs")
    named = refused.value.details["unexpected"]
    assert [name.removeprefix("model.") for name in extra] == [name.removeprefix("model.") for name in named]
    assert not (tmp_path / "models").exists()


def test_a_backbone_that_is_not_the_model_s_is_refused(tmp_path):
    """It would not be known which of the two was trained."""
    path = save(tmp_path, state_of(network()))
    content = torch.load(path, weights_only=True)
    content["state_dict"]["backbone.0.norm.bias"] = content["state_dict"]["backbone.0.norm.bias"] + 1.0
    torch.save(content, path)
    with pytest.raises(WeightsInvalid, match=r"backbone\.0\.norm\.bias differs from model\.vit\.norm\.bias"):
        import_checkpoint(path, tmp_path / "models", "theirs")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(tmp_path, value):
    state = state_of(network())
    state["out.conv.conv.bias"] = torch.full_like(state["out.conv.conv.bias"], value)
    with pytest.raises(WeightsInvalid, match=r"not finite: out\.conv\.conv\.bias"):
        import_checkpoint(save(tmp_path, state), tmp_path / "models", "theirs")
    assert not (tmp_path / "models").exists()


def test_the_refusal_of_unsafe_content_does_not_advise_to_load_it_anyway(tmp_path):
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"state_dict": Malicious(eval, "1")}))
    with pytest.raises(WeightsInvalid, match="cannot be read safely") as refused:
        read_checkpoint(tmp_path / "bare.ckpt")
    assert "weights_only" not in refused.value.message


def test_a_missing_key_is_named(tmp_path):
    state = state_of(network())
    del state["decoder2.transp_conv.conv.weight"]
    with pytest.raises(WeightsInvalid, match=r"missing: decoder2\.transp_conv\.conv\.weight"):
        import_checkpoint(save(tmp_path, state), tmp_path / "models", "theirs")
    del state["vit.patch_embedding.position_embeddings"]
    with pytest.raises(WeightsInvalid, match=r"does not contain a UNETR: .*position_embeddings"):
        import_checkpoint(save(tmp_path, state), tmp_path / "models", "theirs")


class Malicious:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [eval, exec, os.system, os.mkdir, __import__])
def test_nothing_of_a_checkpoint_is_executed(tmp_path, function):
    trace = tmp_path / "trace"
    argument = {
        os.system: f"touch {trace}", os.mkdir: str(trace), __import__: "antigravity",
    }.get(function, f"open({str(trace)!r}, 'w')")  # fmt: skip
    path = save(tmp_path, state_of(network()), {"kind": Malicious(function, argument)})
    try:
        read = read_checkpoint(path)
    except WeightsInvalid:
        read = None
    assert read is None or isinstance(read["hyper_parameters"]["kind"], Placeholder)
    assert not trace.exists()
    assert "antigravity" not in sys.modules


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsInvalid, match=r"absent\.ckpt cannot be read"):
        read_checkpoint(tmp_path / "absent.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(WeightsInvalid, match="cannot be read safely"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsInvalid, match="no state_dict"):
        read_checkpoint(tmp_path / "other.ckpt")
