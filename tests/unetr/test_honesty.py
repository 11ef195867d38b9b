"""The default model on images that it cannot judge: it warns or refuses; a cropped head is still searched."""

from dataclasses import replace
from functools import cache

import highdicom as hd
import numpy as np
import pytest
from scipy import ndimage

from errors import BrainNotFound
from imaging.grid import MM3_PER_ML
from settings import load
from unetr.evaluation.evaluate import find_model
from unetr.predict import Predictor
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions

GRID = metastases.grid((128, 170, 150), (1.4, 1.4, 1.4))
ORDINARY = HeadOptions(lesion_count=(3, 5))


@cache
def predictor() -> Predictor:
    return Predictor.load(find_model(None, load()), "cpu")


@cache
def ordinary() -> metastases.Head:
    return metastases.head(GRID, 41, ORDINARY)


def ml(mask: hd.Volume) -> float:
    return float((mask.array > 0).sum()) * mask.voxel_volume / MM3_PER_ML


def told(image: hd.Volume) -> str:
    """Return the warnings, or the sentence of the refusal."""
    try:
        return " ".join(predictor()(image).warnings)
    except BrainNotFound as error:
        return error.problem


def test_a_cropped_head_is_searched_and_the_reader_is_told():
    """A slab of 84 mm that holds almost all of the lesions' volume."""
    head = ordinary()
    image, truth = head.image[40:100], head.labels[40:100]
    prediction = predictor()(image)
    assert "end within the brain" in " ".join(prediction.warnings)
    assert ml(prediction.mask) == pytest.approx(ml(truth), rel=0.25)


def test_a_lesion_of_70_mm_is_found_and_its_outline_doubted():
    head = metastases.head(GRID, 5, HeadOptions(lesion_count=(1, 1), diameter_mm=(70.0, 70.1)))
    prediction = predictor()(head.image)
    assert ml(prediction.mask) > 0.5 * ml(head.labels)
    assert "larger than nearly all that the model was trained with" in " ".join(prediction.warnings)


def as_ct(head: metastases.Head) -> hd.Volume:
    """Hounsfield units: air, soft tissue, brain of 30 to 45, bone around it."""
    brain = head.brain.array > 0
    white = np.percentile(head.image.array[brain], 60)
    body = ndimage.binary_fill_holes(head.image.array > 0.1 * white)
    bone = ndimage.binary_dilation(brain, iterations=5) & ~ndimage.binary_dilation(brain) & body
    hounsfield = np.where(body, 40.0, -1000.0)
    hounsfield[brain] = 30.0 + 15.0 * (head.image.array[brain] / white).clip(0.0, 3.0)
    hounsfield[bone] = 1000.0
    noise = np.random.default_rng(0).normal(0.0, 5.0, brain.shape)
    return head.image.with_array((hounsfield + noise).astype(np.float32))


def inverted(head: metastases.Head) -> hd.Volume:
    """Dark where it was bright, within the head."""
    highest = np.percentile(head.image.array, 99.9)
    array = np.where(head.image.array > 0.05 * highest, highest - head.image.array, 0.0)
    return head.image.with_array(array.clip(0.0).astype(np.float32))


@pytest.mark.parametrize("altered", [as_ct, inverted])
def test_another_kind_of_image_is_refused_or_said_to_be_unlike_the_training(altered):
    words = told(altered(ordinary()))
    assert "unlike that of any image the model was trained with" in words or "ml of brain were found" in words


def test_an_image_before_contrast_agent_is_told_and_one_after_it_is_not():
    before = metastases.head(GRID, 41, replace(ORDINARY, lesion_count=(0, 0), vessels=(0.0, 0.0)))
    assert "check that contrast agent was given" in told(before.image)
    assert "check that contrast agent was given" not in told(ordinary().image)
