"""The choice of thresholds, the fit of the confidence, and the spec's file afterwards."""

import difflib
import shutil

import numpy as np
import pytest

from bench.models import SHIPPED
from unetr.confidence import confidence, fit
from unetr.evaluation.operating_point import THRESHOLDS, Cut, best, main, points, write
from unetr.spec import Confidence, PostProcessing, load_spec, logit


def head_of(lesions: dict[float, tuple], false: list[tuple]) -> dict[float, Cut]:
    """The same components at every threshold below their highest probability.

    Components are (highest probability, mm3); lesions: by what the component covers of the one lesion.
    """
    cuts = {}
    parts = [*lesions.values(), *false]
    for threshold in THRESHOLDS:
        there = [n for n, (peak, _) in enumerate(parts) if peak > threshold]
        cuts[threshold] = Cut(
            volumes_mm3=np.array([parts[n][1] for n in there], dtype=float),
            peaks=np.array([logit(parts[n][0]) for n in there]),
            false=np.array([n >= len(lesions) for n in there], dtype=bool),
            true_mm3=tuple(mm3 for _, mm3 in lesions.values()),
            shares=tuple(
                {there.index(n) + 1: share} if n in there else {} for n, share in enumerate(lesions)
            ),
        )
    return cuts


@pytest.fixture(scope="module")
def two_heads() -> list[dict[float, Cut]]:
    # Small lesions are as sure as large ones; what is false is unsure or a crumb.
    first = head_of({0.9: (0.97, 200.0), 0.8: (0.96, 25.0)}, [(0.94, 90.0), (0.6, 300.0), (0.99, 6.0)])
    second = head_of({0.7: (0.55, 150.0)}, [(0.88, 60.0), (0.45, 400.0)])
    return [first, second]


def test_the_point_finds_most_within_the_false_positives_that_are_allowed(two_heads):
    candidates = list(points(two_heads))
    chosen = best(candidates, 0.0)
    # Only above 0.94 nothing is false, less than 25 mm3 would let the crumb in; one lesion is lost.
    assert chosen.false_positives == 0.0
    assert chosen.sensitivity == pytest.approx(2 / 3)
    assert 6.0 < chosen.postprocessing.minimum_volume_mm3 <= 25.0
    surest = chosen.postprocessing.seed_threshold or chosen.postprocessing.threshold
    assert 0.94 <= surest < 0.96
    everything = best(candidates, 1.5)
    assert everything.sensitivity == 1.0
    assert everything.false_positives == 1.5
    assert best(candidates, 1.0).sensitivity == pytest.approx(2 / 3)


def test_of_points_that_find_the_same_the_one_with_the_true_volumes_is_taken():
    """At 0.6 the outline is right, below it is too wide and above too tight; what is false reaches 0.9."""
    cuts = {}
    for threshold in THRESHOLDS:
        there = [threshold < 0.97, threshold < 0.9]
        volumes = np.array([300.0 * (1.6 - threshold), 200.0])
        cuts[threshold] = Cut(
            volumes_mm3=volumes[there],
            peaks=np.array([logit(0.97), logit(0.9)])[there],
            false=np.array([False, True])[there],
            true_mm3=(300.0,),
            shares=({1: 0.8},) if there[0] else ({},),
        )
    chosen = best(list(points([cuts])), 0.0)
    assert chosen.postprocessing.threshold == 0.6
    assert chosen.postprocessing.seed_threshold in (0.9, 0.95)
    assert chosen.volume_ratio == pytest.approx(1.0)


def test_a_threshold_that_draws_lesions_too_large_is_not_taken_for_what_it_finds_more():
    """Below 0.5 one lesion more is found, but both are twice as large as they are."""
    cuts = {}
    for threshold in THRESHOLDS:
        factor, there = (2.0, 2) if threshold < 0.5 else (1.0, 1)
        cuts[threshold] = Cut(
            volumes_mm3=np.array([300.0, 200.0])[:there] * factor,
            peaks=np.array([logit(0.999)] * there),
            false=np.zeros(there, dtype=bool),
            true_mm3=(300.0, 200.0),
            shares=({1: 0.9}, {2: 0.9} if there == 2 else {}),
        )
    chosen = best(list(points([cuts])), 0.5)
    assert chosen.postprocessing.threshold >= 0.5
    assert (chosen.sensitivity, chosen.volume_ratio) == (0.5, 1.0)


def test_lesions_covered_by_less_than_a_tenth_are_not_found():
    cuts = [head_of({0.09: (0.97, 200.0), 0.11: (0.97, 200.0)}, [])]
    assert {point.sensitivity for point in points(cuts)} >= {0.5}
    assert max(point.sensitivity for point in points(cuts)) == 0.5


def test_where_nothing_is_within_the_rate_the_fewest_false_positives_count():
    candidates = list(points([head_of({0.9: (0.9999, 200.0)}, [(0.99999, 500.0)])]))
    assert best(candidates, 0.5).false_positives == min(point.false_positives for point in candidates)


def test_the_fit_finds_the_line_that_made_the_labels_and_keeps_the_order(reckonable_spec):
    rng = np.random.default_rng(8)
    probability, volume = rng.uniform(0.5, 0.999, 4000), np.exp(rng.uniform(2.0, 8.0, 4000))
    odds = -4.0 + 0.7 * np.log(probability / (1 - probability)) + 0.6 * np.log(volume)
    real = rng.random(4000) < 1 / (1 + np.exp(-odds))
    fitted = fit(list(probability), list(volume), list(real))
    assert fitted.intercept == pytest.approx(-4.0, abs=0.5)
    assert fitted.mean_logit == pytest.approx(0.7, abs=0.1)
    assert fitted.log_volume == pytest.approx(0.6, abs=0.1)
    spec = reckonable_spec.model_copy(update={"confidence": fitted})
    confidences = np.array([confidence(spec, *pair) for pair in zip(probability, volume, strict=True)])
    for low in (0.2, 0.4, 0.6, 0.8):
        inside = (confidences >= low) & (confidences < low + 0.1)
        assert real[inside].mean() == pytest.approx(confidences[inside].mean(), abs=0.06)
    assert confidence(spec, 0.9, 50.0) < confidence(spec, 0.95, 50.0) < confidence(spec, 0.95, 500.0)
    assert confidence(spec, 1.0, 500.0) < 1.0
    assert confidence(reckonable_spec, 0.9, 50.0) is None


def test_a_size_that_speaks_against_a_lesion_cannot_turn_the_order_round():
    fitted = fit([0.9, 0.9, 0.9, 0.9], [10.0, 20.0, 900.0, 1000.0], [True, True, False, False])
    assert fitted.log_volume == 0.0


def test_what_separates_completely_still_gives_finite_numbers():
    fitted = fit([0.6, 0.65, 0.95, 0.99], [50.0] * 4, [False, False, True, True])
    assert np.all(np.abs([fitted.intercept, fitted.mean_logit, fitted.log_volume]) < 50.0)
    with pytest.raises(ValueError, match="nothing to tell apart"):
        fit([0.9], [50.0], [True])


def test_only_the_two_fields_of_the_specs_file_change(tmp_path):
    path = tmp_path / "metscope-compact.json"
    shutil.copy(SHIPPED, path)
    before = path.read_text().splitlines()
    point = PostProcessing(threshold=0.4, seed_threshold=0.95, minimum_volume_mm3=12.5)
    write(path, point, Confidence(intercept=-1.5, mean_logit=0.75, log_volume=0.5))
    changed = [
        line
        for line in difflib.ndiff(before, path.read_text().splitlines())
        if line.startswith(("+", "-")) and "postprocessing" not in line and "confidence" not in line
    ]
    assert changed == []
    spec = load_spec(path)
    assert spec.postprocessing == point
    assert spec.confidence == Confidence(intercept=-1.5, mean_logit=0.75, log_volume=0.5)
    # Again, without a seed threshold and a confidence: nothing of the former choice stays.
    plain = PostProcessing(threshold=0.5, minimum_volume_mm3=30.0)
    write(path, plain, None)
    assert (load_spec(path).postprocessing, load_spec(path).confidence) == (plain, None)
    assert "seed_threshold" not in path.read_text()


def test_a_seed_threshold_below_the_threshold_is_refused():
    with pytest.raises(ValueError, match=r"seed_threshold, 0.4, is below threshold, 0.5"):
        PostProcessing(threshold=0.5, seed_threshold=0.4, minimum_volume_mm3=0.0)


def test_the_command_writes_a_point_that_it_tried_into_the_spec(coarse_model, coarse_head, tmp_path, capsys):
    before = load_spec(coarse_model)
    main(["--model", str(coarse_model), "--heads", "2", "--out", str(tmp_path / "out")], coarse_head)
    after = load_spec(coarse_model)
    assert after.postprocessing.threshold in THRESHOLDS
    assert after.model_copy(update={"postprocessing": before.postprocessing, "confidence": None}) == before
    assert f"| {after.postprocessing.threshold:g} |" in capsys.readouterr().out
