"""A T2 phantom of the lumbar spine: vertebrae with their arches, discs between them, the canal behind them.

Everything is drawn by rules along a curved axis; positions are mm from it, to the patient's left and back.
"""

import numpy as np
from numpy.typing import NDArray

from imaging.sequences import T2
from unetr.data.cases import Case
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.fields import smooth_noise

Coordinates = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Label values.
VERTEBRA, DISC, CANAL = 1, 2, 3
# Head to feet, front to back, left to right.
FIELD_MM = (168.0, 144.0, 96.0)
# Distance of the vertebral bodies' centre in front of the centre of the field.
FORWARD_MM = 16.0
CANAL_MM = (10.0, 7.5)
CORD_MM = 4.0
ARCH_MM = 5.0
MUSCLE, FAT, CORTEX, MARROW, FLUID, CORD, ANNULUS = 0.3, 0.95, 0.12, 0.5, 1.3, 0.6, 0.15
# The nucleus's share of a disc's radius; the share of discs whose nucleus is as dark as the annulus.
NUCLEUS_SHARE = 0.8
DEGENERATED = 0.25


def case(seed: int, spacing_mm: float) -> Case:
    """Return the spine of that seed on cubic voxels, deterministic."""
    rng = np.random.default_rng((seed, 5))
    shape = tuple(round(side / spacing_mm) for side in (FIELD_MM[2], FIELD_MM[0], FIELD_MM[1]))
    geometry = metastases.grid((shape[0], shape[1], shape[2]), (spacing_mm,) * 3, "sagittal")
    index = np.argwhere(np.ones(geometry.spatial_shape, bool))
    points = geometry.map_indices_to_reference(index.astype(float))
    points -= points.mean(0)
    left, back, up = (points[:, axis].reshape(geometry.spatial_shape) for axis in range(3))

    lordosis_mm, scoliosis_mm = rng.uniform(4.0, 12.0), rng.uniform(-4.0, 4.0)
    turn = 2.0 * np.pi * up / rng.uniform(220.0, 300.0) + rng.uniform(-0.8, 0.8)
    left = left - scoliosis_mm * np.sin(turn)
    back = back - lordosis_mm * np.cos(turn) + FORWARD_MM
    body_mm, disc_mm = rng.uniform(22.0, 28.0), rng.uniform(7.0, 11.0)
    pitch_mm = body_mm + disc_mm
    along = up + rng.uniform(0.0, pitch_mm)
    number, height = np.floor(along / pitch_mm).astype(int), np.mod(along, pitch_mm)

    wide_mm, deep_mm = rng.uniform(20.0, 25.0), rng.uniform(14.0, 18.0)
    column = np.hypot(left / wide_mm, back / deep_mm)
    behind = back - deep_mm - CANAL_MM[1] - 1.5
    canal = np.hypot(left / CANAL_MM[0], behind / CANAL_MM[1]) < 1.0
    in_body = height < body_mm
    waist = 1.0 - 0.1 * np.sin(np.pi * np.clip(height / body_mm, 0.0, 1.0))
    vertebra = (in_body & (column < waist)) | (_arch(left, behind, height / body_mm) & ~canal)
    disc = ~in_body & (column < 1.0)

    image = np.where(behind > rng.uniform(34.0, 42.0), FAT, MUSCLE)
    image *= 1.0 + 0.12 * smooth_noise(image.shape, geometry, 9.0, rng)
    image = np.where(vertebra, MARROW * rng.uniform(0.85, 1.15), image)
    image = np.where(in_body & (np.abs(column - waist) < 0.05), CORTEX, image)
    nuclei = rng.uniform(0.8, 1.1, np.ptp(number) + 1) * (rng.random(np.ptp(number) + 1) >= DEGENERATED)
    nucleus = np.maximum(nuclei[number - number.min()], ANNULUS)
    image = np.where(disc, np.where(column < NUCLEUS_SHARE, nucleus, ANNULUS), image)
    image = np.where(canal, FLUID, image)
    image = np.where(np.hypot(left, behind) < CORD_MM, CORD, image)
    image = np.where(behind > rng.uniform(44.0, 52.0), 0.0, image)

    truth = np.select([canal, vertebra, disc], [CANAL, VERTEBRA, DISC], 0).astype(np.uint8)
    acquired = metastases.acquire(image, geometry, rng, HeadOptions())
    return Case(str(seed), {T2: geometry.with_array(acquired)}, geometry.with_array(truth))


def _arch(left: Coordinates, behind: Coordinates, height: Coordinates) -> Mask:
    """Return the mask of pedicles and laminae around the canal, transverse and spinous processes.

    height: share of the vertebral body's height, from its lower end.
    """
    ring = np.hypot(left / (CANAL_MM[0] + ARCH_MM), behind / (CANAL_MM[1] + ARCH_MM)) < 1.0
    transverse = (np.abs(left) < 34.0) & (np.abs(behind) < 3.5)
    spinous = (np.abs(left) < 3.5) & (behind > 0.0) & (behind < 30.0)
    return (
        (ring & (height > 0.25) & (height < 0.8))
        | (transverse & (height > 0.4) & (height < 0.7))
        | (spinous & (height > 0.2) & (height < 0.6))
    )
