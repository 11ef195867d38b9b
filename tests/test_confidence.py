"""How probable it is that a lesion is one: the number of the model's calibration, wherever it is told."""

import csv
import json
import math

import highdicom as hd
import numpy as np
import pytest

import cli
from api import create_app
from bench import rows
from bench.models import tiny_model
from context import ModelServices
from db import jobs
from imaging import nifti
from orthanc.archive import open_archive
from schemas.tasks import SEGMENT, CorrectTask
from settings import Settings
from unetr.predict import Prediction
from unetr.served import default_model
from unetr.spec import Confidence
from worker import Runner

CALIBRATION = Confidence(intercept=-6.0, mean_logit=1.5, log_volume=0.8)
LESION_MM3 = 3 * 4 * 4 * 8.0


def said_by_hand(mean_probability: float, volume_mm3: float) -> float:
    odds = mean_probability / (1.0 - mean_probability)
    return 1.0 / (1.0 + math.exp(6.0 - 1.5 * math.log(odds) - 0.8 * math.log(volume_mm3)))


def doubtful(volume: hd.Volume, _on_progress) -> Prediction:
    """What is bright is a lesion, and the more so the further left it lies."""
    bright = volume.array > rows.BRIGHT
    probability = bright * (0.2 + 0.01 * np.arange(volume.shape[2]))
    return Prediction(
        volume.with_array(bright.astype(np.uint8)), volume.with_array(probability.astype(np.float32))
    )


@pytest.fixture(params=[CALIBRATION, None], ids=["calibrated", "not calibrated"])
def documents(request, tmp_path):
    """The API's of a segmentation, of its correction, and of the patient's lesions."""
    settings = Settings(_env_file=None, data_dir=tmp_path, auth="off")
    spec = default_model(settings.models_dir).model_copy(update={"confidence": request.param})
    study = rows.add_study(settings, 1)
    runner = Runner(
        settings, lambda *_: ModelServices(open_archive(settings), runner.sessions, settings, doubtful, spec)
    )
    client = create_app(settings).test_client()

    def run(task):
        job = jobs.submit(runner.sessions, study, spec.id, requested_by="dr", task=task)
        runner.run(job.id)
        return jobs.get(runner.sessions, job.id).segmentation_id

    first = run(SEGMENT)
    second = run(CorrectTask(segmentation_id=first, rename={1: "pons"}, delete=[2]))
    paths = f"/segmentations/{first}", f"/segmentations/{second}", "/patients/BENCH-1/lesions"
    return request.param, [client.get(path).json["lesions"] for path in paths]


def test_the_api_tells_the_logistic_of_the_specs_coefficients(documents):
    calibration, (first, corrected, of_patient) = documents
    assert len(first) == 5
    expected = [said_by_hand(0.2 + 0.01 * (5.5 + 12 * lesion), LESION_MM3) for lesion in range(5)]
    if calibration is None:
        assert {lesion["confidence"] for lesion in first + corrected} == {None}
        return
    assert max(expected) - min(expected) > 0.4
    # Lesions of one size are numbered from right to left.
    assert [lesion["confidence"] for lesion in first] == [
        pytest.approx(value, abs=6e-5) for value in expected
    ]
    kept = [first[0], *first[2:]]
    for lesions in (corrected, of_patient):
        assert [lesion["confidence"] for lesion in lesions] == [lesion["confidence"] for lesion in kept]


def test_the_command_line_writes_it_into_json_and_csv(tmp_path, monkeypatch):
    models = tiny_model(tmp_path / "models", "tiny", 1.0)
    content = json.loads((models / "tiny.json").read_text())
    (models / "tiny.json").write_text(json.dumps(content | {"confidence": CALIBRATION.model_dump()}))
    monkeypatch.setenv("MODELS_DIR", str(models))
    image = rows.image(1)
    nifti.write_values(image.with_array(image.array.astype(np.float32)), tmp_path / "head.nii.gz")
    out = tmp_path / "out"
    assert cli.main([str(tmp_path / "head.nii.gz"), "--out", str(out), "--model", "tiny"]) == 0
    lesions = json.loads((out / "lesions.json").read_text())["lesions"]
    assert lesions
    for lesion in lesions:
        expected = said_by_hand(lesion["mean_probability"], lesion["volume_ml"] * 1000.0)
        assert lesion["confidence"] == pytest.approx(expected, abs=3e-4)
    written = list(csv.DictReader((out / "lesions.csv").read_text().splitlines()))
    assert [float(row["confidence"]) for row in written] == [lesion["confidence"] for lesion in lesions]
