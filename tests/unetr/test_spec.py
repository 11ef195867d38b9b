"""A spec says all that is particular to a model, and what is wrong with it is said by file and field."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from errors import ModelNotFound, ModelSpecInvalid
from unetr.served import DEFAULT_MODEL, default_model, find_models
from unetr.spec import load_spec

ROOT = Path(__file__).parents[2]
WEIGHTS_DIR = ROOT / "unetr" / "weights"
# The preprocessing and network that Dessoude et al. 2025 (NeuroImage 306:121002) published.
PUBLISHED = {
    "id": "published",
    "version": "1.0",
    "title": "UNETR fine-tuned from BTCV",
    "intended_use": "Research",
    "licence": "unknown",
    "training_data": "132 patients",
    "weights": {"file": "published.safetensors", "sha256": "0" * 64},
    "network": {
        "name": "UNETR",
        "arguments": {
            "in_channels": 1,
            "out_channels": 2,
            "img_size": [96, 96, 96],
            "feature_size": 16,
            "hidden_size": 768,
            "mlp_dim": 3072,
            "num_heads": 12,
            "proj_type": "perceptron",
            "norm_name": "instance",
            "conv_block": True,
            "res_block": True,
        },
    },
    "inputs": ["T1 post-contrast"],
    "orientation": "LAS",
    "spacing_mm": [1.5, 1.5, 2.0],
    "intensity": [
        {"step": "divide_by_maximum", "to": 255},
        {"step": "scale_range", "source": [-200, 300], "target": [0, 1], "clip": True},
    ],
    "crop": {"to": "foreground"},
    "window": {"shape": [96, 96, 96], "overlap": 0.25, "blend": "constant"},
    "labels": [
        {
            "value": 1,
            "name": "Metastasis",
            "category": {
                "value": "49755003",
                "scheme": "SCT",
                "meaning": "Morphologically Abnormal Structure",
            },
            "type": {"value": "14799000", "scheme": "SCT", "meaning": "Neoplasm, Secondary"},
        }
    ],
    "postprocessing": {"threshold": 0.5, "minimum_volume_mm3": 450.0},
}


BRAIN = {
    "network": {
        "name": "UNet",
        "arguments": {
            "in_channels": 1,
            "out_channels": 2,
            "channels": [8, 8, 16, 16, 16],
            "num_res_units": 1,
            "norm": "instance",
        },
    },
    "window": {"shape": [64, 64, 64], "overlap": 0.25},
    "factor": 3,
    "margin_mm": 3.0,
    "plausible_ml": [700.0, 2400.0],
}


DYNUNET = {
    "name": "DynUNet",
    "arguments": {
        "in_channels": 1,
        "out_channels": 2,
        "kernel_size": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
        "filters": [8, 16, 32],
        "norm_name": "instance",
        "res_block": False,
        "trans_bias": False,
    },
}


def dynunet(**arguments: object) -> dict:
    return {**DYNUNET, "arguments": DYNUNET["arguments"] | arguments}


def write(folder: Path, spec: object, name: str = "published") -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(spec))
    return path


def change(field: str, value: object) -> dict:
    """The published spec with one value put in, by its dotted place."""
    spec = copy.deepcopy(PUBLISHED)
    *parents, last = field.split(".")
    place = spec
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return spec


def test_the_published_model_can_be_expressed(tmp_path):
    spec = load_spec(write(tmp_path, PUBLISHED))
    assert (spec.orientation, spec.spacing_mm, spec.crop.to) == ("LAS", (1.5, 1.5, 2.0), "foreground")
    assert [step.step for step in spec.intensity] == ["divide_by_maximum", "scale_range"]
    assert spec.weights_path == tmp_path / "published.safetensors"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("colour", "red", "colour: Extra inputs"),
        ("window.stride", 3, "window.stride: Extra inputs"),
        ("version", 3, "version: Input should be a valid string"),
        ("weights.file", "../elsewhere.safetensors", "weights.file: "),
        ("weights.sha256", "abc", "weights.sha256: "),
        (
            "network.name",
            "SegResNet",
            "does not match any of the expected tags: 'UNETR', 'UNet', 'DynUNet'",
        ),
        ("network.arguments.bogus", 1, "network.UNETR.arguments.bogus: Extra inputs"),
        (
            "network.arguments.in_channels",
            4,
            "spec: in_channels 4 and out_channels 2 of the network are not 1 and 2",
        ),
        (
            "network.arguments.out_channels",
            4,
            "spec: in_channels 1 and out_channels 4 of the network are not 1 and 2",
        ),
        ("network.arguments.num_heads", 0, "network.UNETR.arguments.num_heads: "),
        (
            "network.arguments.num_heads",
            11,
            "network.UNETR.arguments: hidden_size 768 is not a multiple of num_heads",
        ),
        (
            "network.arguments.img_size",
            [96, 96, 90],
            "network.UNETR.arguments: img_size [96, 96, 90] is not a multiple",
        ),
        ("window.shape", [64, 64, 64], "spec: window.shape [64, 64, 64] is not the network's img_size"),
        ("network", dynunet(filters=[8, 16]), "network.DynUNet.arguments: kernel_size, strides and filters"),
        (
            "network",
            dynunet(kernel_size=[[3, 3, 2]] * 3),
            "network.DynUNet.arguments: kernel_size has an even",
        ),
        ("network", dynunet(strides=[[5, 1, 1]] * 3), "96] is not a multiple of [125, 1, 1], the product"),
        ("network", dynunet(strides=[[4, 4, 4], [4, 4, 4], [6, 6, 6]]), "leaves one voxel on the coarsest"),
        (
            "network",
            dynunet(out_channels=3),
            "in_channels 1 and out_channels 3 of the network are not 1 and 2",
        ),
        ("window.overlap", 1.0, "window.overlap: "),
        ("window.blend", "average", "window.blend: "),
        ("mirroring_axes", [3], "mirroring_axes.0: Input should be 0, 1 or 2"),
        ("mirroring_axes", ["x"], "mirroring_axes.0: Input should be 0, 1 or 2"),
        ("mirroring_axes", [1, 0], "spec: mirroring_axes [1, 0] are not in increasing order"),
        ("mirroring_axes", [0, 0], "spec: mirroring_axes [0, 0] are not in increasing order"),
        ("inputs", ["T1", "FLAIR"], "spec: in_channels 1 and out_channels 2 of the network are not 2 and 2"),
        ("orientation", "LLS", "orientation: 'LLS' is not one letter each"),
        ("orientation", "RASS", "orientation: 'RASS' is not one letter each"),
        ("spacing_mm", [1.5, 0.0, 1.5], "spacing_mm.1: "),
        ("spacing_mm", [1.5, float("nan"), 1.5], "spacing_mm.1: "),
        ("intensity.0.step", "histogram", "intensity.0: "),
        ("intensity.1.source", [3, 3], "intensity.1.scale_range: source is the empty interval [3.0, 3.0]"),
        (
            "intensity.0",
            {"step": "clip_percentiles", "lower": 99, "upper": 1},
            "intensity.0.clip_percentiles: lower, 99, is not below upper, 1",
        ),
        ("crop.to", "brain", "crop.to: "),
        ("brain", {**BRAIN, "factor": 0}, "brain.factor: "),
        ("brain", {**BRAIN, "window": {"shape": [64, 64, 60], "overlap": 0.25}}, "is not a multiple of 32"),
        (
            "brain",
            {**BRAIN, "plausible_ml": [2400, 700]},
            "brain: plausible_ml, [2400.0, 700.0], is an empty",
        ),
        ("labels.0.value", 300, "labels.0.value: "),
        ("labels.0.name", "NCR\x9b", "labels.0.name: "),
        ("labels.0.name", "\u200b", "labels.0.name: "),
        ("labels.0.type", {"value": "1", "scheme": "SCT"}, "labels.0.type.meaning: Field required"),
        ("postprocessing.threshold", 1.0, "postprocessing.threshold: "),
    ],
)
def test_what_is_wrong_is_said_by_file_and_field(tmp_path, field, value, message):
    with pytest.raises(ModelSpecInvalid) as caught:
        load_spec(write(tmp_path, change(field, value)))
    assert caught.value.problem.startswith("published.json: ")
    assert message in caught.value.problem


def test_a_dynunet_may_have_other_strides_on_each_axis(tmp_path):
    spec = change("network", DYNUNET) | {"window": {"shape": [32, 64, 18], "overlap": 0.25}}
    assert load_spec(write(tmp_path, spec)).network.arguments.strides[1] == (2, 2, 1)


def test_every_field_at_fault_is_named_at_once(tmp_path):
    spec = change("crop.to", "brain") | {"licence": None}
    with pytest.raises(ModelSpecInvalid, match=r"licence: .*; crop\.to: "):
        load_spec(write(tmp_path, spec))


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}", b"[]"])
def test_a_file_that_is_no_spec_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ModelSpecInvalid, match=r"^broken\.json: spec: "):
        load_spec(path)


def test_a_spec_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(ModelNotFound, match=r"absent\.json"):
        load_spec(tmp_path / "absent.json")


def test_the_id_is_the_files_name_so_that_no_model_hides_another(tmp_path):
    with pytest.raises(ModelSpecInvalid, match=r"copy\.json: id: is 'published', .* 'copy'"):
        load_spec(write(tmp_path, PUBLISHED, "copy"))


def test_models_are_found_by_id(tmp_path):
    write(tmp_path, PUBLISHED)
    write(tmp_path, PUBLISHED | {"id": "other"}, "other")
    assert {name: spec.id for name, spec in find_models(tmp_path).items()} == {
        "published": "published",
        "other": "other",
    }
    assert find_models(tmp_path / "absent") == {}


def test_the_default_is_the_named_file_then_the_shipped_model_then_the_only_one(tmp_path):
    assert default_model(WEIGHTS_DIR).id == DEFAULT_MODEL
    write(tmp_path, PUBLISHED)
    assert default_model(tmp_path).id == "published"
    assert default_model(WEIGHTS_DIR, tmp_path / "published.safetensors").id == "published"
    write(tmp_path, PUBLISHED | {"id": "other"}, "other")
    with pytest.raises(ModelNotFound, match=f"2 models, but no model is named {DEFAULT_MODEL}"):
        default_model(tmp_path)


def test_the_named_weights_are_the_ones_that_the_spec_loads(tmp_path):
    write(tmp_path, PUBLISHED | {"id": "newer"}, "newer")
    with pytest.raises(
        ModelSpecInvalid, match=r"is published\.safetensors, MODEL_PATH names newer\.safetens"
    ):
        default_model(tmp_path, tmp_path / "newer.safetensors")


def test_reading_specs_loads_no_torch():
    code = (
        "import sys; from pathlib import Path; from unetr.served import find_models; "
        "find_models(Path('unetr/weights')); print(*({'torch', 'monai', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# By its version, the digest of each shipped model, with which its results were recorded.
RECORDED_DIGESTS = {
    ("metscope-unet", "0.5.0"): "0757504e2a48cb166f5b28bd19996500cf5ba4c3eaa315039dbd09a4ce0ce717",
    ("metscope-compact", "0.3.0"): "afe2cd79704796f890f2bf4ca04e7a99b93b73efa5e5acee2a44157764585b27",
}


def test_results_of_a_shipped_model_are_recognised_until_its_version_changes():
    digests = {(spec.id, spec.version): spec.digest for spec in find_models(WEIGHTS_DIR).values()}
    assert digests == RECORDED_DIGESTS
