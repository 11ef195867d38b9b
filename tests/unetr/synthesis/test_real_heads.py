"""Real heads as backgrounds: lesions lie in the brain, vessels enhance once, the geometry stays."""

import numpy as np
import pytest

from unetr.synthesis import cohorts, metastases, real_heads
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.real_heads import RealHead


@pytest.fixture(scope="module")
def background() -> RealHead:
    """A head that was drawn stands for a real one."""
    options = HeadOptions(lesion_count=(0, 0), pose=False, vessels=(0.0, 0.0), noise=(0.0, 0.0))
    head = metastases.head(metastases.grid((56, 72, 60), (3.0, 2.8, 2.8)), 3, options)
    return RealHead(head.image, head.brain)


def test_implanted_lesions_lie_in_the_brain_and_have_their_volume(background):
    options = HeadOptions(lesion_count=(4, 8), diameter_mm=(5.0, 35.0), varied=True)
    rng = np.random.default_rng(8)
    anatomy = real_heads.anatomy(background, rng, options)
    head = metastases.with_metastases(background.image.get_geometry(), anatomy, rng, options)
    assert len(head.lesions) >= 4
    inside = head.labels.array > 0
    brain_ml = (head.brain.array > 0).sum() * head.brain.voxel_volume / 1000
    assert 500 < brain_ml < 2600
    assert (head.brain.array[inside] > 0).all()
    share_ml = head.share.array.sum() * head.share.voxel_volume / 1000
    true_ml = sum(lesion.volume_ml for lesion in head.lesions)
    assert share_ml == pytest.approx(true_ml, rel=0.05)
    assert inside.sum() * head.labels.voxel_volume / 1000 == pytest.approx(true_ml, rel=0.15)


def test_the_field_of_view_of_some_training_heads_is_small(background):
    heads = [cohorts.real_training_head(background, seed) for seed in range(14)]
    extents_mm = [np.array(head.image.spatial_shape) * head.image.spacing for head in heads]
    whole_mm = np.array(background.image.spatial_shape) * background.image.spacing
    cropped = [bool((mm < 0.8 * whole_mm).any()) for mm in extents_mm]
    assert 0 < sum(cropped) < 8
    for head in heads:
        assert head.image.spatial_shape == head.share.spatial_shape == head.brain.spatial_shape


def test_vessels_enhance_unless_the_image_is_post_contrast(background):
    options = HeadOptions(vessels=(2.0, 2.0), contrast_varies=False)
    plain = real_heads.anatomy(background, np.random.default_rng(1), options)
    post = RealHead(background.image, background.brain, enhanced=True)
    enhanced = real_heads.anatomy(post, np.random.default_rng(1), options)
    assert (plain.image - enhanced.image).min() > -1e-5
    brighter_ml = (plain.image > enhanced.image + 0.3).sum() * background.image.voxel_volume / 1000
    assert 5 < brighter_ml < 150
    white = enhanced.image[(enhanced.brain > 0) & (enhanced.white > 0.9)]
    assert np.median(white) == pytest.approx(1.0, abs=0.15)


def test_a_reacquired_head_is_no_finer_and_stays_in_place(background):
    for seed in range(6):
        again = real_heads.reacquired(background, np.random.default_rng(seed))
        before, after = np.array(background.image.spacing), np.array(again.image.spacing)
        assert (after >= before * real_heads.SCALE[0] - 1e-6).all()
        extent = after * again.image.spatial_shape / (before * background.image.spatial_shape)
        assert ((extent > real_heads.SCALE[0] - 0.01) & (extent < real_heads.SCALE[1] + 0.01)).all()
        ratio = (again.brain.array.sum() * again.brain.voxel_volume) / (
            background.brain.array.sum() * background.brain.voxel_volume * np.prod(extent)
        )
        assert ratio == pytest.approx(1.0, abs=0.06)
