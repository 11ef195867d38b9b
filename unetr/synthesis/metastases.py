"""Synthetic post-contrast T1 heads with brain metastases and exact ground truth.

One seed gives one head: an atlas (atlas.py) under a random pose and deformation, random tissue
contrast, lesions drawn analytically on the requested grid, then the scanner's imperfections. The same
function serves training (arrays), the demonstration and the tests (as DICOM, by phantom.py).
"""

from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from imaging.grid import MM3_PER_ML
from unetr.synthesis import atlas
from unetr.synthesis.lesion_shape import Array, LesionShape, Vector

HEAD_CENTRE_MNI_MM = np.array([0.0, -16.0, 2.0])
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
CAVITY_SEED = 1
CAVITY_DIAMETER_MM = (18.0, 42.0)
CAVITY_DEPTH_MM = 10.0


@dataclass(frozen=True)
class HeadOptions:
    """Options of a synthetic head. Ranges are inclusive. skull: False for brain only.

    pose: False for the atlas's own pose and shape. grey, fluid, vessels: levels relative to white matter.
    noise: standard deviation, on the same scale. blur_mm: standard deviation of the point spread. cavity: add
    a resection cavity whose thin rim enhances in places and is not a lesion.
    """

    lesion_count: tuple[int, int] = (1, 10)
    diameter_mm: tuple[float, float] = (2.0, 35.0)
    skull: bool = True
    pose: bool = True
    grey: tuple[float, float] = (0.62, 0.88)
    fluid: tuple[float, float] = (0.12, 0.4)
    vessels: tuple[float, float] = (1.2, 2.4)
    noise: tuple[float, float] = (0.01, 0.05)
    blur_mm: tuple[float, float] = (0.2, 0.6)
    cavity: bool = False


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

    image: float32. labels: int16 lesion numbers, 0 elsewhere. brain: uint8, 1 inside the brain's outline,
    ventricles and lesions included.
    """

    image: hd.Volume
    labels: hd.Volume
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
        anatomy = _with_cavity(geometry, anatomy, np.random.default_rng((seed, CAVITY_SEED)))
    image, labels, lesions = _with_lesions(geometry, anatomy, rng, options)
    image = acquire(image, geometry, rng, options)
    brain = (anatomy.outline > 0.5) | (labels > 0)
    if not options.skull:
        image = np.where(ndimage.binary_dilation(brain, iterations=1), image, 0.0)
    return Head(
        image=geometry.with_array(image.astype(np.float32)),
        labels=geometry.with_array(labels.astype(np.int16)),
        brain=geometry.with_array(brain.astype(np.uint8)),
        lesions=lesions,
    )


@dataclass(frozen=True)
class Anatomy:
    """The anatomy of a lesion-free head. image: its signal before the acquisition.

    brain, outline, white: fractions of each voxel; brain is grey and white matter, outline also includes the
    fluid between them. outside: mm from the brain's hull, negative within it.
    """

    image: Array
    brain: Array
    outline: Array
    white: Array
    outside: Array
    white_level: float
    fluid_level: float


def lesion_free(geometry: hd.VolumeGeometry, rng: np.random.Generator, options: HeadOptions) -> Anatomy:
    """Draw a head without lesions: fractions of tissues times their levels, white matter about 1."""
    maps = atlas.load()
    enhancing = atlas.enhancing_anatomy(rng)
    mni = _mni_coordinates(geometry, rng, options)
    fine = np.concatenate([maps.tissues, enhancing[None]])
    grey, white, fluid, vessels = _sample(fine, (mni - _column(maps.tissue_origin_mm)))
    outside, depth = _sample(
        maps.surfaces, (mni - _column(maps.surface_origin_mm)) / atlas.COARSE_MM, "border"
    )
    white_level = float(rng.uniform(0.8, 1.1))
    grey_level = white_level * rng.uniform(*options.grey)
    fluid_level = white_level * rng.uniform(*options.fluid)
    brain = np.clip(grey + white + fluid, 0.0, 1.0)
    inside = grey * grey_level + white * white_level + fluid * fluid_level
    inside *= 1.0 + 0.04 * smooth_noise(inside.shape, geometry, 8.0, rng)
    around = _layers(outside, depth, white_level, geometry, rng)
    image = inside + (1.0 - brain) * around
    enhancement = white_level * rng.uniform(*options.vessels)
    inside_head = np.clip(depth / 2.0, 0.0, 1.0)
    image += vessels * inside_head * np.maximum(enhancement - image, 0.0)
    image = _falx(image, mni, outside, white_level, rng)
    return Anatomy(
        image=image.astype(np.float32),
        brain=(grey + white).astype(np.float32),
        outline=brain,
        white=white,
        outside=outside,
        white_level=white_level,
        fluid_level=float(fluid_level),
    )


def _column(vector: Vector) -> Vector:
    return vector[:, None, None, None]


def _mni_coordinates(geometry: hd.VolumeGeometry, rng: np.random.Generator, options: HeadOptions) -> Vector:
    """Return each voxel's MNI mm, (3, slices, rows, columns), under a random pose and smooth deformation."""
    shape = geometry.spatial_shape
    affine = geometry.affine
    index = [np.arange(n, dtype=np.float64) for n in shape]
    mni = np.zeros((3, *shape))
    for axis in range(3):
        row = affine[axis, :3] * LPS_TO_RAS[axis]
        mni[axis] = row[0] * index[0][:, None, None] + row[1] * index[1][:, None] + row[2] * index[2]
        mni[axis] += affine[axis, 3] * LPS_TO_RAS[axis]
    if not options.pose:
        return mni
    turn = Rotation.from_euler("xyz", rng.normal(0.0, [8, 5, 6]), degrees=True).as_matrix()
    linear = turn @ np.diag(rng.uniform(0.88, 1.12, 3))
    shift = rng.normal(0.0, 5.0, 3)
    centre = _column(HEAD_CENTRE_MNI_MM)
    mni = np.asarray(np.einsum("ij,jabc->iabc", linear, mni - centre) + centre + _column(shift))
    for axis in range(3):
        mni[axis] += rng.uniform(1.0, 3.5) * smooth_noise(shape, geometry, 28.0, rng)
    return mni


def _sample(channels: Array, index: Vector, padding: str = "zeros") -> Array:
    """Interpolate channels (C, x, y, z) trilinearly at voxel coordinates (3, …), in torch for speed."""
    size = _column(np.array(channels.shape[1:], dtype=np.float64))
    scaled = (2.0 * index / (size - 1.0) - 1.0).astype(np.float32)
    points = torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled[::-1], 0, -1)))
    sampled = F.grid_sample(
        torch.from_numpy(channels)[None], points[None], align_corners=True, padding_mode=padding
    )
    return np.asarray(sampled[0].numpy(), dtype=np.float32)


def smooth_noise(
    shape: tuple[int, ...], geometry: hd.VolumeGeometry, length_mm: float, rng: np.random.Generator
) -> Array:
    """Draw noise of about unit variance and the given correlation length from a coarse lattice."""
    extent = np.array(shape) * np.array(geometry.spacing)
    coarse = np.maximum(np.ceil(extent / length_mm).astype(int) + 3, 4)
    lattice = torch.from_numpy(rng.normal(size=tuple(coarse)).astype(np.float32))
    fine = F.interpolate(lattice[None, None], size=tuple(shape), mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy() * 1.7, dtype=np.float32)


def _layers(
    outside: Array, depth: Array, white_level: float, geometry: hd.VolumeGeometry, rng: np.random.Generator
) -> Array:
    """Draw fluid, dura, skull with marrow, muscle and fat by mm from the brain's hull and the scalp."""
    wave = 0.8 * smooth_noise(outside.shape, geometry, 30.0, rng)
    fluid_mm = rng.uniform(0.8, 3.5)
    dura_mm = rng.uniform(0.5, 1.6)
    skull_mm = rng.uniform(4.0, 8.0)
    fat_mm = rng.uniform(2.5, 6.0)
    from_fluid = outside + wave - fluid_mm
    in_dura = np.clip(from_fluid + 0.5, 0, 1) * np.clip(dura_mm - from_fluid + 0.5, 0, 1)
    in_skull = np.clip(from_fluid - dura_mm + 0.5, 0, 1) * np.clip(
        dura_mm + skull_mm - from_fluid + 0.5, 0, 1
    )
    marrow = np.clip(1.0 - np.abs(from_fluid - dura_mm - skull_mm / 2) / (skull_mm * 0.3), 0, 1)
    in_soft = np.clip(from_fluid - dura_mm - skull_mm + 0.5, 0, 1)
    fat = np.clip(fat_mm - depth + wave + 0.5, 0, 1)
    texture = 1.0 + 0.15 * smooth_noise(outside.shape, geometry, 9.0, rng)
    soft = fat * rng.uniform(0.9, 2.0) + (1 - fat) * rng.uniform(0.4, 0.8)
    spots = smooth_noise(outside.shape, geometry, 14.0, rng)
    mucosa = (spots > rng.uniform(1.2, 2.2)) * (1 - fat) * rng.uniform(0.6, 1.4)
    air = (spots < -rng.uniform(1.3, 2.4)) * (1 - fat)
    level = rng.uniform(0.15, 0.35) * np.clip(0.5 - from_fluid, 0, 1)
    level = level + in_dura * rng.uniform(0.3, 1.5)
    level += in_skull * (0.08 + marrow * rng.uniform(0.2, 1.4) * texture)
    level += in_soft * (soft * texture + mucosa) * (1.0 - 0.95 * air)
    level *= white_level * np.clip(depth + 0.5, 0.0, 1.0)
    return np.asarray(level, dtype=np.float32)


def _falx(image: Array, mni: Vector, outside: Array, white_level: float, rng: np.random.Generator) -> Array:
    """Add the falx, an enhancing sheet in the midline above the corpus callosum."""
    half_mm = rng.uniform(0.2, 0.7)
    sheet = np.clip(half_mm + 0.5 - np.abs(mni[0]), 0.0, 1.0)
    arch = np.hypot((mni[1] + 15) / 62, (mni[2] - 2) / 42) > 1.0
    sheet = sheet * arch * (mni[2] > -5.0) * (outside < 2.0)
    return np.asarray(image + sheet * np.maximum(white_level * rng.uniform(0.7, 1.5) - image, 0.0))


def _with_cavity(geometry: hd.VolumeGeometry, anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Add a fluid-filled cavity that opens at the brain's surface, with a scar and a partly bright rim."""
    near_surface = (anatomy.brain > 0.9) & (np.abs(anatomy.outside + CAVITY_DEPTH_MM) < CAVITY_DEPTH_MM / 2)
    room = np.argwhere(near_surface)
    if len(room) == 0:
        return anatomy
    shape = LesionShape.random(rng, CAVITY_DIAMETER_MM)
    centre_index = room[rng.integers(len(room))] + rng.uniform(-0.5, 0.5, 3)
    box, distance = shape.distance_mm(geometry, centre_index)
    image, brain = anatomy.image.copy(), anatomy.brain.copy()
    inside = np.clip(0.5 - distance, 0.0, 1.0) * (anatomy.outside[box] < 0.0)
    scar = np.clip(1.0 - np.abs(distance) / rng.uniform(3.0, 9.0), 0.0, 1.0) * np.clip(brain[box], 0.0, 1.0)
    image[box] *= 1.0 - scar * (1.0 - rng.uniform(0.6, 0.9))
    image[box] += inside * (anatomy.fluid_level - image[box])
    rim = np.clip(rng.uniform(0.3, 0.7) + 0.5 - np.abs(distance), 0.0, 1.0) * (anatomy.outside[box] < 0.0)
    patches = np.clip(smooth_noise(distance.shape, geometry, 12.0, rng) + rng.uniform(-0.5, 1.0), 0.0, 1.0)
    bright = anatomy.white_level * rng.uniform(1.0, 1.6)
    image[box] += rim * patches * np.maximum(bright - image[box], 0.0)
    brain[box] *= np.clip(distance - 1.0, 0.0, 1.0)
    return replace(anatomy, image=image.astype(np.float32), brain=brain.astype(np.float32))


def _with_lesions(
    geometry: hd.VolumeGeometry, anatomy: Anatomy, rng: np.random.Generator, options: HeadOptions
) -> tuple[Array, NDArray[np.int16], tuple[TrueLesion, ...]]:
    image = anatomy.image.copy()
    labels = np.zeros(image.shape, dtype=np.int16)
    lesions: list[TrueLesion] = []
    room = np.argwhere(anatomy.brain > 0.9)
    lesion_count = int(rng.integers(options.lesion_count[0], options.lesion_count[1] + 1))
    for _ in range(lesion_count * 4):
        if len(lesions) == lesion_count or len(room) == 0:
            break
        centre_index = room[rng.integers(len(room))] + rng.uniform(-0.5, 0.5, 3)
        shape = LesionShape.random(rng, options.diameter_mm)
        box, distance = shape.distance_mm(geometry, centre_index)
        if _touches(labels[box], distance) or _mostly_outside(anatomy.brain[box], distance):
            continue
        number = len(lesions) + 1
        _draw_lesion(image[box], distance, anatomy.white[box], anatomy.white_level, shape)
        labels[box][distance <= 0.0] = number
        centre = geometry.map_indices_to_reference(centre_index[None])[0]
        lesions.append(
            TrueLesion(
                number=number,
                kind=shape.kind,
                centre_lps_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
                diameter_mm=float((shape.volume_mm3 * 6.0 / np.pi) ** (1 / 3)),
                volume_ml=float(shape.volume_mm3 / MM3_PER_ML),
            )
        )
    return image, labels, tuple(lesions)


def _touches(labels: NDArray[np.int16], distance: Vector) -> bool:
    return bool(np.any(labels[distance < 3.0]))


def _mostly_outside(brain: Array, distance: Vector) -> bool:
    inside = brain[distance <= 0.0]
    return inside.size == 0 or float(inside.mean()) < 0.8


def _draw_lesion(
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
