"""Kinds of synthetic heads: those that models are trained on, and those held out for evaluation.

The held-out kinds go beyond the training: no training head has tilts of 15 to 25 degrees or as much noise,
and the training's contrast ranges barely reach that of spin echo.
Training, validation and held-out heads have separate ranges of seeds (``TRAINING_SEED``,
``VALIDATION_SEED``, ``HELD_OUT_SEED``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from unetr.synthesis import metastases, real_heads
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.metastases import Head
from unetr.synthesis.real_heads import RealHead

TRAINING_SEED = 1_000_000
VALIDATION_SEED = 2_000_000
HELD_OUT_SEED = 3_000_000


@dataclass(frozen=True)
class Acquisition:
    """An acquisition. shape, spacing_mm: slices, rows, columns. tilt_deg: range of tilts, either way."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    plane: str
    tilt_deg: tuple[float, float] = (0.0, 0.0)

    def head(self, seed: int, options: HeadOptions) -> Head:
        """Return the head of that seed with this acquisition."""
        rng = np.random.default_rng((seed, 2))
        tilt_deg = float(rng.choice([-1.0, 1.0]) * rng.uniform(*self.tilt_deg))
        return metastases.head(
            metastases.grid(self.shape, self.spacing_mm, self.plane, tilt_deg), seed, options
        )


DEFAULT_OPTIONS = HeadOptions(lesion_count=(2, 12))


@dataclass(frozen=True)
class Cohort:
    """One kind of held-out heads; consecutive seeds cycle through its acquisitions."""

    acquisitions: tuple[Acquisition, ...]
    options: HeadOptions = DEFAULT_OPTIONS


AXIAL = Acquisition((176, 256, 256), (1.0, 0.94, 0.94), "axial")
SAGITTAL = Acquisition((170, 240, 240), (1.0, 1.0, 1.0), "sagittal")
CORONAL = Acquisition((140, 220, 220), (1.4, 1.0, 1.0), "coronal")

COHORTS = {
    # Gradient echo at 1 mm, with skull.
    "ordinary": Cohort((AXIAL, SAGITTAL)),
    # Spin echo: grey matter as bright as white, bright fluid, vessels hardly brighter than the brain.
    "other contrast": Cohort(
        (AXIAL, CORONAL),
        replace(DEFAULT_OPTIONS, grey=(0.9, 1.05), fluid=(0.42, 0.55), vessels=(0.6, 1.3)),
    ),
    # Noise of 6 to 9 % of white matter, blurred.
    "noisy": Cohort(
        (AXIAL, SAGITTAL),
        replace(DEFAULT_OPTIONS, noise=(0.06, 0.09), blur_mm=(0.6, 0.9)),
    ),
    # Slices of 3 and of 5 mm.
    "thick slices": Cohort(
        (
            Acquisition((60, 256, 256), (3.0, 0.9, 0.9), "axial"),
            Acquisition((36, 256, 256), (5.0, 0.9, 0.9), "axial"),
        ),
    ),
    # Tilted by 15 to 25 degrees.
    "oblique": Cohort(
        tuple(replace(plane, tilt_deg=(15.0, 25.0)) for plane in (AXIAL, CORONAL, SAGITTAL)),
    ),
    # Only the brain.
    "skull stripped": Cohort((AXIAL, SAGITTAL), replace(DEFAULT_OPTIONS, skull=False)),
    # With a resection cavity.
    "after surgery": Cohort((AXIAL, SAGITTAL), replace(DEFAULT_OPTIONS, cavity=True)),
    # Irregular lesions of up to 60 mm: lobulated, rings, cysts, blood, faint ones.
    "varied lesions": Cohort(
        (AXIAL, SAGITTAL), replace(DEFAULT_OPTIONS, varied=True, diameter_mm=(2.0, 60.0))
    ),
    # A slab of 80 mm through the middle of the head, axial or sagittal.
    "cropped": Cohort((replace(AXIAL, shape=(80, 256, 256)), replace(SAGITTAL, shape=(80, 240, 240)))),
    # Without a lesion.
    "no lesion": Cohort((AXIAL, SAGITTAL, CORONAL), HeadOptions(lesion_count=(0, 0))),
}


def head(kind: str, seed: int) -> Head:
    """Return the head of that kind and seed. Raises: KeyError for a kind that is not in ``COHORTS``."""
    chosen = COHORTS[kind]
    return chosen.acquisitions[seed % len(chosen.acquisitions)].head(seed, chosen.options)


# Acquisitions of the training heads, and the share of each.
TRAINED = (
    (Acquisition((164, 200, 168), (1.1, 1.1, 1.1), "axial", (0.0, 12.0)), 0.25),
    (Acquisition((152, 184, 152), (1.2, 1.2, 1.2), "sagittal", (0.0, 12.0)), 0.15),
    (Acquisition((180, 224, 192), (1.0, 1.0, 1.0), "axial"), 0.15),
    (Acquisition((60, 200, 170), (3.0, 1.1, 1.1), "axial"), 0.15),
    (Acquisition((45, 210, 180), (4.0, 1.0, 1.0), "axial"), 0.08),
    (Acquisition((36, 210, 180), (5.0, 1.0, 1.0), "axial"), 0.12),
    (Acquisition((90, 176, 168), (2.0, 1.0, 1.1), "coronal", (0.0, 12.0)), 0.1),
)
WITHOUT_LESIONS = 0.1
WITHOUT_SKULL = 0.15
WITH_CAVITY = 0.25
# The share of drawn heads with varied lesions, and their number and size; the share of heads that are
# cropped along one axis, and to which shares of it.
VARIED = 0.6
VARIED_COUNT, VARIED_MM = (3, 18), (2.0, 65.0)
CROPPED = 0.2
CROPPED_TO = (0.35, 0.85)

# Components that can be left out of the training heads, for ablations, and the options that replace them.
COMPONENTS: Mapping[str, Mapping[str, object]] = {
    # Constant levels of grey matter, fluid and vessels.
    "contrast": {"grey": (0.78, 0.78), "fluid": (0.25, 0.25), "vessels": (1.6, 1.6)},
    "noise": {"noise": (0.02, 0.02), "blur_mm": (0.3, 0.3)},
    "pose": {"pose": False},
    # Vessels, venous sinuses and choroid plexus take up no contrast agent.
    "vessels": {"vessels": (0.0, 0.0)},
    "stripping": {"skull": True},
    "cavities": {"cavity": False},
    # All heads axial, at 1.1 mm, not tilted.
    "acquisitions": {},
    # Ellipsoids of at most 30 mm, solid or with one core.
    "varied lesions": {},
    # A voxel is lesion or not, even if it is partly lesion.
    "partial volumes": {},
}


def training_head(seed: int, without: str | None = None) -> Head:
    """Return a head to train on: all properties vary at once, and small lesions are frequent.

    without: one of ``COMPONENTS``; otherwise the head is the same as for the same seed.
    """
    rng = np.random.default_rng((seed, 3))
    acquisition = TRAINED[rng.choice(len(TRAINED), p=[share for _, share in TRAINED])][0]
    if without == "acquisitions":
        acquisition = replace(TRAINED[0][0], tilt_deg=(0.0, 0.0))
    lesion_free = rng.random() < WITHOUT_LESIONS
    options = HeadOptions(
        lesion_count=(3, 30),
        diameter_mm=(2.0, 30.0),
        skull=bool(rng.random() >= WITHOUT_SKULL),
        grey=(0.6, 0.95),
        fluid=(0.1, 0.45),
        vessels=(0.9, 2.4),
        noise=(0.01, 0.06),
        blur_mm=(0.2, 0.7),
        cavity=bool(rng.random() < WITH_CAVITY),
    )
    if rng.random() < VARIED and without != "varied lesions":
        options = replace(options, varied=True, lesion_count=VARIED_COUNT, diameter_mm=VARIED_MM)
    if lesion_free:
        options = replace(options, lesion_count=(0, 0))
    if without is not None:
        options = replace(options, **COMPONENTS[without])  # type: ignore[arg-type]
    return _cropped(acquisition.head(seed, options), rng)


def real_training_head(background: RealHead, seed: int) -> Head:
    """Return a head to train on: metastases drawn into a real head at another size and resolution."""
    rng = np.random.default_rng((seed, 6))
    options = HeadOptions(
        skull=bool(rng.random() >= WITHOUT_SKULL),
        grey=(0.55, 1.0),
        fluid=(0.1, 0.5),
        vessels=(0.9, 2.4),
        noise=(0.0, 0.04),
        blur_mm=(0.0, 0.6),
        contrast_varies=bool(rng.random() < 0.6),
        varied=True,
        lesion_count=VARIED_COUNT,
        diameter_mm=VARIED_MM,
    )
    if rng.random() < WITHOUT_LESIONS:
        options = replace(options, lesion_count=(0, 0))
    acquired = real_heads.reacquired(background, rng)
    drawn = metastases.with_metastases(
        acquired.image.get_geometry(), real_heads.anatomy(acquired, rng, options), rng, options
    )
    return _cropped(drawn, rng)


def _cropped(head: Head, rng: np.random.Generator) -> Head:
    """Return some of the heads with a smaller field of view, which may cut brain and lesions."""
    if rng.random() >= CROPPED:
        return head
    axis = int(rng.integers(3))
    size = head.image.spatial_shape[axis]
    kept = max(round(size * rng.uniform(*CROPPED_TO)), 2)
    first = int(rng.integers(0, size - kept + 1))
    box = [slice(None)] * 3
    box[axis] = slice(first, first + kept)
    image, labels, share, brain = (
        volume[tuple(box)]  # type: ignore[index]  # as in unetr.preprocess
        for volume in (head.image, head.labels, head.share, head.brain)
    )
    return replace(head, image=image, labels=labels, share=share, brain=brain)
