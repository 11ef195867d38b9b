"""Every attack of bench/attacks.py names tests that there are, or why it is accepted."""

import subprocess
import sys
from pathlib import Path

from bench.attacks import ATTACKS, WITH_LONG_ONES, functions

ROOT = Path(__file__).parents[1]


def test_every_attack_names_tests_that_exist():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *WITH_LONG_ONES, *functions(ATTACKS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    collected = done.stdout.splitlines()
    missing = [
        test
        for attack in ATTACKS
        for test, meant in zip(attack.tests, attack.tests_among(collected), strict=True)
        if not meant
    ]
    assert missing == []


def test_no_attack_is_listed_twice():
    assert len({attack.tried for attack in ATTACKS}) == len(ATTACKS)


def test_every_attack_is_held_by_tests_or_accepted_for_a_reason():
    assert [attack.tried for attack in ATTACKS if bool(attack.tests) == bool(attack.accepted)] == []
