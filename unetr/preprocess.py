"""Preprocessing: from acquired volumes to network inputs. Arrays are (x, y, z) in the spec's orientation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from errors import VolumeTooLarge
from unetr.spec import ClipPercentiles, Crop, DivideByMaximum, IntensityStep, ModelSpec, ScaleRange, ZScore

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

MIN_DIVISOR = 1e-30
HEAD_SHARE = 0.15
# Percentile taken as air, which is not 0 in shifted or z-scored images. Not the minimum: interpolation
# leaves a few voxels far below.
AIR_PERCENTILE = 0.1
BRIGHT_PERCENTILE = 99.0
# Most voxels of the model's grid: 450 mm along each axis at 1.1 mm, and 3 GB during segmentation.
MAX_GRID_VOXELS = 2**26
# Each outer plane of the head's box has at least this many head voxels, so that noise does not widen it.
HEAD_VOXELS = 20
# Linear interpolation averages only two neighbours; coarser steps would alias and are smoothed first.
SMOOTH_FROM_FACTOR = 1.6
SMOOTHING_SIGMA = 0.35
# Largest difference between affines of one grid, from rounded headers.
SAME_GRID_MM = 1e-3


@dataclass(frozen=True)
class Prepared:
    """The inputs of a model, prepared for its network.

    volume: the first input, float32 (x, y, z) on the model's grid, cropped and normalised; its affine maps to
    LPS mm. others: the further inputs on that grid.
    """

    volume: hd.Volume
    others: Sequence[Array] = ()

    @property
    def array(self) -> Array:
        """Return all inputs as one array (input, x, y, z)."""
        first: Array = self.volume.array[None]
        return np.concatenate([first, *(other[None] for other in self.others)]) if self.others else first


def prepare(volume: hd.Volume, spec: ModelSpec, others: Sequence[hd.Volume] = ()) -> Prepared:
    """Orient, resample, crop and normalise the spec's inputs, in its order.

    volume, others: (slice, row, column), any orientation. The axes remain those of the first input's
    acquisition, only permuted and flipped towards the spec's orientation; an oblique stack stays oblique. The
    others are resampled onto its grid by their affines and normalised by their own statistics; outside their
    extent they have their lowest value. Raises: VolumeTooLarge; ValueError for a wrong number of inputs.
    """
    if 1 + len(others) != len(spec.inputs):
        raise ValueError(f"{1 + len(others)} volumes for the inputs {', '.join(spec.inputs)}")
    resampled = _resample(volume, spec)
    head = head_mask(resampled.array)
    box = _box(resampled, head, spec.crop)
    cropped = resampled[box]  # type: ignore[index]  # highdicom's annotation takes one slice only
    normalised = normalise(cropped.array, head[box], spec.intensity)
    further = []
    for other in others:
        moved = _onto(_resample(other, spec), resampled)
        further.append(normalise(moved[box], head_mask(moved)[box], spec.intensity))
    return Prepared(cropped.with_array(np.ascontiguousarray(normalised)), further)


def head_mask(array: Array) -> Mask:
    """Return the voxels brighter than a share of the bright tissue: the head without air around or in it."""
    air, bright = np.percentile(array, [AIR_PERCENTILE, BRIGHT_PERCENTILE])
    return np.asarray(array > air + HEAD_SHARE * (bright - air))


def normalise(array: Array, head: Mask, steps: Sequence[IntensityStep]) -> Array:
    """Apply the spec's intensity steps in order. head: the voxels from which statistics are taken."""
    result = array.astype(np.float32)
    for step in steps:
        inside = result[head] if head.any() else result.ravel()
        match step:
            case DivideByMaximum():
                result = result * (step.to / max(float(result.max()), MIN_DIVISOR))
            case ScaleRange():
                share = (result - step.source[0]) / (step.source[1] - step.source[0])
                result = step.target[0] + share * (step.target[1] - step.target[0])
                result = np.clip(result, min(step.target), max(step.target)) if step.clip else result
            case ClipPercentiles():
                low, high = np.percentile(inside, [step.lower, step.upper])
                result = np.clip(result, low, high)
            case ZScore():
                result = (result - inside.mean()) / max(float(inside.std()), MIN_DIVISOR)
    return result.astype(np.float32)


def resample_labels(truth: hd.Volume, prepared: Prepared) -> hd.Volume:
    """Resample the label volume onto the prepared grid by nearest neighbour; for training."""
    target = prepared.volume
    to_source = truth.inverse_affine @ target.affine
    array = ndimage.affine_transform(
        truth.array, to_source[:3, :3], to_source[:3, 3], output_shape=target.spatial_shape, order=0
    )
    return target.with_array(array)


def resample_share(share: hd.Volume, prepared: Prepared, spec: ModelSpec) -> Array:
    """Resample the share of each voxel that is labelled, 0..1, onto the prepared grid as an image is.

    share: (slice, row, column); returns (x, y, z). For training.
    """
    plain = spec.model_copy(update={"acquired_intensity": ()})
    return np.clip(_onto(_resample(share, plain), prepared.volume), 0.0, 1.0)


def _resample(volume: hd.Volume, spec: ModelSpec) -> hd.Volume:
    """Return the volume in the spec's orientation and near its spacing, as its ``resampling`` says.

    The axes are resampled in memory order and reoriented afterwards, when there are fewer voxels to move.
    Raises: VolumeTooLarge.
    """
    turned = volume.to_patient_orientation(spec.orientation)
    # A grid that begins at the first voxel depends on the orientation, so orient before resampling.
    from_turned = spec.resampling.grid == "first_centre"
    volume = turned if from_turned else volume
    axis_of = np.abs(volume.direction.T @ turned.direction).argmax(axis=0)
    spacing_mm = np.empty(3)
    spacing_mm[axis_of] = spec.spacing_mm
    old = np.array(volume.spatial_shape)
    array = np.ascontiguousarray(volume.array, dtype=np.float32)
    if spec.acquired_intensity:
        array = normalise(array, head_mask(array), spec.acquired_intensity)
    if from_turned:
        factor = spacing_mm / volume.spacing
        new = np.rint((old - 1) / factor + 1.0).astype(int)
        offset = np.zeros(3)
    else:
        new = np.maximum(np.rint(old * volume.spacing / spacing_mm).astype(int), 1)
        factor = old / new
        offset = (factor - 1.0) / 2.0
    if math.prod(new.tolist()) > MAX_GRID_VOXELS:
        raise VolumeTooLarge(
            f"On the model's grid, {' x '.join(f'{mm:g}' for mm in spec.spacing_mm)} mm, the volume has "
            f"{' x '.join(map(str, new))} voxels (slices, rows, columns); at most {MAX_GRID_VOXELS} are "
            "taken."
        )
    for axis in np.argsort(new / old):
        if new[axis] != old[axis] or factor[axis] != 1.0:
            position = np.arange(new[axis]) * factor[axis] + offset[axis]
            matrix = _resampling_matrix(int(old[axis]), position, spec.resampling.smooth)
            array = _along(array, int(axis), matrix)
    affine = volume.affine.copy()
    affine[:3, :3] = affine[:3, :3] * factor
    affine[:3, 3] = (volume.affine @ [*offset, 1.0])[:3]
    resampled = hd.Volume(array, affine, "PATIENT", frame_of_reference_uid=volume.frame_of_reference_uid)
    return resampled.to_patient_orientation(spec.orientation)


def _onto(volume: hd.Volume, grid: hd.Volume) -> Array:
    """Interpolate the volume linearly at the voxel centres of another grid of similar spacing."""
    same = volume.spatial_shape == grid.spatial_shape
    if same and np.allclose(volume.affine, grid.affine, rtol=0.0, atol=SAME_GRID_MM):
        return np.asarray(volume.array)
    to_volume = volume.inverse_affine @ grid.affine
    return np.asarray(
        ndimage.affine_transform(
            volume.array, to_volume[:3, :3], to_volume[:3, 3], output_shape=grid.spatial_shape, order=1,
            mode="constant", cval=float(volume.array.min()),
        )
    )  # fmt: skip


def _along(array: Array, axis: int, matrix: sparse.csr_array) -> Array:
    """Apply the matrix (new, old) along one axis of the array."""
    first = np.moveaxis(array, axis, 0)
    applied = matrix @ first.reshape(len(first), -1)
    return np.moveaxis(applied.reshape(-1, *first.shape[1:]), 0, axis)


def _resampling_matrix(old: int, position: NDArray[np.float64], smooth: bool) -> sparse.csr_array:
    """Return the weights (new, old) of linear interpolation at positions in old voxels, edges extended.

    smooth: filter before a step of much more than a voxel, so that fine detail does not alias.
    """
    factor = float(position[1] - position[0]) if len(position) > 1 else float(old)
    source = np.eye(old)
    if smooth and factor > SMOOTH_FROM_FACTOR:
        source = ndimage.gaussian_filter1d(source, SMOOTHING_SIGMA * factor, axis=0)
    position = np.clip(position, 0, old - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, old - 1)
    share = (position - below)[:, None]
    weights = (1.0 - share) * source[below] + share * source[above]
    return sparse.csr_array(weights.astype(np.float32))


def _box(volume: hd.Volume, head: Mask, crop: Crop) -> tuple[slice, slice, slice]:
    if crop.to == "none":
        return (slice(None), slice(None), slice(None))
    kept = head if crop.to == "head" else volume.array > 0
    enough = HEAD_VOXELS if crop.to == "head" else 1
    ranges = []
    for axis in range(3):
        count = kept.sum(axis=tuple(other_axis for other_axis in range(3) if other_axis != axis))
        positions = np.flatnonzero(count >= enough)
        margin = round(crop.margin_mm / volume.spacing[axis])
        if len(positions) == 0:
            ranges.append(slice(None))
        else:
            ranges.append(slice(max(int(positions[0]) - margin, 0), int(positions[-1]) + 1 + margin))
    return (ranges[0], ranges[1], ranges[2])
