"""The networks that a model's specification can name, with their arguments."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

# UNETR's transformer divides its window into patches of this many voxels a side.
PATCH = 16

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class SpecPart(BaseModel):
    """A part of a specification: it refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class UNETRArguments(SpecPart):
    """Arguments of MONAI's UNETR (Hatamizadeh 2022), all stated: its defaults differ between versions."""

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
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads, {self.num_heads}"
            )
        if any(size % PATCH for size in self.img_size):
            raise ValueError(f"img_size {list(self.img_size)} is not a multiple of {PATCH} on each axis")
        return self


class UNETRNetwork(SpecPart):
    """A network with a transformer encoder and a convolutional decoder, MONAI's UNETR."""

    name: Literal["UNETR"]
    arguments: UNETRArguments

    def fits(self, window: Triple) -> str | None:
        """Return why the network cannot take a window of that shape; None if it can."""
        size = self.arguments.img_size
        return None if window == size else f"is not the network's img_size, {list(size)}"


class UNetArguments(SpecPart):
    """Arguments of MONAI's residual UNet (Kerfoot 2019). channels: one number per level, finest first.

    Each level halves the grid, even the first one: the finest features have twice the grid's spacing.
    """

    in_channels: PositiveInt
    out_channels: int = Field(ge=2)
    channels: tuple[PositiveInt, ...] = Field(min_length=2)
    num_res_units: int = Field(ge=0)
    norm: Literal["instance", "batch"]


class UNetNetwork(SpecPart):
    """A fully convolutional network, MONAI's UNet."""

    name: Literal["UNet"]
    arguments: UNetArguments

    def fits(self, window: Triple) -> str | None:
        """Return why the network cannot take a window of that shape; None if it can."""
        step = 2 ** len(self.arguments.channels)
        return f"is not a multiple of {step} on each axis" if any(size % step for size in window) else None


class DynUNetArguments(SpecPart):
    """Arguments of MONAI's DynUNet, nnU-Net's network (Isensee 2021), all stated; finest level first.

    kernel_size, strides: per level and axis; the first level's strides are usually 1. filters: channels per
    level. The decoder's kernels are as large as its strides.
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
            raise ValueError("kernel_size has an even side, which shifts the output by half a voxel")
        return self


class DynUNetNetwork(SpecPart):
    """A fully convolutional network with a stride per level and axis, MONAI's DynUNet."""

    name: Literal["DynUNet"]
    arguments: DynUNetArguments

    def fits(self, window: Triple) -> str | None:
        """Return why the network cannot take a window of that shape; None if it can."""
        steps = [math.prod(axis) for axis in zip(*self.arguments.strides, strict=True)]
        if any(size % step for size, step in zip(window, steps, strict=True)):
            return f"is not a multiple of {steps}, the product of the strides"
        # A single voxel has no variance for the normalisation.
        coarsest = [size // step for size, step in zip(window, steps, strict=True)]
        return "leaves one voxel on the coarsest level" if math.prod(coarsest) == 1 else None


AnyNetwork = UNETRNetwork | UNetNetwork | DynUNetNetwork

Network = Annotated[AnyNetwork, Field(discriminator="name")]
