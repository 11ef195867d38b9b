"""Adaptation to a department: bad labels are refused before training, a worse model is not written."""

import pytest

from errors import DataRefused
from tests import labelled
from unetr.evaluation.statistics import Estimate
from unetr.training.adapt import Figures, faults, main


def arguments(folder, model, out):
    return ["--data", str(folder), "--layout", "nnunet", "--model", str(model), "--out", str(out)]


def test_labels_that_lie_where_the_model_finds_nothing_are_refused_before_training(coarse_model, tmp_path):
    """A model that finds nothing stands for labels at the wrong place."""
    text = coarse_model.read_text().replace('"minimum_volume_mm3": 200.0', '"minimum_volume_mm3": 1e9')
    coarse_model.write_text(text)
    labelled.nnunet(tmp_path / "studies", ("a", "b", "c", "d"))
    with pytest.raises(DataRefused, match="touches 0 of the 4 labelled lesions from 10 mm"):
        main(arguments(tmp_path / "studies", coarse_model, tmp_path / "out"))
    assert not (tmp_path / "out" / "models").exists()
    assert not (tmp_path / "out" / "run").exists()


def test_studies_of_too_few_patients_are_refused(coarse_model, tmp_path):
    labelled.nnunet(tmp_path / "studies", ("a", "b"))
    with pytest.raises(DataRefused, match="studies of 2 patients; at least 3 are needed"):
        main(arguments(tmp_path / "studies", coarse_model, tmp_path / "out"))


def figures(sensitivity, dice, false_positives):
    return Figures(*(Estimate(value, None, None) for value in (sensitivity, dice, false_positives)))


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ((0.80, 0.70, 0.5), []),
        ((0.79, 0.69, 0.7), []),
        ((0.70, 0.70, 0.5), ["sensitivity on held-out studies falls from 0.80 to 0.70"]),
        ((0.90, 0.60, 0.5), ["lesion-wise Dice on held-out studies falls from 0.70 to 0.60"]),
        ((0.90, 0.80, 1.0), ["false positives on held-out studies rise from 0.50 to 1.00"]),
    ],
)
def test_any_figure_that_becomes_worse_counts_against_the_adapted_model(after, told):
    assert faults(figures(0.80, 0.70, 0.5), figures(*after), "held-out studies") == told
