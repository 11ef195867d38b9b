"""Model specifications: everything that is specific to a model, in a JSON file next to its weights.

This module does not load torch, so that the API can list the models.
"""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from errors import ModelNotFound, ModelSpecInvalid
from names import DICOM_NAME, require_visible
from unetr.network_spec import AnyNetwork, Network, SpecPart, Triple, UNetNetwork

# The letters of each patient axis; H and F are DICOM's for S and I.
AXES = ({"L", "R"}, {"P", "A"}, {"S", "I", "H", "F"})
# A Segment Label has 64 characters; this leaves room for the lesion's number.
MAX_NAME_LENGTH = 56
# An axis of the model's grid, in the order of its orientation.
Axis = Literal[0, 1, 2]


class Weights(SpecPart):
    """The weights file of a model.

    file: safetensors, next to the spec; its keys begin with their network's name, "lesion." or "brain.".
    sha256: hash of that file, hexadecimal.
    """

    file: str = Field(pattern=r"^[\w.-]+\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Window(SpecPart):
    """The sliding window of a network. shape: in the spec's orientation. overlap: fraction of the window.

    blend: weight of voxels where windows overlap, a Gaussian around the window's centre or constant.
    placement: spread evenly, or at full steps from the first voxel, the last window moved back to the edge.
    padding of a smaller volume: at its far ends with each input's lowest value, or with 0 at both ends.
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


class Brain(SpecPart):
    """The brain's network: lesions are searched in the brain, which it finds on a coarser grid.

    It sees the prepared intensities of the first input. factor: voxels of the model's grid per voxel of the
    brain's grid, along each axis. margin_mm: margin around the brain that is searched too. window: on the
    brain's grid. plausible_ml: smallest and largest plausible brain; other volumes are refused.
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


class DivideByMaximum(SpecPart):
    """The intensity step that divides by the volume's maximum and multiplies by ``to``."""

    step: Literal["divide_by_maximum"]
    to: float


class ScaleRange(SpecPart):
    """The intensity step that maps ``source`` to ``target`` linearly; beyond, it clips or extrapolates."""

    step: Literal["scale_range"]
    source: tuple[float, float]
    target: tuple[float, float]
    clip: bool

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.source[0] == self.source[1]:
            raise ValueError(f"source is the empty interval {list(self.source)}")
        return self


class ClipPercentiles(SpecPart):
    """The intensity step that clips to two percentiles of the head's voxels."""

    step: Literal["clip_percentiles"]
    lower: float = Field(ge=0, le=100)
    upper: float = Field(ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower, {self.lower:g}, is not below upper, {self.upper:g}")
        return self


class ZScore(SpecPart):
    """The intensity step that subtracts the head's mean and divides by the head's standard deviation."""

    step: Literal["zscore"]


IntensityStep = Annotated[
    DivideByMaximum | ScaleRange | ClipPercentiles | ZScore, Field(discriminator="step")
]


class Resampling(SpecPart):
    """The resampling from the acquired grid to the model's grid.

    grid: whole voxels that cover the acquired box ("extent"), or the exact spacing from the centre of the
    first voxel ("first_centre", as MONAI's Spacing). smooth: filter before coarse steps, so that detail does
    not alias.
    """

    grid: Literal["extent", "first_centre"] = "extent"
    smooth: bool = True


class Crop(SpecPart):
    """The crop to the box of the head (see ``unetr.preprocess``), of the voxels above 0, or none.

    The box is found before the steps of ``ModelSpec.intensity``.
    """

    to: Literal["head", "foreground", "none"]
    margin_mm: float = Field(0.0, ge=0)


class ConceptCode(SpecPart):
    """A DICOM coded concept."""

    value: str
    scheme: str
    meaning: str


class Label(SpecPart):
    """The meaning of an output channel. Value 0 is the background; labels are numbered like the channels.

    whole: all voxels are one object, e.g. a region of a tumour; otherwise each component is an object with a
    number. tracking: prefix of tracking identifiers, by default the name.
    """

    value: int = Field(ge=1, le=255)
    name: Annotated[
        str,
        Field(min_length=1, max_length=MAX_NAME_LENGTH, pattern=DICOM_NAME),
        AfterValidator(require_visible),
    ]
    category: ConceptCode
    type: ConceptCode
    whole: bool = False
    tracking: str | None = None


class PostProcessing(SpecPart):
    """The settings that turn probabilities into objects.

    threshold: a voxel is labelled if its probability of any label exceeds it. seed_threshold: a component
    smaller than a sphere of 10 mm is kept only if its highest probability exceeds it. minimum_volume_mm3:
    smaller components are dropped. minimum_native_voxels: the same minimum in voxels of the acquired grid,
    whatever their size.
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
        """Return the logit of the threshold."""
        return logit(self.threshold)


class Confidence(SpecPart):
    """The calibration of a component's confidence, fitted on validation heads; see unetr/confidence.py.

    logit(confidence) = intercept + mean_logit * logit(mean probability) + log_volume * log(volume in mm3).
    """

    intercept: float
    mean_logit: float = Field(ge=0)
    log_volume: float = Field(ge=0)


class Trained(SpecPart):
    """The range of the training cases, beyond which a result has a warning (``unetr.cautions``).

    largest_mm: diameter of the sphere of the largest lesions' volume (99th percentile). brain_intensities:
    lowest and highest 5th, 50th and 95th percentile of the prepared images in the brain; None if the model
    has no brain.
    """

    largest_mm: PositiveFloat
    brain_intensities: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] | None = None


class ModelSpec(SpecPart):
    """The specification of a model.

    orientation: the patient directions (L/R, P/A, S/I or DICOM's H/F) in which the indices of the network's
    grid increase, as for ``highdicom.Volume.to_patient_orientation``; a NIfTI-style RAS model is "RAS".
    spacing_mm: of that grid, in that orientation. inputs: the network's channels, sequences as named in
    ``imaging.sequences`` or other names; the first one defines the grid of the segmentation.
    acquired_intensity: steps on the acquired grid, before resampling; intensity: steps after it.
    mirroring_axes: test-time augmentation, as nnU-Net's ``allowed_mirroring_axes``: if there are any, the
    lesions' probability is the mean over the mirror images of all combinations (``unetr.mirroring``).
    subject: what is segmented, for titles. anatomy: body region, CID 4. folder: where the spec was read from.
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
    # Left out of the JSON if empty, so that digests from before this field existed stay valid.
    mirroring_axes: tuple[Axis, ...] = Field(default=(), exclude_if=lambda axes: not axes)
    brain: Brain | None = None
    labels: tuple[Label, ...] = Field(min_length=1)
    postprocessing: PostProcessing
    confidence: Confidence | None = None
    trained: Trained | None = Field(default=None, exclude_if=lambda trained: trained is None)
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
            raise ValueError(f"mirroring_axes {list(self.mirroring_axes)} are not in increasing order")
        _must_count(self.network, len(self.inputs), len(self.labels))
        _must_fit(self.window, self.network)
        return self

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all that determines a prediction: weights, grid, thresholds, labels."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def weights_path(self) -> Path:
        """Return the path of the weights file."""
        return self.folder / self.weights.file


def logit(probability: float) -> float:
    """Return the logarithm of the odds of a probability between 0 and 1."""
    return math.log(probability / (1.0 - probability))


def load_spec(path: Path) -> ModelSpec:
    """Read a spec from ``<id>.json``. Raises: ModelNotFound; ModelSpecInvalid, which names file and field."""
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
