"""Varied lesions: each has the volume that was asked for, on any grid, and is one connected piece."""

import cc3d
import numpy as np
import pytest

from unetr.synthesis import metastases
from unetr.synthesis.varied_lesion import LARGE, VariedLesion


@pytest.fixture(scope="module")
def lesions() -> list[VariedLesion]:
    rng = np.random.default_rng(5)
    return [VariedLesion.random(rng, (2.0, 60.0)) for _ in range(60)]


@pytest.mark.parametrize("spacing_mm", [(1.0, 0.9, 0.9), (5.0, 0.9, 0.9), (2.0, 2.0, 2.0)])
def test_a_lesion_has_its_volume_on_thin_and_on_thick_slices(lesions, spacing_mm):
    shape = tuple(int(170 / mm) for mm in spacing_mm)
    grid = metastases.grid(shape, spacing_mm, tilt_deg=12.0)
    middle = np.array(shape) / 2.0 + 0.3
    for lesion in lesions:
        _, share, _ = lesion.on_grid(grid, middle)
        volume_mm3 = float(share.sum()) * np.prod(spacing_mm)
        assert volume_mm3 == pytest.approx(np.pi / 6 * lesion.diameter_mm**3, rel=0.04), lesion.kind
        assert share.min() >= 0.0
        assert share.max() <= 1.0001


def test_lesions_are_of_every_kind_and_in_one_piece(lesions):
    assert {lesion.kind for lesion in lesions} >= set(LARGE) - {"haemorrhagic"}
    for lesion in lesions:
        assert cc3d.connected_components(lesion.inside > 0, connectivity=26).max() == 1


def test_necrotic_and_ring_lesions_are_brighter_at_the_surface_than_in_the_middle(lesions):
    grid = metastases.grid((120, 120, 120), (1.0, 1.0, 1.0))
    rings = [lesion for lesion in lesions if lesion.kind == "ring" and lesion.diameter_mm > 15]
    assert rings
    brighter = 0
    for lesion in rings:
        _, share, level = lesion.on_grid(grid, np.array([60.0, 60.0, 60.0]))
        inside = share > 0.99
        eroded = share.copy()
        eroded[~inside] = 0
        middle = cc3d.dust(eroded > 0, threshold=1)
        brighter += np.median(level[(share > 0.5) & ~inside]) > np.percentile(level[middle], 10)
    assert brighter >= 0.8 * len(rings)
