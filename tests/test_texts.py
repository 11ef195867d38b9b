"""What the panel says in French of the sentences that the service writes in English."""

import json
import subprocess
from dataclasses import replace
from itertools import product

import highdicom as hd
import numpy as np
import pytest
from pydicom import config

from bench.parts import ROOT
from imaging import files, inputs, series
from imaging.stack import to_stack
from lesions.measurability import judge
from unetr.brain import Region, find_brain
from unetr.cautions import Found, cautions
from unetr.spec import Trained, load_spec
from unetr.synthesis import metastases
from unetr.synthesis.phantom import SeriesOptions, to_instances

# Each line of its input in French.
TRANSLATE = f"""
import {{ phrase }} from '{ROOT}/ohif/texts.js'
import {{ readFileSync }} from 'node:fs'
const lines = JSON.parse(readFileSync(0, 'utf8'))
console.log(JSON.stringify(lines.map(line => phrase(line, 'fr'))))
"""
ENGLISH = (
    "the",
    "is",
    "are",
    "slices",
    "slice",
    "axis",
    "below",
    "says",
    "apart",
    "acquired",
    "covers",
    "visible on",
)


def in_french(sentences: list[str]) -> list[str]:
    command = ["node", "--input-type=module", "--eval", TRANSLATE]
    answer = subprocess.run(command, input=json.dumps(sentences), capture_output=True, text=True, check=True)
    french: list[str] = json.loads(answer.stdout)
    return french


def english_words(sentence: str) -> list[str]:
    return [word for word in ENGLISH if f" {word} " in f" {sentence} "]


def test_every_reason_why_a_lesion_is_measurable_or_not_is_told_in_french():
    reasons = sorted(
        {judge(*values, 10.0)[1] for values in product((4.2, 7.5, 12.0), (3.1, 6.0), (1, 5), (1.0, 3.0, 7.0))}
        | {judge(7.5, 6.0, 3, 3.0, 5.0)[1]}
    )
    assert len(reasons) > 10
    for reason, french in zip(reasons, in_french(reasons), strict=True):
        assert english_words(french) == [], reason


@pytest.mark.parametrize("description", ["T1 MPRAGE post Gd", "t1_mprage_sag"])
def test_what_speaks_for_a_series_is_told_in_french(description):
    grid = metastases.grid((60, 32, 32), (2.5, 3.0, 3.0))
    volume = grid.with_array(np.arange(60 * 32 * 32, dtype=np.uint16).reshape(60, 32, 32))
    instances = to_instances(volume, SeriesOptions(description=description))
    (candidate,) = series.rank([instances])
    assert candidate.reasons
    for reason, french in zip(candidate.reasons, in_french(list(candidate.reasons)), strict=True):
        assert french != reason
        assert english_words(french) == [], reason


def test_every_warning_of_a_result_is_told_in_french():
    grid = metastases.grid((24, 32, 32), (5.0, 6.0, 6.0))
    volume = grid.with_array(np.arange(24 * 32 * 32, dtype=np.uint16).reshape(24, 32, 32))
    post = to_instances(volume, SeriesOptions(description="T1 MPRAGE post Gd"))
    for header in post:
        header.MRAcquisitionType, header.SliceThickness = "3D", 1.0
        header.ImageType, header.LossyImageCompression = ["DERIVED", "PRIMARY", "M"], "01"
        del header.FrameOfReferenceUID
    stack = to_stack(post)
    for header in post:
        with config.disable_value_validation():
            header.FrameOfReferenceUID = "abc"
    odd = to_stack(post)
    part = replace(stack, volume=stack.volume[:17])
    t2 = to_instances(volume, SeriesOptions(description="T2 TSE", contrast=False))
    choices = {"FLAIR": str(t2[0].SeriesInstanceUID)}
    (by_hand,) = inputs.choose_inputs([t2], ["FLAIR"], choices, head=True)
    unproven = []
    for description, attributes in [("T1 xyzw Gd", {}), ("T1", {"ContrastBolusAgent": "Gadovist"})]:
        headers = to_instances(volume, SeriesOptions(description=description, contrast=False))
        for header in headers:
            header.ContrastBolusVolume = "0.0"
            header.update(attributes)
        unproven += series.rank([headers])[0].warnings
    warnings = [
        *stack.warnings,
        *set(odd.warnings).difference(stack.warnings),
        *unproven,
        *series.rank([post])[0].warnings,
        *inputs.check_together([stack, part], ["T1 post-contrast", "FLAIR"]),
        *by_hand.warnings,
        *files.damage_warnings(["IM1", "IM2"]),
        *of_a_brain_that_is_cut_off_and_too_large(),
        *of_half_a_brain(),
        *of_findings_beyond_what_the_model_knows(),
    ]
    assert len(warnings) == 18
    for warning, french in zip(warnings, in_french(warnings), strict=True):
        assert french != warning
        assert english_words(french) == [], warning


def of_a_brain_that_is_cut_off_and_too_large() -> tuple[str, ...]:
    model = load_spec(ROOT / "unetr" / "weights" / "metscope-compact.json")
    step_mm = 2.0
    x, y, _ = np.indices((100, 100, 40)) * step_mm - 100.0
    inside = ((x / 90) ** 2 + (y / 85) ** 2 < 1) & (y < 20 + 0.3 * x)
    head = hd.Volume(inside.astype(np.float32), np.diag([step_mm, step_mm, step_mm, 1.0]), "PATIENT")
    return find_brain(head, lambda window: (window - 0.5) * 20.0, model.brain).warnings


def of_half_a_brain() -> tuple[str, ...]:
    model = load_spec(ROOT / "unetr" / "weights" / "metscope-compact.json")
    x, y, z = np.indices((70, 90, 75)) * 2.0 - 75.0
    inside = ((x / 75) ** 2 + (y / 70) ** 2 + (z / 66) ** 2 < 1) & (y < 40 + 0.4 * x)
    head = hd.Volume(inside.astype(np.float32)[34:], np.diag([2.0, 2.0, 2.0, 1.0]), "PATIENT")
    return find_brain(head, lambda window: (window - 0.5) * 20.0, model.brain).warnings


def of_findings_beyond_what_the_model_knows() -> tuple[str, ...]:
    """One component reaches from the edge of the images out of the searched region, on a grid of 2 mm."""
    positive = np.zeros((30, 30, 30), dtype=bool)
    positive[:17, 10:20, 10:20] = True
    region = np.zeros_like(positive)
    region[:12] = True
    found = Found((positive & region).astype(np.uint32), np.array([True, True]), positive)
    image = hd.Volume(np.zeros(positive.shape, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), "PATIENT")
    trained = Trained(largest_mm=8.5, brain_intensities=((1.0, 2.0), (1.0, 2.0), (1.0, 2.0)))
    model = load_spec(ROOT / "unetr" / "weights" / "metscope-compact.json")
    spec = model.model_copy(update={"trained": trained})
    return cautions(found, Region(region, brain=region), image, spec)
