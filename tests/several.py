"""Models of several inputs and labels whose answers are known, and studies for them.

Their network is a real U-Net with weights by hand: each label's logit is a linear function of the inputs at
every second voxel (of 1 mm), interpolated between them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import torch
from pydicom import Dataset
from pydicom.uid import generate_uid

import context
from tests.site import Site
from unetr.network import build, save_weights
from unetr.spec import ModelSpec
from unetr.synthesis.phantom import SeriesOptions, to_instances

STEEPNESS = 20.0
TUMOUR = {"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"}
ABNORMAL = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
ANATOMY = {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"}
BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
SPINE = {"value": "421060004", "scheme": "SCT", "meaning": "Spine"}
# LPS mm. Necrosis in the enhancing tumour in the oedema, and a cyst that is bright in T1 and T2.
CENTRE, NECROSIS_MM, ENHANCING_MM, OEDEMA_MM = np.array([8.0, -6.0, 5.0]), 9.0, 13.0, 19.0
CYST, CYST_MM = np.array([-22.0, 18.0, -18.0]), 7.0
BALL = 4.0 / 3.0 * np.pi / 1000.0
REGIONS_ML = {
    "NCR": BALL * NECROSIS_MM**3,
    "ED": BALL * (OEDEMA_MM**3 - ENHANCING_MM**3),
    "ET": BALL * (ENHANCING_MM**3 - NECROSIS_MM**3),
}
AXIAL, SAGITTAL = np.eye(3)[:, ::-1], np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def label(value: int, name: str, kind: Mapping[str, str], **more: object) -> dict[str, object]:
    category = ANATOMY if kind.get("anatomical") else ABNORMAL
    return {"value": value, "name": name, "category": category, "type": dict(kind), **more}


GLIOMA = {
    "id": "glioma", "title": "Glioma by hand", "subject": "Glioma regions", "anatomy": BRAIN,
    "inputs": ["FLAIR", "T1", "T1 post-contrast", "T2"],
    "labels": [
        label(1, "NCR", {"value": "6574001", "scheme": "SCT", "meaning": "Necrosis"}, whole=True),
        label(2, "ED", {"value": "79654002", "scheme": "SCT", "meaning": "Edema"}, whole=True),
        label(3, "ET", {"value": "C113842", "scheme": "NCIt", "meaning": "Enhancing Lesion"}, whole=True),
    ],
}  # fmt: skip
# Of each label: the weights of the inputs and what is added. Half-way up an edge two labels, or one and the
# background, are even.
OF_GLIOMA = (
    ([0.0, -2.0, 0.0, 2.0], -0.4), ([1.0, 0.0, 0.0, 0.0], -0.5), ([0.0, 0.0, 2.0, 0.0], -0.6),
)  # fmt: skip
WHOLE_TUMOUR = {
    "id": "whole-tumour", "title": "Whole tumour by hand", "subject": "Whole tumour", "anatomy": BRAIN,
    "inputs": ["FLAIR", "T1", "T2"], "labels": [label(1, "Whole tumour", TUMOUR, whole=True)],
}  # fmt: skip
OF_WHOLE_TUMOUR = (([1.0, 0.0, 0.0], -0.5),)
SPINE_PARTS = {
    "id": "spine", "title": "Spine by hand", "subject": "Spine", "anatomy": SPINE,
    "inputs": ["T2"],
    "labels": [
        label(1, "Disc", {"value": "360499006", "scheme": "SCT", "meaning": "Intervertebral disc"}),
        label(2, "Vertebra", {"value": "51282000", "scheme": "SCT", "meaning": "Vertebra"}),
        label(3, "Canal", {"value": "61853006", "scheme": "SCT", "meaning": "Spinal canal"}, whole=True),
    ],
}  # fmt: skip


def specification(model: Mapping[str, object]) -> dict[str, object]:
    """All of a specification but for its weights' hash."""
    inputs, labels = model["inputs"], model["labels"]
    arguments = {
        "in_channels": len(inputs), "out_channels": len(labels) + 1, "channels": [len(inputs), 1],
        "num_res_units": 0, "norm": "batch",
    }  # fmt: skip
    return {
        "version": "1", "intended_use": "tests", "licence": "-", "training_data": "none",
        "weights": {"file": f"{model['id']}.safetensors", "sha256": "0" * 64},
        "network": {"name": "UNet", "arguments": arguments},
        "orientation": "RAS", "spacing_mm": [1.0, 1.0, 1.0],
        "intensity": [{"step": "scale_range", "source": [0, 1000], "target": [0, 1], "clip": False}],
        "crop": {"to": "none"}, "window": {"shape": [64, 64, 64], "overlap": 0.0},
        "postprocessing": {"threshold": 0.5, "minimum_volume_mm3": 60.0},
        **model,
    }  # fmt: skip


def save_model(
    folder: Path, model: Mapping[str, object], answers: Sequence[tuple[list[float], float]]
) -> None:
    """Write its files. answers: of each label, the weights of the inputs and what is added."""
    folder.mkdir(exist_ok=True)
    content = specification(model)
    networks = build(ModelSpec.model_validate(content))
    state = {name: torch.zeros_like(tensor) for name, tensor in networks.state_dict().items()}
    channels = len(answers[0][0])
    for name, tensor in state.items():
        if name.endswith(("adn.N.weight", "running_var", "adn.A.weight")):
            tensor.fill_(1.0)
    for channel in range(channels):
        state["lesion.model.0.conv.weight"][channel, channel, 1, 1, 1] = 1.0
    line = torch.tensor([0.5, 1.0, 0.5])
    between = line[:, None, None] * line[None, :, None] * line[None, None, :]
    for number, (weights, added) in enumerate(answers, start=1):
        state["lesion.model.2.conv.bias"][number] = STEEPNESS * added
        for channel, weight in enumerate(weights):
            state["lesion.model.2.conv.weight"][channel, number] = STEEPNESS * weight * between
    networks.load_state_dict(state)
    content["weights"]["sha256"] = save_weights(networks, folder / content["weights"]["file"])
    (folder / f"{model['id']}.json").write_text(json.dumps(content))


def grid(axes: np.ndarray, spacing_mm: tuple[float, float, float], size_mm: float = 64.0) -> hd.Volume:
    """An empty cube about the origin, (slice, row, column); axes: columns of unit vectors, LPS."""
    shape = [round(size_mm / step) for step in spacing_mm]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return hd.Volume(np.zeros(shape, np.float32), affine, "PATIENT")


def ball(volume: hd.Volume, centre: np.ndarray, radius_mm: float) -> np.ndarray:
    """The share of each voxel in the ball, about: an edge of 2 mm, half-way up on the surface."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.spatial_shape], indexing="ij"), -1)
    points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return np.clip((radius_mm - np.linalg.norm(points - centre, axis=-1)) / 2.0 + 0.5, 0.0, 1.0)


def tumour(name: str, volume: hd.Volume) -> hd.Volume:
    """What a sequence shows of the tumour on a grid: 100 of tissue, 900 of what is bright in it."""
    necrosis, enhancing, oedema = (
        ball(volume, CENTRE, radius_mm) for radius_mm in (NECROSIS_MM, ENHANCING_MM, OEDEMA_MM)
    )
    cyst = ball(volume, CYST, CYST_MM)
    share = {
        "FLAIR": oedema, "T1": cyst, "T1 post-contrast": enhancing - necrosis, "T2": necrosis + cyst,
    }[name]  # fmt: skip
    return volume.with_array(np.rint(100.0 + 800.0 * share).astype(np.uint16))


DESCRIPTIONS = {
    "FLAIR": "ax FLAIR",
    "T1": "t1_se_tra",
    "T1 post-contrast": "T1 MPRAGE post Gd",
    "T2": "t2_tse_tra",
}
# The first input's is the model's; the others lie otherwise.
GRIDS = {
    "FLAIR": grid(AXIAL, (2.0, 2.0, 2.0)),
    "T1": grid(AXIAL, (2.5, 1.6, 1.6), 70.0),
    "T1 post-contrast": grid(SAGITTAL, (1.5, 1.7, 1.7), 68.0),
    "T2": grid(AXIAL, (2.2, 1.8, 1.8), 66.0),
}


def study(names: Sequence[str], **overrides: Mapping[str, object]) -> dict[str, list[Dataset]]:
    """Series of one study in one frame of reference, by sequence. overrides: attributes of a sequence's
    images, by its name without blanks and hyphens.
    """
    return study_of({name: tumour(name, GRIDS[name]) for name in names}, **overrides)


def study_of(volumes: Mapping[str, hd.Volume], **overrides: Mapping[str, object]) -> dict[str, list[Dataset]]:
    """The same of other volumes, by sequence."""
    study_uid, frame_uid = generate_uid(), generate_uid()
    series = {}
    for number, (name, volume) in enumerate(volumes.items(), start=2):
        options = SeriesOptions(
            description=DESCRIPTIONS[name], contrast=name == "T1 post-contrast", series_number=number,
            study_instance_uid=study_uid,
        )  # fmt: skip
        series[name] = to_instances(volume, options)
        attributes = {"FrameOfReferenceUID": frame_uid, **overrides.get(name.replace(" ", "_"), {})}
        for instance in series[name]:
            for keyword, value in attributes.items():
                setattr(instance, keyword, value)
    return series


class SeveralSite(Site):
    """A site that serves the models of a folder."""

    def __init__(self, folder: Path, models: Path, opener=context.open_services) -> None:
        weights = next(iter(sorted(models.glob("*.safetensors"))), None)
        super().__init__(folder, opener, models_dir=models, model_path=weights, auth="off")
        self.api = self.app.test_client()

    def store(self, series: dict[str, list[Dataset]]) -> str:
        self.archive.store([instance for instances in series.values() for instance in instances])
        return str(next(iter(series.values()))[0].StudyInstanceUID)

    def segment(self, study_uid: str, model: str, **body: object):
        answer = self.api.post(f"/segmentation/{study_uid}", json={"model": model, **body})
        assert answer.status_code == 202, answer.json
        return self.run_job(answer.json["id"])

    def retrieve(self, document: dict, modality: str = "SEG") -> Dataset:
        companion = document["segmentation"]
        if modality != "SEG":
            (companion,) = [entry for entry in document["companions"] if entry["modality"] == modality]
        (dataset,) = self.archive.retrieve_series(
            document["study_instance_uid"], companion["series_instance_uid"]
        )
        return dataset
