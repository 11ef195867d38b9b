"""Synthetic heads with a glioma: four sequences on one grid, and the regions of BraTS.

The head is a lesion-free one of metastases.py; its tissues have different levels in each sequence. The tumour
is a necrotic core within an enhancing rim, within an oedema that spreads along the white matter.
"""

from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from imaging.sequences import FLAIR, T1, T1_POST_CONTRAST, T2
from unetr.data.cases import Case
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import Anatomy, HeadOptions, lesion_free
from unetr.synthesis.fields import Array
from unetr.synthesis.lesion_shape import LesionShape

# Label values of BraTS since 2023.
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
FIELD_MM = (176.0, 216.0, 184.0)
WITHOUT_TUMOUR = 0.1
DIAMETER_MM = (28.0, 60.0)
OEDEMA_MM = (5.0, 20.0)
RIM_SHARE = (0.12, 0.25)
# Least depth of the tumour's centre below the brain's hull.
DEPTH_MM = 12.0
VARIATION = 0.1


@dataclass(frozen=True)
class Levels:
    """The levels of the tissues in one sequence.

    around: a factor on the surroundings of the brain in T1 post-contrast. regions: levels of necrosis, oedema
    and the enhancing rim.
    """

    white: float
    grey: float
    fluid: float
    around: float
    regions: tuple[float, float, float]


# Levels of the regions in T1 post-contrast; the rest is the head of metastases.py with its vessels.
POST_CONTRAST = (0.35, 0.7, 1.9)
LEVELS = {
    FLAIR: Levels(0.6, 0.75, 0.15, 0.6, (0.45, 1.4, 1.0)),
    T1: Levels(1.0, 0.75, 0.25, 0.9, (0.4, 0.7, 0.75)),
    T2: Levels(0.5, 0.7, 1.4, 0.6, (1.3, 1.1, 0.8)),
}


def case(seed: int, spacing_mm: float) -> Case:
    """Return the glioma of that seed on cubic voxels, deterministic; one in ten heads has no tumour."""
    rng = np.random.default_rng((seed, 4))
    shape = tuple(round(side / spacing_mm) for side in FIELD_MM[::-1])
    geometry = metastases.grid((shape[0], shape[1], shape[2]), (spacing_mm,) * 3)
    options = HeadOptions()
    head = lesion_free(geometry, rng, options)
    regions = np.zeros((3, *geometry.spatial_shape), np.float32)
    if rng.random() >= WITHOUT_TUMOUR:
        _draw(regions, geometry, head, rng)
    healthy = {T1_POST_CONTRAST: head.image} | {
        name: _levelled(head, levels) for name, levels in LEVELS.items()
    }
    images = {}
    for name, image in healthy.items():
        levels = LEVELS[name].regions if name in LEVELS else POST_CONTRAST
        factors = np.array(levels) * rng.uniform(1.0 - VARIATION, 1.0 + VARIATION, 3)
        signal = image * (1.0 - regions.sum(0)) + np.tensordot(factors, regions, 1)
        images[name] = geometry.with_array(metastases.acquire(signal, geometry, rng, options))
    background = 1.0 - regions.sum(0)
    truth = np.concatenate([background[None], regions]).argmax(0).astype(np.uint8)
    return Case(str(seed), images, geometry.with_array(truth))


def _levelled(head: Anatomy, levels: Levels) -> Array:
    grey, fluid = head.brain - head.white, head.outline - head.brain
    inside = head.white * levels.white + grey * levels.grey + fluid * levels.fluid
    return np.asarray(inside + (1.0 - head.outline) * head.image * levels.around, dtype=np.float32)


def _draw(
    regions: NDArray[np.float32], geometry: hd.VolumeGeometry, head: Anatomy, rng: np.random.Generator
) -> None:
    """Draw each voxel's share of necrosis, oedema and rim, (3, slice, row, column), in place."""
    room = np.argwhere((head.brain > 0.9) & (head.outside < -DEPTH_MM))
    oedema_mm = rng.uniform(*OEDEMA_MM)
    # A shape's box reaches three times as far as its oedema_mm.
    shape = replace(LesionShape.random(rng, DIAMETER_MM), oedema_mm=oedema_mm / 3.0)
    box, distance = shape.distance_mm(geometry, room[rng.integers(len(room))] + rng.uniform(-0.5, 0.5, 3))
    inside = head.outside[box] < 0.0
    rim_mm = 2.0 * shape.radii_mm.min() * rng.uniform(*RIM_SHARE)
    tumour = np.clip(0.5 - distance, 0.0, 1.0) * inside
    core = np.clip(0.5 - distance - rim_mm, 0.0, 1.0) * inside
    spread = np.clip(0.5 - distance + oedema_mm * (0.4 + 0.6 * head.white[box]), 0.0, 1.0) * head.brain[box]
    regions[:, *box] = np.stack([core, spread * (1.0 - tumour), tumour - core])
