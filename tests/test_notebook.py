"""What learners run does what its sentences promise: the notebook, and the study of docs/training.md."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import cli

ROOT = Path(__file__).parents[1]
PATH = ROOT / "notebooks" / "learn.ipynb"
# What the cells have left behind.
TELL = """
import json

print(json.dumps({
    "losses": [float(row["training_loss"]) for row in curve],
    "true": {number: [one.volume_ml, one.long_axis_mm] for number, one in true.items()},
    "drawn": {lesion.number: lesion.volume_ml for lesion in head.lesions},
    "found": {one.name: [one.volume_ml, one.long_axis_mm, one.mean_probability] for one in found},
    "partners": {found[partner - 1].name: number for partner, number in partners.items()},
    "calibration": spec.confidence.model_dump(),
    "sure": sure,
    "entropies": [entropies[lesion.number] for lesion in found],
}))
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook with its outputs, and what its cells have left behind."""
    notebook = nbformat.read(PATH, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(TELL, id="tell"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("lesson")))
        # Threads that wait for a busy core take longer than one alone.
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": PATH.parent}}).execute()
    return notebook, json.loads(said_by(notebook, "tell"))


def said_by(notebook, name):
    (cell,) = [cell for cell in notebook.cells if cell.id == name]
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def test_every_cell_is_explained_and_stored_without_what_it_printed():
    cells = nbformat.read(PATH, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    assert all(before.cell_type == "markdown" for before, cell in pairwise(cells) if cell in code)


def test_the_training_learns_and_the_set_up_is_well(executed):
    notebook, left = executed
    assert "Everything works." in said_by(notebook, "check")
    assert "in (1, 1, 32, 32, 32)" in said_by(notebook, "build")
    assert len(left["losses"]) == 4
    assert left["losses"][-1] < 0.8 * left["losses"][0]


def test_the_lesions_are_found_and_measured_as_they_were_drawn(executed):
    notebook, left = executed
    for number, volume_ml in left["drawn"].items():
        assert left["true"][number][0] == pytest.approx(volume_ml, rel=0.1)
    assert len(left["partners"]) >= 3
    for name, number in left["partners"].items():
        volume_ml, long_axis_mm = left["true"][str(number)]
        assert left["found"][name][0] == pytest.approx(volume_ml, rel=0.3)
        # Voxels of 2 mm: one at either end.
        assert left["found"][name][1] == pytest.approx(long_axis_mm, abs=4.0)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in shown if "image/png" in output.get("data", ())]
    assert len(pictures) == 1 + len(left["found"]) + 1


def test_confidence_is_the_logistic_that_the_notebook_describes(executed):
    _, left = executed
    intercept, slope, growth = (left["calibration"][k] for k in ("intercept", "mean_logit", "log_volume"))
    for name, (volume_ml, _, mean_probability) in left["found"].items():
        probability = min(mean_probability, 1 - 1e-6)
        score = intercept + slope * math.log(probability / (1 - probability))
        expected = 1 / (1 + math.exp(-score - growth * math.log(1000 * volume_ml)))
        assert left["sure"][name] == pytest.approx(expected, abs=1e-6)
    assert all(0.0 < bits < 1.0 for bits in left["entropies"])


def test_the_study_of_training_md_has_two_series_of_which_one_is_chosen(tmp_path, capsys):
    section = (ROOT / "docs" / "training.md").read_text().split("## Synthetic studies")[1]
    code = section.split("```python\n")[1].split("```")[0]
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    assert cli.main([str(tmp_path / "phantom"), "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    described = {series["series_instance_uid"]: series["description"] for series in plan["candidates"]}
    assert sorted(described.values()) == ["T1 MPRAGE", "T1 MPRAGE post Gd"]
    assert described[plan["chosen"]] == "T1 MPRAGE post Gd"
    assert plan["warnings"] == []
