"""Model specifications: everything that is particular to a model, in a JSON file beside its weights.

Nothing here loads torch, so that the API can list the models.
"""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from errors import ModelNotFound, ModelSpecInvalid

# The letters of each patient axis; H and F are DICOM's for S and I.
AXES = ({"L", "R"}, {"P", "A"}, {"S", "I", "H", "F"})
# UNETR's transformer cuts its window into patches of so many voxels a side.
PATCH = 16
# Of a Segment Label, 64 characters, what is left beside a number.
LONGEST_NAME = 56
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
# Of the model's grid, as its orientation names them.
Axis = Literal[0, 1, 2]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Weights(_Part):
    """file: beside the spec, safetensors; its keys begin with "lesion." or "brain.", the network they are of.

    sha256: of that file, hexadecimal.
    """

    file: str = Field(pattern=r"^[\w.-]+\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class UNETRArguments(_Part):
    """The arguments of MONAI's UNETR (Hatamizadeh 2022), all stated: its defaults differ between versions."""

    in_channels: PositiveInt
    out_channels: int = Field(ge=2)
    img_size: Triple
    feature_size: PositiveInt
    hidden_size: PositiveInt
    mlp_dim: PositiveInt
    num_heads: PositiveInt
    proj_type: Literal["conv", "perceptron"]
    norm_name: Literal["instance", "batch"]
    conv_block: bool
    res_block: bool
    qkv_bias: bool = False

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_heads, {self.num_heads}")
        if any(size % PATCH for size in self.img_size):
            raise ValueError(f"img_size {list(self.img_size)} is no multiple of {PATCH} on each axis")
        return self


class UNETRNetwork(_Part):
    """A transformer's encoder and a convolutional decoder. arguments: MONAI's UNETR's."""

    name: Literal["UNETR"]
    arguments: UNETRArguments

    def fits(self, window: Triple) -> str | None:
        """Why the network cannot take a window of that shape; None where it can."""
        size = self.arguments.img_size
        return None if window == size else f"is not the network's img_size, {list(size)}"


class UNetArguments(_Part):
    """Arguments of MONAI's residual UNet (Kerfoot 2019). channels: of each level, finest first.

    Each level halves the grid, the first one too: the finest features have twice the grid's spacing.
    """

    in_channels: PositiveInt
    out_channels: int = Field(ge=2)
    channels: tuple[PositiveInt, ...] = Field(min_length=2)
    num_res_units: int = Field(ge=0)
    norm: Literal["instance", "batch"]


class UNetNetwork(_Part):
    """Convolutions alone. arguments: MONAI's UNet's."""

    name: Literal["UNet"]
    arguments: UNetArguments

    def fits(self, window: Triple) -> str | None:
        """Why the network cannot take a window of that shape; None where it can."""
        step = 2 ** len(self.arguments.channels)
        return f"is no multiple of {step} on each axis" if any(size % step for size in window) else None


class DynUNetArguments(_Part):
    """Arguments of MONAI's DynUNet, nnU-Net's network (Isensee 2021), all stated; finest level first.

    kernel_size, strides: of each level, per axis; the first level's strides are usually 1. filters: channels
    of each level. The decoder's kernels are as large as its strides.
    """

    in_channels: PositiveInt
    out_channels: int = Field(ge=2)
    kernel_size: tuple[Triple, ...] = Field(min_length=3)
    strides: tuple[Triple, ...]
    filters: tuple[PositiveInt, ...]
    norm_name: Literal["instance", "batch"]
    res_block: bool
    trans_bias: bool

    @model_validator(mode="after")
    def _alike(self) -> Self:
        counts = (len(self.kernel_size), len(self.strides), len(self.filters))
        if len(set(counts)) != 1:
            raise ValueError("kernel_size, strides and filters have {}, {} and {} levels".format(*counts))
        if any(size % 2 == 0 for kernel in self.kernel_size for size in kernel):
            raise ValueError("kernel_size has an even side, which moves what it sees by half a voxel")
        return self


class DynUNetNetwork(_Part):
    """Convolutions alone, with a stride per level and axis. arguments: MONAI's DynUNet's."""

    name: Literal["DynUNet"]
    arguments: DynUNetArguments

    def fits(self, window: Triple) -> str | None:
        """Why the network cannot take a window of that shape; None where it can."""
        steps = [math.prod(axis) for axis in zip(*self.arguments.strides, strict=True)]
        if any(size % step for size, step in zip(window, steps, strict=True)):
            return f"is no multiple of {steps}, the product of the strides"
        # One voxel alone has no variance to be normalised by.
        coarsest = [size // step for size, step in zip(window, steps, strict=True)]
        return "leaves one voxel on the coarsest level" if math.prod(coarsest) == 1 else None


AnyNetwork = UNETRNetwork | UNetNetwork | DynUNetNetwork
Network = Annotated[AnyNetwork, Field(discriminator="name")]


class Window(_Part):
    """shape: of the sliding window, in the spec's orientation. overlap: fraction of the window.

    blend: how a window's voxels count where windows overlap, by a Gaussian around its centre or all alike.
    placement: spread evenly, or at full steps from the first voxel, the last window moved back to the edge.
    padding: of a smaller volume, at its far ends with each input's lowest value, or with 0 at both ends.
    """

    shape: Triple
    overlap: float = Field(ge=0, lt=1)
    blend: Literal["gaussian", "constant"] = "gaussian"
    placement: Literal["even", "from_start"] = "even"
    padding: Literal["lowest_after", "zero_around"] = "lowest_after"


def _must_fit(window: Window, network: AnyNetwork) -> None:
    fault = network.fits(window.shape)
    if fault is not None:
        raise ValueError(f"window.shape {list(window.shape)} {fault}")


def _must_count(network: AnyNetwork, inputs: int, labels: int) -> None:
    arguments = network.arguments
    if (arguments.in_channels, arguments.out_channels) != (inputs, labels + 1):
        raise ValueError(
            f"in_channels {arguments.in_channels} and out_channels {arguments.out_channels} of the network "
            f"are not {inputs} and {labels + 1}: one for each input, one for the background and each label"
        )


class Brain(_Part):
    """Where the lesions are sought: in the brain, which a network of its own finds on a coarser grid.

    factor: voxels of the model's grid in a voxel of the brain's grid, on each axis. It sees the intensities
    that the model sees, of the first input. margin_mm: how far around the brain lesions are sought.
    window: of the brain's grid. plausible_ml: the least and the largest brain that is believed; a volume
    without one is refused.
    """

    network: UNetNetwork
    window: Window
    factor: PositiveInt
    margin_mm: float = Field(ge=0)
    plausible_ml: tuple[PositiveFloat, PositiveFloat]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _must_fit(self.window, self.network)
        _must_count(self.network, inputs=1, labels=1)
        if self.plausible_ml[0] >= self.plausible_ml[1]:
            raise ValueError(f"plausible_ml, {list(self.plausible_ml)}, is an empty range")
        return self


class DivideByMaximum(_Part):
    """Divide by the volume's maximum, times ``to``."""

    step: Literal["divide_by_maximum"]
    to: float


class ScaleRange(_Part):
    """Map the interval ``source`` onto ``target``, linearly; beyond it clipped or extrapolated."""

    step: Literal["scale_range"]
    source: tuple[float, float]
    target: tuple[float, float]
    clip: bool

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.source[0] == self.source[1]:
            raise ValueError(f"source is the empty interval {list(self.source)}")
        return self


class ClipPercentiles(_Part):
    """Clip to two percentiles of the head's voxels."""

    step: Literal["clip_percentiles"]
    lower: float = Field(ge=0, le=100)
    upper: float = Field(ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower, {self.lower:g}, is not below upper, {self.upper:g}")
        return self


class ZScore(_Part):
    """Subtract the mean of the head's voxels, divide by their standard deviation."""

    step: Literal["zscore"]


IntensityStep = Annotated[
    DivideByMaximum | ScaleRange | ClipPercentiles | ZScore, Field(discriminator="step")
]


class Resampling(_Part):
    """How the model's grid lies on the acquired one.

    grid: whole voxels that cover the acquired box ("extent"), or the exact spacing from the centre of the
    first voxel ("first_centre", as MONAI's Spacing). smooth: before coarse steps, so that detail does not
    alias.
    """

    grid: Literal["extent", "first_centre"] = "extent"
    smooth: bool = True


class Crop(_Part):
    """to: the box of the head (see ``unetr.preprocess``), of the voxels above 0, or no crop.

    It is taken from the acquired intensities, before the intensity steps.
    """

    to: Literal["head", "foreground", "none"]
    margin_mm: float = Field(0.0, ge=0)


class ConceptCode(_Part):
    """A DICOM code."""

    value: str
    scheme: str
    meaning: str


class Label(_Part):
    """An output channel's meaning; value 0 is the background, the others follow as the channels do.

    whole: all its voxels are one object, as of a region of a tumour; else each component is one, and they are
    numbered. tracking: what tracking identifiers begin with; without it the name.
    """

    value: int = Field(ge=1, le=255)
    name: str = Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00-\x1f\x7f\\]*$")
    category: ConceptCode
    type: ConceptCode
    whole: bool = False
    tracking: str | None = None


class PostProcessing(_Part):
    """threshold: probability of any label from which a voxel has one. Smaller components are dropped.

    seed_threshold: probability that a component's most probable voxel must exceed, or none.
    minimum_native_voxels: the same minimum in voxels of the acquired grid, whatever their size.
    """

    threshold: float = Field(gt=0, lt=1)
    seed_threshold: float | None = Field(default=None, gt=0, lt=1)
    minimum_volume_mm3: float = Field(ge=0)
    minimum_native_voxels: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _seed_above(self) -> Self:
        if self.seed_threshold is not None and self.seed_threshold < self.threshold:
            raise ValueError(
                f"seed_threshold, {self.seed_threshold:g}, is below threshold, {self.threshold:g}"
            )
        return self

    @property
    def threshold_logit(self) -> float:
        """The logit of that probability."""
        return logit(self.threshold)


class Confidence(_Part):
    """How probable it is that a component is a lesion, fitted on validation heads; see unetr/confidence.py.

    The sum of these, times the logit of its mean probability and the logarithm of its mm3, is a logit.
    """

    intercept: float
    mean_logit: float = Field(ge=0)
    log_volume: float = Field(ge=0)


class ModelSpec(_Part):
    """One model.

    orientation: the patient directions (L/R, P/A, S/I or DICOM's H/F) towards which the indices of the
    network's grid grow, as ``highdicom.Volume.to_patient_orientation`` takes them; a NIfTI-style RAS model is
    "RAS". spacing_mm: of that grid, in that orientation. inputs: the network's channels, sequences as
    ``imaging.sequences`` names them or a name of their own; the grid and the segmentation are those of the
    first. acquired_intensity: steps on the acquired grid, before resampling; intensity: those after it.
    mirroring_axes: test-time augmentation, as nnU-Net's ``allowed_mirroring_axes``: with any, the lesions'
    probability is the mean over the mirror images of all their combinations (``unetr.mirroring``).
    subject: what is found, as titles say it. anatomy: where, CID 4. ``folder`` is where the spec was read.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str
    title: str = Field(max_length=64)
    intended_use: str
    licence: str
    training_data: str
    weights: Weights
    network: Network
    inputs: tuple[str, ...] = Field(min_length=1)
    subject: str = Field(default="Findings", max_length=20, pattern=r"^[A-Za-z][A-Za-z0-9 ]*$")
    anatomy: ConceptCode | None = None
    orientation: str
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    acquired_intensity: tuple[IntensityStep, ...] = ()
    resampling: Resampling = Resampling()
    intensity: tuple[IntensityStep, ...]
    crop: Crop
    window: Window
    # Left out of the JSON where there are none, so that a digest of before this field is still the model's.
    mirroring_axes: tuple[Axis, ...] = Field(default=(), exclude_if=lambda axes: not axes)
    brain: Brain | None = None
    labels: tuple[Label, ...] = Field(min_length=1)
    postprocessing: PostProcessing
    confidence: Confidence | None = None
    folder: Path = Field(Path(), exclude=True)

    @field_validator("orientation")
    @classmethod
    def _one_letter_of_each_axis(cls, orientation: str) -> str:
        if len(orientation) != len(AXES) or not all(axis & set(orientation) for axis in AXES):
            raise ValueError(f"{orientation!r} is not one letter each of L/R, P/A and S/I")
        return orientation

    @model_validator(mode="after")
    def _served(self) -> Self:
        if [label.value for label in self.labels] != list(range(1, len(self.labels) + 1)):
            raise ValueError("the values of labels are not 1, 2 and so on")
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError("inputs names a sequence twice")
        if list(self.mirroring_axes) != sorted(set(self.mirroring_axes)):
            raise ValueError(f"mirroring_axes {list(self.mirroring_axes)} do not rise")
        _must_count(self.network, len(self.inputs), len(self.labels))
        _must_fit(self.window, self.network)
        return self

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all that decides a prediction: weights, grid, thresholds, labels."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def weights_path(self) -> Path:
        """The weights file."""
        return self.folder / self.weights.file


def logit(probability: float) -> float:
    """The logarithm of the odds of a probability between 0 and 1."""
    return math.log(probability / (1.0 - probability))


def load_spec(path: Path) -> ModelSpec:
    """Read one spec, ``<id>.json``. Raises: ModelNotFound, ModelSpecInvalid naming file and field."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(
            f"The model specification {path.name} cannot be read: {error.strerror}."
        ) from error
    try:
        spec = ModelSpec.model_validate_json(content)
    except ValidationError as error:
        fields = "; ".join(_sentence(dict(item)) for item in error.errors())
        raise ModelSpecInvalid(f"{path.name}: {fields}.") from error
    if spec.id != path.stem:
        raise ModelSpecInvalid(f"{path.name}: id: is {spec.id!r}, the file's name says {path.stem!r}.")
    return spec.model_copy(update={"folder": path.parent})


def _sentence(item: dict[str, object]) -> str:
    location = item["loc"]
    field = ".".join(map(str, location)) if isinstance(location, tuple) else ""
    return f"{field or 'spec'}: {str(item['msg']).removeprefix('Value error, ')}"
