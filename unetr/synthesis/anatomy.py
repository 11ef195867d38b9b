"""The anatomy of a head without lesions, before its acquisition, as rules and the atlas draw it."""

from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from scipy.spatial.transform import Rotation

from unetr.synthesis import atlas
from unetr.synthesis.fields import Array, Vector, column, sample, smooth_noise
from unetr.synthesis.lesion_shape import LesionShape

HEAD_CENTRE_MNI_MM = np.array([0.0, -16.0, 2.0])
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
CAVITY_DIAMETER_MM = (18.0, 42.0)
CAVITY_DEPTH_MM = 10.0


@dataclass(frozen=True)
class HeadOptions:
    """Options of a synthetic head. Ranges are inclusive. skull: False for brain only.

    pose: False for the atlas's own pose and shape. grey, fluid, vessels: levels relative to white matter.
    noise: standard deviation, on the same scale. blur_mm: standard deviation of the point spread. cavity: add
    a resection cavity whose thin rim enhances in places and is not a lesion. varied: draw the lesions of
    varied_lesion.py instead of those of lesion_shape.py. contrast_varies: give the tissues of a real head the
    levels of grey and fluid.
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
    varied: bool = False
    contrast_varies: bool = True


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
    grey, white, fluid, vessels = sample(fine, (mni - column(maps.tissue_origin_mm)))
    outside, depth = sample(maps.surfaces, (mni - column(maps.surface_origin_mm)) / atlas.COARSE_MM, "border")
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
    image = with_falx(image, mni, outside, white_level, rng)
    return Anatomy(
        image=image.astype(np.float32),
        brain=(grey + white).astype(np.float32),
        outline=brain,
        white=white,
        outside=outside,
        white_level=white_level,
        fluid_level=float(fluid_level),
    )


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
    centre = column(HEAD_CENTRE_MNI_MM)
    mni = np.asarray(np.einsum("ij,jabc->iabc", linear, mni - centre) + centre + column(shift))
    for axis in range(3):
        mni[axis] += rng.uniform(1.0, 3.5) * smooth_noise(shape, geometry, 28.0, rng)
    return mni


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


def with_falx(
    image: Array, mni: Vector, outside: Array, white_level: float, rng: np.random.Generator
) -> Array:
    """Add the falx, an enhancing sheet in the midline above the corpus callosum."""
    half_mm = rng.uniform(0.2, 0.7)
    sheet = np.clip(half_mm + 0.5 - np.abs(mni[0]), 0.0, 1.0)
    arch = np.hypot((mni[1] + 15) / 62, (mni[2] - 2) / 42) > 1.0
    sheet = sheet * arch * (mni[2] > -5.0) * (outside < 2.0)
    return np.asarray(image + sheet * np.maximum(white_level * rng.uniform(0.7, 1.5) - image, 0.0))


def with_cavity(geometry: hd.VolumeGeometry, anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
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
