"""Studies, segmentations and jobs for the benchmarks, made by the worker's code with a threshold as model."""

from collections.abc import Callable

import highdicom as hd
import numpy as np

from context import ModelServices, Predict
from orthanc.archive import open_archive
from settings import Settings
from unetr.predict import Prediction
from unetr.served import default_model, served_models
from unetr.synthesis.phantom import SeriesOptions, to_instances
from worker import Runner

SHAPE = (12, 32, 64)
BRIGHT = 500
LESIONS = 5


def image(seed: int) -> hd.Volume:
    """Return noise with LESIONS bright boxes, (slices, rows, columns) of 2 mm: no anatomy, but fast."""
    pixels = np.random.default_rng(seed).integers(80, 120, SHAPE).astype(np.uint16)
    for number in range(LESIONS):
        pixels[5:8, 10:14, 4 + 12 * number : 8 + 12 * number] = 2 * BRIGHT
    affine = np.array([[0.0, 0, 2, -64], [0, 2, 0, -64], [2, 0, 0, -24], [0, 0, 0, 1]])
    return hd.Volume(pixels, affine, "PATIENT")


def add_study(settings: Settings, number: int) -> str:
    """Store a study of patient BENCH-number in the archive, as one multi-frame instance; return its UID."""
    options = SeriesOptions(enhanced="shared", patient_id=f"BENCH-{number}")
    instances = to_instances(image(number), options)
    open_archive(settings).store(instances)
    return str(instances[0].StudyInstanceUID)


def threshold(volume: hd.Volume, on_progress: Callable[[float], None], *_others: hd.Volume) -> Prediction:
    """Label all bright voxels as lesion."""
    on_progress(1.0)
    bright = volume.array > BRIGHT
    return Prediction(
        mask=volume.with_array(bright.astype(np.uint8)),
        probability=volume.with_array(bright.astype(np.float32)),
    )


def threshold_runner(settings: Settings, predictor: Predict = threshold) -> Runner:
    """Return a worker in this process whose model is the predictor."""

    def open_services(_settings: Settings, model_id: str | None) -> ModelServices:
        default = default_model(settings.models_dir, settings.model_path)
        spec = served_models(settings.models_dir, settings.model_path).get(model_id or default.id, default)
        return ModelServices(open_archive(settings), runner.sessions, settings, predictor, spec)

    runner = Runner(settings, open_services)
    return runner
