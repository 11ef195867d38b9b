"""Import of the UNETR in a PyTorch-Lightning checkpoint, as published by Dessoude et al., as a served model.

    python -m unetr import --checkpoint FILE.ckpt --out MODELS_DIR [--id ID]

No code in the checkpoint is executed: torch reads it with ``weights_only``. Objects other than tensors and
plain values, e.g. enumerations of its project, become placeholders of a class that does nothing.
Each key of the weights is taken, left out or added by its name; unknown keys raise an error that lists them.
The checkpoint does not state its preprocessing; it is that of the publication (NeuroImage 306:121002, 2025).
"""

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from errors import WeightsInvalid
from unetr.network import build, fill, list_keys, write_model
from unetr.network_spec import PATCH, UNETRArguments, UNETRNetwork
from unetr.spec import (
    ConceptCode,
    Crop,
    DivideByMaximum,
    Label,
    ModelSpec,
    PostProcessing,
    Resampling,
    ScaleRange,
    Weights,
    Window,
)

MODEL = "model."
# The published project stores these modules a second time, as `Sequential(*model.backbone)`.
BACKBONE = (
    "vit",
    "encoder1",
    "encoder2",
    "encoder3",
    "encoder4",
    "decoder5",
    "decoder4",
    "decoder3",
    "decoder2",
)
DUPLICATE = re.compile(rf"backbone\.([0-{len(BACKBONE) - 1}])\.(.+)")
# Keys of MONAI 0.7: an unused token, and the third convolution of blocks that add their input unchanged.
LEFT_OUT = re.compile(r"vit\.patch_embedding\.cls_token|encoder[23]\.blocks\.\d+\.1\.conv3\.conv\.weight")
# Keys since MONAI 1.3, for a second input that this network does not have; they keep their initial values.
PUT_IN = re.compile(r"vit\.blocks\.\d+\.norm_cross_attn\.(weight|bias)")
HEAD_SIZE = 64
PATCHES = "vit.patch_embedding.patch_embeddings"


class Placeholder(dict[Any, Any]):
    """An inert stand-in for a class that a checkpoint names and torch does not allow."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the content of a Lightning checkpoint. Raises: WeightsInvalid if it cannot be read safely."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Placeholder, name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsInvalid(f"The checkpoint {path.name} cannot be read: {error.strerror}.") from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        # torch's own message advises loading the file without this protection.
        raise WeightsInvalid(
            f"The checkpoint {path.name} cannot be read safely: it is damaged, or it holds more than tensors "
            "and plain values. Export only its state_dict and hyper_parameters."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise WeightsInvalid(f"{path.name} is not a Lightning checkpoint: it has no state_dict.")
    return content


def import_checkpoint(path: Path, models_dir: Path, model_id: str) -> ModelSpec:
    """Write the model of a checkpoint into a folder, return its specification. Raises: WeightsInvalid."""
    content = read_checkpoint(path)
    state = network_state(content["state_dict"], path)
    spec = published_spec(model_id, arguments_of(state, content.get("hyper_parameters", {}), path))
    networks = build(spec)
    fresh_state = networks["lesion"].state_dict()
    kept = {name: tensor for name, tensor in state.items() if not LEFT_OUT.fullmatch(name)}
    put_in = {name: tensor for name, tensor in fresh_state.items() if PUT_IN.fullmatch(name)}
    fill(networks["lesion"], put_in | kept, path)
    return write_model(spec, networks, models_dir)


def network_state(stored: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Return the model's weights, with the prefix of their keys removed.

    Raises: WeightsInvalid if a key belongs neither to the model nor to its duplicate, or if they differ.
    """
    used = {name.removeprefix(MODEL): value for name, value in stored.items() if name.startswith(MODEL)}
    if not used:
        raise WeightsInvalid(f"The checkpoint {path.name} is of another model. No key begins with {MODEL!r}.")
    unknown = []
    for name, value in stored.items():
        if name.startswith(MODEL):
            continue
        duplicate = DUPLICATE.fullmatch(name)
        twin = f"{BACKBONE[int(duplicate[1])]}.{duplicate[2]}" if duplicate else ""
        if twin not in used:
            unknown.append(name)
        elif not torch.equal(value, used[twin]):
            raise WeightsInvalid(
                f"The checkpoint {path.name} holds two different networks: {name} differs from {MODEL}{twin}."
            )
    if unknown:
        raise WeightsInvalid(
            f"The checkpoint {path.name} is of another model. Keys unexpected: {list_keys(unknown)}.",
            {"unexpected": sorted(unknown)},
        )
    return used


def arguments_of(state: Mapping[str, torch.Tensor], named: Mapping[str, Any], path: Path) -> UNETRArguments:
    """Derive the network's arguments from the shapes of its weights.

    The number of heads is the stored ``num_heads``, or the hidden size / 64. Raises: WeightsInvalid.
    """
    conv = f"{PATCHES}.weight" in state
    try:
        positions = state["vit.patch_embedding.position_embeddings"]
        patches = state[f"{PATCHES}.weight" if conv else f"{PATCHES}.1.weight"]
        first, last = state["encoder1.layer.conv1.conv.weight"], state["out.conv.conv.weight"]
        hidden = state["vit.blocks.0.mlp.linear1.weight"]
    except KeyError as error:
        raise WeightsInvalid(
            f"The checkpoint {path.name} does not contain a UNETR: {error} is missing."
        ) from error
    side = PATCH * round(positions.shape[1] ** (1 / 3))
    heads = named.get("num_heads")
    return UNETRArguments(
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        img_size=(side, side, side),
        feature_size=first.shape[0],
        hidden_size=patches.shape[0],
        mlp_dim=hidden.shape[0],
        num_heads=heads if isinstance(heads, int) else patches.shape[0] // HEAD_SIZE,
        proj_type="conv" if conv else "perceptron",
        norm_name="instance",
        conv_block=True,
        res_block=True,
    )


def published_spec(model_id: str, arguments: UNETRArguments) -> ModelSpec:
    """Return the published model's specification: one sequence, one label."""
    return ModelSpec(
        id=model_id,
        version="1.0",
        title="UNETR of Dessoude et al. 2025",
        intended_use="Research only: brain metastases on post-contrast T1 MRI. Not for diagnosis.",
        licence="As stated by the provider of the checkpoint.",
        training_data="132 patients (Dessoude et al., NeuroImage 306:121002, 2025), after BTCV.",
        weights=Weights(file=f"{model_id}.safetensors", sha256="0" * 64),
        network=UNETRNetwork(name="UNETR", arguments=arguments),
        inputs=("T1 post-contrast",),
        subject="Brain metastases",
        anatomy=ConceptCode(value="12738006", scheme="SCT", meaning="Brain"),
        orientation="LAS",
        spacing_mm=(1.5, 1.5, 2.0),
        acquired_intensity=(DivideByMaximum(step="divide_by_maximum", to=255.0),),
        resampling=Resampling(grid="first_centre", smooth=False),
        intensity=(ScaleRange(step="scale_range", source=(-200.0, 300.0), target=(0.0, 1.0), clip=True),),
        # Its crop to voxels above 0 removes nothing, because the range maps air to 0.4.
        crop=Crop(to="none", margin_mm=0.0),
        window=Window(
            shape=arguments.img_size,
            overlap=0.0,
            blend="constant",
            placement="from_start",
            padding="zero_around",
        ),
        labels=(
            Label(
                value=1,
                name="Metastasis",
                category=ConceptCode(
                    value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure"
                ),
                type=ConceptCode(value="14799000", scheme="SCT", meaning="Neoplasm, Secondary"),
                tracking="BM",
            ),
        ),
        postprocessing=PostProcessing(threshold=0.5, minimum_volume_mm3=0.0, minimum_native_voxels=100),
        folder=Path(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m unetr import",
        description="Convert a Lightning checkpoint of a UNETR into a served model.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE.ckpt")
    parser.add_argument("--out", type=Path, required=True, help="the folder of models (MODELS_DIR)")
    parser.add_argument("--id", default="published", help="the model's id")
    options = parser.parse_args(arguments)
    spec = import_checkpoint(options.checkpoint, options.out, options.id)
    print(f"{spec.folder / spec.id}.json {spec.weights.sha256}")


if __name__ == "__main__":
    main()
