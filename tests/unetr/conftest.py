"""What the tests of prediction share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.models import SHIPPED, tiny_model
from unetr.spec import ModelSpec, PostProcessing, ScaleRange, load_spec
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions


@pytest.fixture(scope="session")
def reckonable_spec() -> ModelSpec:
    """The shipped model's grid and crop, with intensities and thresholds that a test can reckon with."""
    scale = ScaleRange(step="scale_range", source=(0, 100), target=(0, 1), clip=False)
    update = {
        "intensity": (scale,),
        "postprocessing": PostProcessing(threshold=0.5, minimum_volume_mm3=14.0),
    }
    return load_spec(SHIPPED).model_copy(update=update)


@pytest.fixture
def coarse_model(tmp_path: Path) -> Path:
    """The JSON file of a small untrained model on a grid of 6 mm; other.json has another threshold."""
    folder = tiny_model(tmp_path / "models", "tiny", 200.0)
    content = json.loads((folder / "tiny.json").read_text()) | {"spacing_mm": [6.0, 6.0, 6.0]}
    (folder / "tiny.json").write_text(json.dumps(content))
    content |= {"id": "other", "postprocessing": {"threshold": 0.52, "minimum_volume_mm3": 200.0}}
    (folder / "other.json").write_text(json.dumps(content))
    return folder / "tiny.json"


def make_coarse_head(kind: str, seed: int) -> metastases.Head:
    """A head of 6 mm voxels, without a lesion where its kind says so."""
    count = (0, 0) if kind == "no lesion" else (3, 5)
    options = HeadOptions(lesion_count=count, diameter_mm=(9.0, 30.0))
    return metastases.head(metastases.grid((30, 36, 30), (6.0, 6.0, 6.0)), seed, options)


@pytest.fixture(scope="session")
def coarse_head() -> Callable[[str, int], metastases.Head]:
    """Makes heads that cost nothing."""
    return make_coarse_head
