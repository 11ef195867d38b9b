"""Adaptation to a made-up department, and to labels that would spoil the model.

    python -m bench.adapt --data DIR --out DIR [--studies 6] [--steps 400]

DIR is a folder of real cases as for ``bench.real``. Its heads that the default model was not trained with
become the studies of a department whose images have more noise and slices of 4 mm; the lesions are implanted
as by ``bench.implants``. ``python -m unetr adapt`` is run on them twice: with their labels, and with labels
that are mirrored left to right. Prints what it says, and exits with 0 if the second is refused.
"""

import argparse
import json
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
from scipy import ndimage

from bench.implants import implanted, textures
from bench.real_cases import real_cases
from errors import DataRefused
from imaging.nifti import write_labels, write_values
from imaging.sequences import T1_POST_CONTRAST
from settings import load
from unetr.evaluation.evaluate import find_model
from unetr.predict import Predictor
from unetr.training import adapt

SLICE_MM, NOISE, LARGEST_MM, FIRST_SEED = 4.0, 0.04, 40.0, 700
OWN, MIRRORED = "studies", "mirrored"


def acquired(image: hd.Volume, labels: hd.Volume, seed: int) -> tuple[hd.Volume, hd.Volume]:
    """Return an image and its labels in thick axial slices, with noise."""
    image, labels = (volume.to_patient_orientation("LPH") for volume in (image, labels))
    count = max(round(SLICE_MM / image.spacing[2]), 1)
    slices = image.spatial_shape[2] // count
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (count - 1) / 2
    affine[:3, 2] *= count
    blocks = image.array[:, :, : slices * count].reshape(*image.spatial_shape[:2], slices, count)
    middle = labels.array[:, :, count // 2 :: count][:, :, :slices]
    noise = np.random.default_rng(seed).normal(size=blocks.shape[:3])
    noise = ndimage.gaussian_filter(noise, (0.5, 0.5, 0.0))
    level = NOISE * np.percentile(image.array, 99.0)
    array = (blocks.mean(-1) + level * noise).clip(0.0).astype(np.float32)
    return hd.Volume(array, affine, "PATIENT"), hd.Volume(middle.astype(np.uint8), affine, "PATIENT")


def write_studies(data: Path, folder: Path, predictor: Predictor, studies: int) -> None:
    """Write the department's studies in the layout nnunet, and those with mirrored labels beside them."""
    sources = list(real_cases(data))
    tumours = textures(sources)
    heads = [source for source in sources if source.known.lesion_free and not source.known.trained]
    for name in (OWN, MIRRORED):
        for part in ("imagesTr", "labelsTr"):
            (folder / name / part).mkdir(parents=True, exist_ok=True)
    for number in range(studies):
        head = heads[number % len(heads)]
        truth = implanted(head, predictor, tumours, FIRST_SEED + number, LARGEST_MM)
        image, labels = acquired(truth.images[T1_POST_CONTRAST], truth.values, number)
        mirrored = labels.with_array(np.flip(labels.array, 0))
        for name, mask in ((OWN, labels), (MIRRORED, mirrored)):
            write_values(image, folder / name / "imagesTr" / f"study{number}_0000.nii.gz")
            write_labels(mask, folder / name / "labelsTr" / f"study{number}.nii.gz")
    for name in (OWN, MIRRORED):
        description = {
            "channel_names": {"0": "T1-Gd"},
            "labels": {"background": 0, "metastasis": 1},
            "numTraining": studies,
            "file_ending": ".nii.gz",
        }
        (folder / name / "dataset.json").write_text(json.dumps(description))


def main() -> int:
    parser = argparse.ArgumentParser(description="Adaptation to a made-up department.")
    parser.add_argument("--data", type=Path, required=True, help="a folder of real cases")
    parser.add_argument("--out", type=Path, required=True, help="for the studies and the models")
    parser.add_argument("--model", help="id of a served model, or its JSON file; the default one if absent")
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    settings = load()
    spec = find_model(options.model, settings)
    if not (options.out / MIRRORED / "dataset.json").exists():
        write_studies(options.data, options.out, Predictor.load(spec, settings.device), options.studies)
    common = ["--layout", "nnunet", "--steps", str(options.steps)]
    if options.model:
        common += ["--model", options.model]

    def adapted(name: str) -> int:
        out = options.out / f"adapted-{name}"
        return adapt.main(["--data", str(options.out / name), "--out", str(out), *common])

    print(f"Labels as implanted: exit status {adapted(OWN)}\n")
    try:
        status = adapted(MIRRORED)
    except DataRefused as error:
        print(f"Mirrored labels: refused. {error.problem}")
        return 0
    print(f"Mirrored labels: exit status {status}")
    return 0 if status else 1


if __name__ == "__main__":
    sys.exit(main())
