"""The shape of a drawn metastasis."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy.spatial.transform import Rotation

from unetr.synthesis.fields import Box, Vector, box_around

LESION_KINDS = ("solid", "ring", "necrotic")

BUMP_DIRECTIONS = 6


@dataclass(frozen=True)
class LesionShape:
    """A lesion's shape: an ellipsoid with smooth bumps. radii_mm: along its own axes. rotation: to LPS."""

    kind: str
    radii_mm: Vector
    rotation: Vector
    bumps: Vector
    bump_directions: Vector
    level: float
    core_level: float
    rim_mm: float
    oedema_mm: float
    oedema_level: float
    texture_seed: int

    @staticmethod
    def random(rng: np.random.Generator, diameter_mm: tuple[float, float]) -> "LesionShape":
        low, high = np.log(diameter_mm[0]), np.log(diameter_mm[1])
        diameter = float(np.exp(rng.beta(1.3, 1.3) * (high - low) + low))
        ratios = np.exp(rng.normal(0.0, 0.14, 3))
        radii = diameter / 2.0 * ratios / np.prod(ratios) ** (1 / 3)
        kind = str(rng.choice(LESION_KINDS, p=[0.5, 0.3, 0.2])) if diameter > 7.0 else "solid"
        directions = rng.normal(size=(BUMP_DIRECTIONS, 3))
        return LesionShape(
            kind=kind,
            radii_mm=radii,
            rotation=Rotation.random(random_state=int(rng.integers(2**31))).as_matrix(),
            bumps=rng.uniform(-0.18, 0.18, BUMP_DIRECTIONS) * min(1.0, diameter / 8.0),
            bump_directions=directions / np.linalg.norm(directions, axis=1, keepdims=True),
            level=float(rng.uniform(1.3, 2.3)),
            core_level=float(rng.uniform(0.2, 0.7)),
            rim_mm=float(rng.uniform(1.2, 3.5))
            if kind == "ring"
            else float(diameter * rng.uniform(0.18, 0.3)),
            oedema_mm=float(rng.gamma(1.5, 4.0)) if rng.random() < 0.6 else 0.0,
            oedema_level=float(rng.uniform(0.65, 0.92)),
            texture_seed=int(rng.integers(2**31)),
        )

    @property
    def volume_mm3(self) -> float:
        """Return the volume: the integral of r^3/3 over all directions, on a Fibonacci lattice."""
        count = 4000
        z = 1.0 - (2.0 * np.arange(count) + 1.0) / count
        angle = np.pi * (1.0 + 5.0**0.5) * np.arange(count)
        unit = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1)
        radius = self._radius_mm(unit)
        return float(4.0 * np.pi / 3.0 * np.mean(radius**3))

    def _radius_mm(self, unit: Vector) -> Vector:
        """Return the distance from centre to surface along unit vectors (…, 3) in the lesion's axes."""
        ellipsoid = 1.0 / np.sqrt(((unit / self.radii_mm) ** 2).sum(-1))
        closeness = np.exp(4.0 * (unit @ self.bump_directions.T - 1.0))
        return np.asarray(ellipsoid * (1.0 + closeness @ self.bumps))

    def distance_mm(self, geometry: hd.VolumeGeometry, centre_index: Vector) -> tuple[Box, Vector]:
        """Return a box around the lesion and the radial distance to its surface, mm, negative inside."""
        reach_mm = float(self.radii_mm.max()) * 1.4 + 3.0 * self.oedema_mm + 4.0
        box = box_around(geometry, centre_index, reach_mm)
        axes = [np.arange(side.start, side.stop) - centre_index[i] for i, side in enumerate(box)]
        offset = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        local = offset @ geometry.affine[:3, :3].T @ self.rotation
        length = np.linalg.norm(local, axis=-1)
        unit = local / np.maximum(length, 1e-6)[..., None]
        return box, length - self._radius_mm(unit)
