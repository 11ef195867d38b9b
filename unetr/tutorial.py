"""A tutorial on the steps of a model: each runs alone, on a synthetic head, and explains itself.

python -m unetr check        check that everything is installed that the other steps need
python -m unetr pipeline     show how a volume is prepared before a network sees it
python -m unetr build        build the networks of a configuration, show their inputs and outputs
python -m unetr infer        find the lesions of a head and compare them with the truth
python -m unetr visualize    draw the lesions that infer found
"""

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from errors import RequestError
from imaging import nifti
from imaging.grid import MM3_PER_ML
from lesions.measure import components
from reports.slices import AXIAL, draw_slice
from settings import load
from unetr.evaluation.evaluate import find_model, require_model_of_heads
from unetr.evaluation.pictures import save_picture
from unetr.evaluation.scores import match
from unetr.network import build as build_networks
from unetr.network import load_weights
from unetr.predict import Predictor
from unetr.preprocess import head_mask, prepare
from unetr.served import served_models
from unetr.sliding import windows
from unetr.synthesis import cohorts, metastases
from unetr.training.config import load_config

LIBRARIES = ("torch", "monai", "lightning", "highdicom", "openvino", "numpy", "scipy")
SEED = cohorts.HELD_OUT_SEED + 1
IMAGE, TRUTH, FOUND = "image.nii.gz", "truth.nii.gz", "found.nii.gz"


def check(arguments: Sequence[str]) -> None:
    """Print library versions and the device, and check each model's weights against its specification."""
    _parser("check", "Check that everything is installed.").parse_args(arguments)
    print("Libraries that the steps use:")
    for name in LIBRARIES:
        try:
            print(f"  {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name} is missing; `make training` installs it (only training needs it)")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(f"Networks run on {gpu or 'the CPU (no CUDA device): slower, with the same results'}.")
    settings = load()
    for spec in served_models(settings.models_dir, settings.model_path).values():
        load_weights(build_networks(spec), spec.weights_path, spec.weights.sha256)
        print(f"Model {spec.id} {spec.version}: its weights fit its specification and its hash.")
    head = metastases.head(metastases.grid((22, 26, 22), (8.0, 8.0, 8.0)), SEED)
    print(f"A synthetic head can be created: {_shape(head.image)}. Everything works.")


def pipeline(arguments: Sequence[str]) -> None:
    """Show orientation, resampling, crop, intensities and windows, with numbers and a picture."""
    parser = _parser("pipeline", "Show how a volume is prepared for a network.")
    _of_model(parser)
    parser.add_argument("--out", type=Path, default=Path("lesson"), help="folder for pipeline.png")
    options = parser.parse_args(arguments)
    spec, image = find_model(options.model, load()), _head().image
    print(f"Acquired: {_shape(image)}, values {_range(image.array)}: whatever this scanner calls bright.")
    prepared = prepare(image, spec).volume
    print(f"Head: {head_mask(image.array).mean():.0%} of the voxels; the rest is air and is cropped away.")
    print(
        f"Turned so that the axes run to {spec.orientation}, resampled to the spacing of its training, "
        f"cropped: {_shape(prepared)}. Its affine still maps to the patient's mm."
    )
    steps = ", then ".join(
        step.step.replace("_", " ") for step in (*spec.acquired_intensity, *spec.intensity)
    )
    print(f"Intensities ({steps}): values {_range(prepared.array)}, the same for every scanner.")
    count = len(list(windows(prepared.spatial_shape, spec.window)))
    print(
        f"A network sees windows of {'x'.join(map(str, spec.window.shape))} voxels that overlap by "
        f"{spec.window.overlap:.0%}: {count} for the whole head, fewer if the brain is found first."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    _draw(image, prepared, options.out / "pipeline.png")
    print(f"{options.out / 'pipeline.png'} shows the head before and after.")


def build(arguments: Sequence[str]) -> None:
    """Build a configuration's networks with random weights, print their size, run one window through each."""
    parser = _parser("build", "Build the networks of a configuration.")
    parser.add_argument("--config", default="tiny", help="a name in unetr/configs, or a file")
    spec = load_config(parser.parse_args(arguments).config).spec
    shapes = {"lesion": (len(spec.inputs), *spec.window.shape)}
    if spec.brain:
        shapes["brain"] = (1, *spec.brain.window.shape)
    for name, network in build_networks(spec).items():
        print(f"{name}: {type(network).__name__} of MONAI, {_count(network):,} weights, still random.")
        for part, module in network.named_children():
            print(f"  {part}: {type(module).__name__}, {_count(module):,} weights")
        window = torch.zeros(1, *shapes[name])
        started = time.perf_counter()
        with torch.inference_mode():
            answer = network.eval()(window)
        print(
            f"  in {tuple(window.shape)} (batch, channel, x, y, z), out {tuple(answer.shape)}: at each voxel "
            f"a score of the background and of each label; {time.perf_counter() - started:.2f} s"
        )


def infer(arguments: Sequence[str]) -> None:
    """Find the lesions of a synthetic head or of a NIfTI file; write image, truth and segmentation."""
    parser = _parser("infer", "Find the lesions of a head.")
    _of_model(parser)
    parser.add_argument("--image", type=Path, help="a NIfTI file; a synthetic head with its truth otherwise")
    parser.add_argument("--out", type=Path, default=Path("lesson"), help="folder for the NIfTI files")
    options = parser.parse_args(arguments)
    spec = find_model(options.model, load())
    if len(spec.inputs) > 1:
        raise RequestError(
            f"{spec.id} needs {', '.join(spec.inputs)}; give them to segmentation.py with --input NAME=FILE."
        )
    if not options.image:
        require_model_of_heads(spec, "--image")
    head = None if options.image else _head()
    warnings: list[str] = []
    if head:
        image = head.image
    else:
        stack = nifti.read_stack(options.image)
        image = stack.volume
        warnings += [*stack.warnings, *nifti.sequence_warnings(options.image, spec.inputs[0])]
    print(f"{spec.title} {spec.version} analyses {_shape(image)}.")
    started = time.perf_counter()
    prediction = Predictor.load(spec)(image)
    findings = components(prediction.mask)
    number = int(findings.array.max())
    print(f"It found {number} lesions in {time.perf_counter() - started:.1f} s, including loading.")
    options.out.mkdir(parents=True, exist_ok=True)
    nifti.write_values(image, options.out / IMAGE)
    nifti.write_labels(findings, options.out / FOUND)
    (options.out / TRUTH).unlink(missing_ok=True)
    if head:
        nifti.write_labels(head.labels, options.out / TRUTH)
        outcome = match(head.labels, findings)
        for lesion in head.lesions:
            hit = outcome.covered.get(lesion.number, 0.0)
            print(f"  true lesion of {lesion.diameter_mm:4.1f} mm: {hit:.0%} of it covered")
        print(f"  {len(outcome.false_numbers)} of its findings touch no true lesion (false positives)")
    for warning in (*warnings, *prediction.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{options.out} holds {IMAGE} and {FOUND}, which any viewer of NIfTI opens. Research use only.")


def visualize(arguments: Sequence[str]) -> None:
    """Draw three planes through each lesion that infer found, with the truth if it is known."""
    parser = _parser("visualize", "Show what infer found.")
    parser.add_argument("--run", type=Path, default=Path("lesson"), help="the output folder of infer")
    folder = parser.parse_args(arguments).run
    stack = nifti.read_stack(folder / IMAGE)
    findings = nifti.read_mask(folder / FOUND, stack)
    has_truth = (folder / TRUTH).exists()
    truth = (
        nifti.read_mask(folder / TRUTH, stack)
        if has_truth
        else findings.with_array(np.zeros_like(findings.array))
    )
    for number in range(1, int(findings.array.max()) + 1):
        voxels = np.argwhere(findings.array == number)
        centre = findings.map_indices_to_reference(voxels.mean(0)[None])[0]
        path = folder / f"lesion-{number}.png"
        save_picture(stack.volume, truth, findings, centre, path)
        volume_ml = len(voxels) * findings.voxel_volume / MM3_PER_ML
        print(f"{path}: {volume_ml:.2f} ml around {np.rint(centre).astype(int)} mm (LPS)")
    print("Red: found. Green: true." if has_truth else "Red: found. The truth is not known.")


def _parser(step: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m unetr {step}", description=description)


def _of_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="id of a served model, or its JSON file; the default model otherwise")


def _head() -> metastases.Head:
    print(f"Creating a synthetic head (seed {SEED}), so no patient images are needed and the truth is known.")
    return cohorts.head("ordinary", SEED)


def _shape(volume: hd.Volume) -> str:
    spacing = " x ".join(f"{side:.3g}" for side in volume.spacing)
    return f"{' x '.join(map(str, volume.spatial_shape))} voxels of {spacing} mm"


def _range(array: NDArray[np.float32]) -> str:
    return f"{array.min():.1f} to {array.max():.1f}"


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _draw(before: hd.Volume, after: hd.Volume, path: Path) -> None:
    """Draw the middle axial slice of both, in true proportions, the patient's right on the left."""
    figure = Figure(figsize=(8, 4.5), facecolor="black")
    pairs = (("acquired", before), ("prepared", after))
    for axes, (name, volume) in zip(figure.subplots(1, 2), pairs, strict=True):
        turned = volume.to_patient_orientation("LPH")
        middle = AXIAL.cut(turned, np.array(turned.spatial_shape) // 2)
        draw_slice(axes, middle, AXIAL.size_mm(turned), (middle.min(), middle.max()))
        axes.set_title(f"{name}: {_shape(volume)}", color="white", size=8)
    figure.tight_layout()
    figure.savefig(path)
