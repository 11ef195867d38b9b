"""What the panel says in French of the sentences that the service writes in English."""

import json
import subprocess
from itertools import product

import numpy as np
import pytest

from bench.parts import ROOT
from imaging import series
from lesions.measurability import judge
from unetr import synth
from unetr.phantom import SeriesOptions, to_instances

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
    grid = synth.grid((60, 32, 32), (2.5, 3.0, 3.0))
    volume = grid.with_array(np.arange(60 * 32 * 32, dtype=np.uint16).reshape(60, 32, 32))
    instances = to_instances(volume, SeriesOptions(description=description))
    (candidate,) = series.rank([instances])
    assert candidate.reasons
    for reason, french in zip(candidate.reasons, in_french(list(candidate.reasons)), strict=True):
        assert french != reason
        assert english_words(french) == [], reason
