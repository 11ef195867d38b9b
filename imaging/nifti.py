"""NIfTI input and output. NIfTI axes point right, anterior, superior; callers pass and get LPS."""

import gzip
import itertools
import math
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from errors import (
    ConstantPixels,
    GantryTilt,
    MissingGeometry,
    SegmentationMismatch,
    SeveralStacks,
    TooFewSlices,
    UnreadableFile,
    VolumeTooLarge,
)
from imaging.files import MIB
from imaging.grid import check_size, steps_on_grid
from imaging.sequences import SEQUENCES
from imaging.stack import MIN_SLICES, SliceReference, Stack

# Cosine between two axes from which they count as sheared; header rounding stays below 1e-5.
SHEAR_TOLERANCE = 1e-3
# Allowed difference of sform and qform at a corner, as a share of the smallest voxel edge: a qform is a
# rounded quaternion.
FORMS_WITHIN = 0.1
# Allowed distance of a label from a whole number; scaled integers are inexact: 255 x 1/255 is 1.00000006.
LABEL_WITHIN = 1e-3
GZIP_SIGNATURE = b"\x1f\x8b"
# Nifti1Header or Nifti2Header, whose methods are untyped.
Header = Any
HEADERS: tuple[Header, ...] = (nib.Nifti2Header, nib.Nifti1Header)
FROM_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCANNER_ANATOMICAL = 1
# Of the voxels, as stored and as float32: 645 x 645 x 645 of them. A head at 0.4 mm, 500 x 600 x 450, takes
# half of it.
MAX_FILE_BYTES = 1024 * MIB
# Largest offset of the voxels, which follow the header and the extensions that tools add.
FURTHEST_BYTE = 64 * MIB
UNITS_OF_LENGTH = ("unknown", "mm")
# Errors of nibabel and the decompression for a file that is not NIfTI, truncated or corrupt.
UNREADABLE = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    OSError,
    EOFError,
    OverflowError,
    ValueError,
    zlib.error,
)


def read_stack(path: Path) -> Stack:
    """Read the volume of a NIfTI file, gzipped or not, with slices without SOP Instance UID and no headers.

    The file's last axis becomes the slices, its first the columns. A warning tells if sform and qform place
    it differently. Raises: UnreadableFile (not NIfTI, not a volume, not real numbers, not finite),
    SeveralStacks (more than three axes), VolumeTooLarge, MissingGeometry (neither sform nor qform, or not in
    mm), GantryTilt (sheared axes), TooFewSlices, ConstantPixels.
    """
    (volume,) = _read(path, several=False)
    return _stack(volume, form_warnings(path))


def read_channels(path: Path) -> list[Stack]:
    """Read the volumes of a file whose fourth axis counts them, each as by ``read_stack``.

    Raises: as read_stack; SeveralStacks only if there are more than four axes.
    """
    warnings = form_warnings(path)
    return [_stack(volume, warnings) for volume in _read(path, several=True)]


def read_mask(path: Path, stack: Stack) -> hd.Volume:
    """Read the labels of a NIfTI file on the stack's grid: int32 (slices, rows, columns), 0 background.

    The file's axes may be permuted and flipped relative to the stack's: its affine counts, not its order.
    Raises: as read_stack but for its last two, SegmentationMismatch (another grid, saying what differs) and
    UnreadableFile (values that are not labels).
    """
    (mask,) = _read(path, several=False)
    numbers = np.rint(mask.array)
    odd = mask.array[(np.abs(mask.array - numbers) > LABEL_WITHIN) | (numbers < 0)]
    if odd.size:
        raise UnreadableFile(f"The NIfTI mask holds the value {odd[0]:g}; labels are 0, 1, 2 ...")
    steps = steps_on_grid(mask.affine, mask.spatial_shape, stack.volume, "NIfTI mask")
    size = np.abs(steps[:, :3]) @ (np.array(mask.spatial_shape) - 1) + 1
    low = np.minimum(steps[:, :3] * (np.array(mask.spatial_shape) - 1), 0).sum(axis=1) + steps[:, 3]
    if tuple(size) != stack.volume.spatial_shape or low.any():
        whole = np.array(stack.volume.spatial_shape)
        raise SegmentationMismatch(
            f"Along the series' slices, rows and columns the NIfTI mask begins at {_mm(low, stack)} and "
            f"covers {_mm(size, stack)}, the series covers {_mm(whole, stack)}."
        )
    labels = np.zeros(stack.volume.spatial_shape, np.int32)
    indices = np.array(np.nonzero(numbers))
    labels[tuple(steps[:, :3] @ indices + steps[:, 3:])] = numbers[tuple(indices)]
    return stack.volume.with_array(labels)


def write_labels(labels: hd.Volume, path: Path) -> None:
    """Write labels (slices, rows, columns) as uint8, or uint16 beyond 255, columns first as in NIfTI."""
    write_values(labels.astype(np.uint8 if labels.array.max(initial=0) < 256 else np.uint16), path)


def write_values(volume: hd.Volume, path: Path) -> None:
    """Write a volume (slices, rows, columns) in its own type, columns first as in NIfTI."""
    image = volume.permute_spatial_axes((2, 1, 0)).to_nibabel()
    # Set both, because tools differ in which one they use.
    image.set_sform(image.affine, SCANNER_ANATOMICAL)
    image.set_qform(image.affine, SCANNER_ANATOMICAL)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def form_warnings(path: Path) -> list[str]:
    """Return a warning if sform and qform of a file place it differently. Raises: UnreadableFile."""
    try:
        header = _header(path)
        if not header["sform_code"] or not header["qform_code"]:
            return []
        sform, qform = header.get_sform(), header.get_qform()
        reach = np.array(header.get_data_shape()[:3]) - 1
    except UNREADABLE as error:
        raise UnreadableFile(f"{path.name} cannot be read as NIfTI.") from error
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, end) for end in reach))])
    apart_mm = np.linalg.norm(((sform - qform) @ corners.T)[:3], axis=0).max()
    # NaN fails this comparison, so it counts as a difference.
    if apart_mm <= FORMS_WITHIN * np.linalg.norm(sform[:3, :3], axis=0).min():
        return []
    mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
    return [
        f"The sform (code {int(header['sform_code'])}) and the qform (code {int(header['qform_code'])}) of "
        f"{path.name} differ by up to {apart_mm:.1f} mm"
        f"{', mirrored against each other' if mirrored else ''}; the sform was used."
    ]


def sequence_warnings(path: Path, sequence: str) -> list[str]:
    """Return the warning that nothing proves a file to be of a sequence; none for another kind of input."""
    if sequence not in SEQUENCES:
        return []
    return [f"A NIfTI file does not say which sequence it is: check that {path.name} is a {sequence}."]


def _stack(volume: hd.Volume, warnings: Sequence[str]) -> Stack:
    if volume.spatial_shape[0] < MIN_SLICES:
        raise TooFewSlices(
            f"The NIfTI file has {volume.spatial_shape[0]} slices; a volume takes at least {MIN_SLICES}."
        )
    if volume.array.min() == volume.array.max():
        raise ConstantPixels(f"Every voxel of the NIfTI file has the value {volume.array.flat[0]:g}.")
    return Stack(
        volume=volume, slices=[SliceReference(None)] * volume.spatial_shape[0], headers=[], warnings=warnings
    )


def _read(path: Path, several: bool) -> list[hd.Volume]:
    """Read float32 volumes (slices, rows, columns), LPS, no frame of reference; one unless ``several``."""
    try:
        header = _header(path)
        shape = _check_shape(header, 4 if several else 3)
        affine = _affine(header)
        check_size((shape[2], shape[1], shape[0]), np.linalg.norm(affine[:3, 2::-1], axis=0))
        with _open(path) as file:
            # Not nib.load, which also reads the extensions, whatever length they claim.
            voxels = nib.arrayproxy.ArrayProxy(file, header)  # type: ignore[no-untyped-call]
            array = np.asarray(voxels, np.float32).reshape(shape)
    except UNREADABLE as error:
        raise UnreadableFile(f"{path.name} cannot be read as NIfTI.") from error
    if not np.isfinite(array).all():
        raise UnreadableFile(
            f"{np.count_nonzero(~np.isfinite(array))} voxels of the NIfTI file are not finite."
        )
    return [
        hd.Volume(channel, affine, coordinate_system="PATIENT").permute_spatial_axes((2, 1, 0))
        for channel in np.moveaxis(array.reshape(*shape[:3], -1), -1, 0)
    ]


def _header(path: Path) -> Header:
    if not path.exists():
        raise UnreadableFile(f"There is no {path}.")
    with _open(path) as file:
        block = file.read(nib.Nifti2Header.sizeof_hdr)
    for kind in HEADERS:
        if kind.may_contain_header(block):
            return kind(block[: kind.sizeof_hdr])
    raise UnreadableFile(f"{path.name} cannot be read as NIfTI.")


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    """Open a file by its content: some named .nii.gz are not compressed, and the reverse."""
    try:
        with path.open("rb") as file:
            compressed = file.read(len(GZIP_SIGNATURE)) == GZIP_SIGNATURE
    except FileNotFoundError:
        raise UnreadableFile(f"There is no {path}.") from None
    return gzip.open(path) if compressed else path.open("rb")


def _check_shape(header: Header, axes: int) -> tuple[int, ...]:
    """Return the shape, of three to ``axes`` axes, after checking data type and size in the header."""
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise UnreadableFile(f"The NIfTI file holds values of type {dtype}, not real numbers.")
    shape: tuple[int, ...] = header.get_data_shape()
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > axes:
        raise SeveralStacks(
            f"The NIfTI file has {len(shape)} axes, {' x '.join(map(str, shape))}, not {axes}."
        )
    if len(shape) < 3 or min(shape) < 1:
        raise UnreadableFile(f"The NIfTI file has the shape {shape}, which is not a volume.")
    size = math.prod(shape) * max(dtype.itemsize, np.dtype(np.float32).itemsize)
    if size > MAX_FILE_BYTES:
        raise VolumeTooLarge(
            f"The volume of the NIfTI file takes {size / MIB:.0f} MiB; at most {MAX_FILE_BYTES // MIB} MiB "
            "are read."
        )
    offset = header.get_data_offset()
    if offset > FURTHEST_BYTE:
        raise UnreadableFile(
            f"The NIfTI file's voxels begin at byte {offset}; at most {FURTHEST_BYTE} bytes may precede them."
        )
    return shape


def _affine(header: Header) -> NDArray[np.float64]:
    if not header["sform_code"] and not header["qform_code"]:
        raise MissingGeometry("The NIfTI file has neither sform nor qform, so left and right are unknown.")
    unit = header.get_xyzt_units()[0]
    if unit not in UNITS_OF_LENGTH:
        raise MissingGeometry(f"The NIfTI file measures in {unit}, not mm.")
    affine: NDArray[np.float64] = FROM_RAS_TO_LPS @ header.get_best_affine()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        raise MissingGeometry("The affine of the NIfTI file is not invertible.")
    axes = affine[:3, :3] / lengths
    cosines = axes.T @ axes - np.eye(3)
    if np.abs(cosines).max() > SHEAR_TOLERANCE:
        angle = np.degrees(np.arcsin(np.clip(np.abs(cosines).max(), 0, 1)))
        raise GantryTilt(f"The axes of the NIfTI file are sheared by {angle:.2f} degrees.")
    # Use the nearest exactly orthogonal axes: highdicom accepts no rounding errors above 1e-4.
    left, _, right = np.linalg.svd(axes)
    affine[:3, :3] = left @ right * lengths
    return affine


def _mm(indices: NDArray[np.int64], stack: Stack) -> str:
    return " x ".join(f"{length:g}" for length in indices * stack.volume.spacing) + " mm"
