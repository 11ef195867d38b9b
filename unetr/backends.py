"""The runtimes of a network: CUDA if a GPU has enough free memory, otherwise OpenVINO, otherwise torch.

A backend takes one window, float32 (input, x, y, z), and returns the logit of each label against the
background, float32 (label, x, y, z): the label's channel minus the background's, which is the first.
"""

import copy
import functools
import logging
import warnings
from collections.abc import Callable

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from errors import ModelError, OutOfMemory
from unetr.network import build, load_weights
from unetr.spec import ModelSpec

Array = NDArray[np.float32]
Backend = Callable[[Array], Array]

# Shape of a window: inputs, x, y, z.
Shape = tuple[int, int, int, int]

AGREEMENT = 5e-3
logger = logging.getLogger(__name__)


class Logit(torch.nn.Module):
    """A network (channels background, labels) that returns each label's logit against the background."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        logits = self.network(window)
        difference: torch.Tensor = logits[:, 1:] - logits[:, :1]
        return difference


def load_backends(spec: ModelSpec, device: str = "auto") -> tuple[Backend, Backend | None]:
    """Load the spec's weights once into the fastest backends: for the lesions, and for the brain if the spec
    has one. device: auto, cpu, cuda or, for one of several, cuda:0, cuda:1, …

    Raises: WeightsInvalid; OutOfMemory; ModelError if a CUDA device is requested that does not exist.
    """
    networks = build(spec)
    load_weights(networks, spec.weights_path, spec.weights.sha256)
    lesion = backend_of(networks["lesion"], (len(spec.inputs), *spec.window.shape), device)
    if spec.brain is None:
        return lesion, None
    return lesion, backend_of(networks["brain"], (1, *spec.brain.window.shape), device)


def backend_of(network: torch.nn.Module, window: Shape, device: str) -> Backend:
    """Return the fastest backend for a network (channels background, labels) and its window shape.

    Raises: OutOfMemory; ModelError if a CUDA device is requested that does not exist.
    """
    module = Logit(network).eval()
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ModelError(f"DEVICE is {device}, but torch finds {torch.cuda.device_count()} CUDA devices.")
    if device != "cpu" and torch.cuda.is_available():
        on_gpu = Logit(copy.deepcopy(network)).eval()
        try:
            gpu = _torch_backend(on_gpu.to("cuda" if device == "auto" else device))
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory("The GPU has too little free memory for the model's weights.") from error
        return with_fallback(gpu, lambda: _cpu_backend(module, window))
    return _cpu_backend(module, window)


def with_fallback(first: Backend, make_second: Callable[[], Backend]) -> Backend:
    """Return a backend that runs each window on the first and, if memory runs out, on the second.

    The second is created when first needed. Windows are stitched in main memory, so the GPU never holds more
    than one.
    """
    second = functools.cache(make_second)

    def infer(window: Array) -> Array:
        try:
            return first(window)
        except OutOfMemory as error:
            logger.warning("%s The model runs on the CPU instead.", error.message)
        return second()(window)

    return infer


def _cpu_backend(module: torch.nn.Module, window: Shape) -> Backend:
    reference = _torch_backend(module)
    try:
        candidate = openvino_backend(openvino_model(module, window))
    except RuntimeError as error:
        logger.warning("OpenVINO cannot run this network (%s); torch is used", type(error).__name__)
        return reference
    return trusted(candidate, reference, window)


def trusted(candidate: Backend, reference: Backend, window: Shape) -> Backend:
    """Return the candidate if it agrees with the reference on seeded noise, otherwise the reference."""
    noise = np.random.default_rng(0).normal(size=window).astype(np.float32)
    probability, expected = (
        0.5 * (1.0 + np.tanh(backend(noise) / 2.0)) for backend in (candidate, reference)
    )
    difference = float(np.abs(probability - expected).max())
    # Written so that a NaN counts as a disagreement.
    if difference <= AGREEMENT:
        return candidate
    logger.warning("OpenVINO differs from torch by %.1e in probability; torch is used", difference)
    return reference


def _torch_backend(module: torch.nn.Module) -> Backend:
    device = next(module.parameters()).device

    def infer(window: Array) -> Array:
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
                difference = module(torch.from_numpy(np.ascontiguousarray(window))[None].to(device))
            return np.asarray(difference[0].cpu().numpy(), dtype=np.float32)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory("The GPU has too little free memory for one window.") from error

    return infer


def openvino_model(module: torch.nn.Module, window: Shape) -> openvino.Model:
    """Convert a module to OpenVINO for batches of one window of that shape. Raises: RuntimeError."""
    example = torch.zeros(1, *window)
    with warnings.catch_warnings():
        # Tracing warns about each shape that it treats as a constant; the window's shape is constant.
        warnings.simplefilter("ignore")
        # By default tracing checks itself with further runs of the network; `trusted` checks the result.
        with torch.no_grad():
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, input=[1, *window])


def openvino_backend(model: openvino.Model) -> Backend:
    """Compile the model for the CPU, in single precision except where the model itself is quantized."""
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()

    def infer(window: Array) -> Array:
        result = request.infer({0: np.ascontiguousarray(window)[None]})
        return np.array(result[0][0], dtype=np.float32)

    return infer
