"""Synthetic post-contrast T1 heads with brain metastases and exact ground truth.

One seed gives one head: an atlas (atlas.py) under a random pose and deformation, random tissue
contrast, lesions drawn analytically on the requested grid, then the scanner's imperfections. The same
function serves training (arrays), the demonstration and the tests (as DICOM, by phantom.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from imaging.grid import MM3_PER_ML
from unetr.synthesis.anatomy import (
    HEAD_CENTRE_MNI_MM,
    LPS_TO_RAS,
    Anatomy,
    HeadOptions,
    lesion_free,
    with_cavity,
)
from unetr.synthesis.fields import Array, Box, Vector, box_around, sample, smooth_noise
from unetr.synthesis.lesion_shape import LesionShape
from unetr.synthesis.varied_lesion import VariedLesion, offsets_mm

CAVITY_SEED = 1
RandomLesion = Callable[[np.random.Generator, tuple[float, float]], VariedLesion]


@dataclass(frozen=True)
class TrueLesion:
    """The ground truth of a lesion. diameter_mm: of the sphere of the same volume as the drawn shape."""

    number: int
    kind: str
    centre_lps_mm: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float


@dataclass(frozen=True)
class Head:
    """A synthetic head on one grid (slice, row, column).

    image: float32. labels: int16 lesion numbers, 0 elsewhere. share: float32, the share of each voxel that is
    lesion. brain: uint8, 1 inside the brain's outline, ventricles and lesions included.
    """

    image: hd.Volume
    labels: hd.Volume
    share: hd.Volume
    brain: hd.Volume
    lesions: tuple[TrueLesion, ...]


def grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    plane: str = "axial",
    tilt_deg: float = 0.0,
) -> hd.VolumeGeometry:
    """Return a grid (slices, rows, columns) centred on the head. plane: axial, sagittal or coronal.

    tilt_deg: rotation about the patient's left-right axis (an oblique acquisition).
    """
    directions = {
        "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
        "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
        "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    }[plane]
    turn = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array(directions, dtype=float).T * spacing_mm
    centre_lps = HEAD_CENTRE_MNI_MM * LPS_TO_RAS
    affine[:3, 3] = centre_lps - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return hd.VolumeGeometry(affine, shape, "PATIENT", frame_of_reference_uid=hd.UID())


def head(geometry: hd.VolumeGeometry, seed: int, options: HeadOptions | None = None) -> Head:
    """Draw the head of that seed on that grid, deterministic. Takes about a second per two million voxels."""
    options = options or HeadOptions()
    rng = np.random.default_rng(seed)
    anatomy = lesion_free(geometry, rng, options)
    if options.cavity:
        # A separate generator, so that the rest of the head equals that of the same seed without a cavity.
        anatomy = with_cavity(geometry, anatomy, np.random.default_rng((seed, CAVITY_SEED)))
    return with_metastases(geometry, anatomy, rng, options)


def with_metastases(
    geometry: hd.VolumeGeometry,
    anatomy: Anatomy,
    rng: np.random.Generator,
    options: HeadOptions,
    random_lesion: RandomLesion = VariedLesion.random,
) -> Head:
    """Draw metastases into an anatomy on the grid, and acquire an image of it.

    random_lesion: returns a lesion of a diameter within a range, mm, if the options say varied.
    """
    canvas = Canvas(anatomy.image.copy(), geometry)
    if options.varied:
        draw = partial(_draw_varied, lambda: random_lesion(rng, options.diameter_mm))
    else:
        draw = partial(_draw_plain, lambda: LesionShape.random(rng, options.diameter_mm))
    lesions = _with_lesions(canvas, anatomy, rng, options.lesion_count, draw)
    image = acquire(canvas.image, geometry, rng, options)
    brain = (anatomy.outline > 0.5) | (canvas.labels > 0)
    if not options.skull:
        image = np.where(ndimage.binary_dilation(brain, iterations=1), image, 0.0)
    return Head(
        image=geometry.with_array(image.astype(np.float32)),
        labels=geometry.with_array(canvas.labels),
        share=geometry.with_array(canvas.share),
        brain=geometry.with_array(brain.astype(np.uint8)),
        lesions=lesions,
    )


class Canvas:
    """An image (slice, row, column) into which lesions are drawn, and their truth, as in ``Head``."""

    def __init__(self, image: Array, geometry: hd.VolumeGeometry) -> None:
        self.image, self.geometry = image, geometry
        self.labels = np.zeros(image.shape, dtype=np.int16)
        self.share = np.zeros(image.shape, dtype=np.float32)


# Draws one lesion around a voxel index with that number; returns its kind and volume, mm3, or None if there
# is no room for it.
Draw = Callable[[Canvas, Anatomy, Vector, int], tuple[str, float] | None]


def _with_lesions(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, count: tuple[int, int], draw: Draw
) -> tuple[TrueLesion, ...]:
    lesions: list[TrueLesion] = []
    room = np.argwhere(anatomy.brain > 0.9)
    lesion_count = int(rng.integers(count[0], count[1] + 1))
    for _ in range(lesion_count * 4):
        if len(lesions) == lesion_count or len(room) == 0:
            break
        centre_index = room[rng.integers(len(room))] + rng.uniform(-0.5, 0.5, 3)
        number = len(lesions) + 1
        drawn = draw(canvas, anatomy, centre_index, number)
        if drawn is None:
            continue
        kind, volume_mm3 = drawn
        centre = canvas.geometry.map_indices_to_reference(centre_index[None])[0]
        lesions.append(
            TrueLesion(
                number=number,
                kind=kind,
                centre_lps_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
                diameter_mm=float((volume_mm3 * 6.0 / np.pi) ** (1 / 3)),
                volume_ml=float(volume_mm3 / MM3_PER_ML),
            )
        )
    return tuple(lesions)


def _draw_plain(
    random_shape: Callable[[], LesionShape],
    canvas: Canvas,
    anatomy: Anatomy,
    centre_index: Vector,
    number: int,
) -> tuple[str, float] | None:
    shape = random_shape()
    box, distance = shape.distance_mm(canvas.geometry, centre_index)
    if _touches(canvas.labels[box], distance < 3.0) or _mostly_outside(
        anatomy.brain[box], distance <= 0.0, 0.8
    ):
        return None
    _paint_lesion(canvas.image[box], distance, anatomy.white[box], anatomy.white_level, shape)
    canvas.labels[box][distance <= 0.0] = number
    np.maximum(canvas.share[box], np.clip(0.5 - distance, 0.0, 1.0), out=canvas.share[box])
    return shape.kind, shape.volume_mm3


def _draw_varied(
    random_lesion: Callable[[], VariedLesion],
    canvas: Canvas,
    anatomy: Anatomy,
    centre_index: Vector,
    number: int,
) -> tuple[str, float] | None:
    lesion = random_lesion()
    inner, share, level = lesion.on_grid(canvas.geometry, centre_index)
    if share.size == 0 or _mostly_outside(anatomy.outline[inner], share > 0.5, 0.75):
        return None
    reach_mm = lesion.diameter_mm * 1.1 + lesion.oedema_mm + 4.0
    box = box_around(canvas.geometry, centre_index, reach_mm)
    place = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, box, strict=True))
    whole = np.zeros(canvas.image[box].shape, dtype=np.float32)
    whole[place] = share
    outside_mm = ndimage.distance_transform_edt(whole < 0.5, canvas.geometry.spacing).astype(np.float32)
    if _touches(canvas.labels[box], outside_mm < 2.0):
        return None
    image = _displaced(canvas.image[box], outside_mm, lesion, canvas.geometry, box, centre_index)
    if lesion.oedema_mm > 0:
        reach = np.clip(1.0 - outside_mm / lesion.oedema_mm, 0.0, 1.0) ** 0.5
        rng = np.random.default_rng(lesion.texture_seed)
        patches = np.clip(1.0 + 0.5 * smooth_noise(whole.shape, canvas.geometry, 12.0, rng), 0.0, 1.0)
        spread = reach * patches * np.clip(0.15 + anatomy.white[box], 0.0, 1.0) * (anatomy.outside[box] < 1.0)
        image = image * (1.0 - spread * (1.0 - lesion.oedema_level))
    painted = np.zeros_like(whole)
    painted[place] = level * anatomy.white_level
    canvas.image[box] = image * (1.0 - whole) + whole * painted
    canvas.labels[box][whole > 0.5] = number
    np.maximum(canvas.share[box], whole, out=canvas.share[box])
    return lesion.kind, lesion.volume_mm3


def _displaced(
    image: Array, outside_mm: Array, lesion: VariedLesion, geometry: hd.VolumeGeometry, box: Box,
    centre_index: Vector,
) -> Array:  # fmt: skip
    """Return the box of an image whose tissue a lesion pushes away from its centre, less further out."""
    if lesion.push_mm < 0.5:
        return image
    offset_mm = offsets_mm(geometry, box, centre_index)
    away = offset_mm / np.maximum(np.linalg.norm(offset_mm, axis=0), 1.0)
    push_mm = lesion.push_mm * np.exp(-outside_mm / (0.4 * lesion.diameter_mm + 2.0))
    moved = np.einsum("ij,jabc->iabc", np.linalg.inv(geometry.affine[:3, :3]), away * push_mm)
    return np.asarray(sample(image[None], np.indices(image.shape) - moved, "border")[0])


def _touches(labels: NDArray[np.int16], near: NDArray[np.bool_]) -> bool:
    return bool(np.any(labels[near]))


def _mostly_outside(brain: Array, lesion: NDArray[np.bool_], share: float) -> bool:
    inside = brain[lesion]
    return inside.size == 0 or float(inside.mean()) < share


def _paint_lesion(
    image: Array, distance: Vector, white: Array, white_level: float, shape: LesionShape
) -> None:
    """Blend oedema, rim and core into a box of the image, with half a millimetre of partial volume each."""
    rng = np.random.default_rng(shape.texture_seed)
    texture = ndimage.gaussian_filter(rng.normal(size=image.shape), 1.5)
    texture *= 0.08 / max(float(texture.std()), 1e-6)
    if shape.oedema_mm > 0:
        reach = np.clip(1.0 - distance / (3.0 * shape.oedema_mm), 0.0, 1.0) * np.clip(0.2 + white, 0, 1)
        image *= (1.0 - reach * (1.0 - shape.oedema_level)).astype(np.float32)
    whole = np.clip(0.5 - distance, 0.0, 1.0)
    lesion = shape.level * white_level * (1.0 + texture)
    if shape.kind != "solid":
        ragged = distance + (4.0 * texture if shape.kind == "necrotic" else 0.0) * shape.rim_mm
        core = np.clip(0.5 - (ragged + shape.rim_mm), 0.0, 1.0)
        lesion = lesion * (1.0 - core) + core * shape.core_level * white_level
    image *= (1.0 - whole).astype(np.float32)
    image += (whole * lesion).astype(np.float32)


def acquire(
    image: Array, geometry: hd.VolumeGeometry, rng: np.random.Generator, options: HeadOptions
) -> Array:
    """Apply point spread, bias field, Rician noise and an arbitrary intensity scale."""
    sigma_mm = rng.uniform(*options.blur_mm)
    blurred = ndimage.gaussian_filter(image, sigma_mm / np.array(geometry.spacing))
    bias = np.exp(rng.uniform(0.0, 0.2) * smooth_noise(image.shape, geometry, 90.0, rng))
    noise = rng.uniform(*options.noise)
    real = blurred * bias + rng.normal(0.0, noise, image.shape)
    rician = np.hypot(real, rng.normal(0.0, noise, image.shape))
    return np.asarray(rician * rng.uniform(150.0, 900.0), dtype=np.float32)
