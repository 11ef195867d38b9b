"""What the tests of prediction share."""

from pathlib import Path

import pytest

from unetr.spec import ModelSpec, PostProcessing, ScaleRange, load_spec

SPEC_FILE = Path(__file__).parents[2] / "unetr" / "weights" / "metscope-compact.json"


@pytest.fixture(scope="session")
def reckonable_spec() -> ModelSpec:
    """The shipped model's grid and crop, with intensities and thresholds that a test can reckon with."""
    scale = ScaleRange(step="scale_range", source=(0, 100), target=(0, 1), clip=False)
    update = {
        "intensity": (scale,),
        "postprocessing": PostProcessing(threshold=0.5, minimum_volume_mm3=14.0),
    }
    return load_spec(SPEC_FILE).model_copy(update=update)
