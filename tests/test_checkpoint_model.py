"""A training checkpoint in MODEL_PATH is served like any other model."""

import json
from pathlib import Path

import numpy as np
import pytest
import requests
import torch

import cli
from bench.parts import free_port
from bench.service import made
from bench.viewer import Embedded
from imaging import nifti
from tests.published import published_checkpoint
from unetr.synthesis import metastases


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """As the published project writes it, by the name that Lightning gives it."""
    return published_checkpoint(tmp_path_factory.mktemp("training") / "Epoch=12 best.ckpt")


@pytest.fixture(scope="module")
def head_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.nii.gz"
    image = metastases.head(metastases.grid((40, 48, 40), (4.0, 4.0, 4.0)), 5).image
    nifti.write_values(image.with_array(image.array.astype(np.float32)), path)
    return path


def run(head_file: Path, out: Path, model: Path, monkeypatch) -> int:
    monkeypatch.setenv("MODEL_PATH", str(model))
    monkeypatch.setenv("DATA_DIR", str(out / "data"))
    return cli.main([str(head_file), "--out", str(out)])


def test_the_command_line_imports_it_once(checkpoint, head_file, tmp_path, monkeypatch):
    assert run(head_file, tmp_path, checkpoint, monkeypatch) == 0
    (spec,) = (tmp_path / "data" / "models").glob("*.json")
    model = json.loads((tmp_path / "lesions.json").read_text())["model"]
    assert model["id"] == spec.stem
    assert model["sha256"] == json.loads(spec.read_text())["weights"]["sha256"]
    before = spec.stat().st_mtime_ns
    assert run(head_file, tmp_path, checkpoint, monkeypatch) == 0
    assert spec.stat().st_mtime_ns == before


def test_one_that_cannot_be_imported_is_said(head_file, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "broken.ckpt"
    torch.save({"state_dict": {"model.unknown": torch.ones(1)}}, broken)
    assert run(head_file, tmp_path, broken, monkeypatch) == 5
    stderr = capsys.readouterr().err
    assert stderr.startswith("weights_invalid: MODEL_PATH cannot be imported.")
    assert "broken.ckpt" in stderr
    assert not list((tmp_path / "data" / "models").iterdir())


def test_the_service_lists_it_as_its_default(checkpoint, tmp_path):
    variables = {"DATA_DIR": str(tmp_path / "data"), "PORT": str(free_port()), "MODEL_PATH": str(checkpoint)}
    service = Embedded(made(tmp_path / "api"), variables)
    service.start()
    try:
        token = (tmp_path / "data" / "first.token").read_text().strip()
        header = {"Authorization": f"Bearer {token}"}
        models = requests.get(f"{service.url}/models", headers=header, timeout=30).json()["models"]
    finally:
        service.stop()
    (default,) = [model["id"] for model in models if model["default"]]
    assert default.startswith("epoch-12-best-")
