"""Estimates on numbers whose answer is known."""

import numpy as np
import pytest

from unetr.evaluation.statistics import (
    RATES,
    binned,
    bland_altman,
    bootstrap,
    froc,
    mean,
    paired_bootstrap,
    paired_wilcoxon,
    ratio,
    reliability,
)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(300):
        estimate = mean(list(rng.normal(5.0, 2.0, 40)))
        inside += estimate.low <= 5.0 <= estimate.high
    # 95 % within three standard errors of 300 draws; a percentile interval of 40 is a little narrow.
    assert 0.90 <= inside / 300 <= 0.985


def test_the_width_is_that_of_the_standard_error():
    values = list(np.random.default_rng(2).normal(0.0, 1.0, 400))
    estimate = mean(values)
    assert estimate.value == pytest.approx(np.mean(values))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * np.std(values) / 20.0, rel=0.1)


def test_whole_cases_are_drawn_so_lesions_that_stand_or_fall_together_count_as_one():
    together = bootstrap(ratio, [10, 0] * 10, [10] * 20)
    apart = bootstrap(ratio, [5] * 20, [10] * 20)
    assert together.value == apart.value == 0.5
    assert (apart.low, apart.high) == (0.5, 0.5)
    assert together.high - together.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.15)


def test_cases_without_a_value_do_not_count_and_nothing_has_no_estimate():
    assert mean([1.0, None, 3.0]).value == 2.0
    assert mean([None, None]).value is None
    assert mean([]).value is None
    assert bootstrap(ratio, [0, 0], [0, 0]).low is None
    alone = mean([0.7])
    assert (alone.value, alone.low, alone.high) == (0.7, 0.7, 0.7)


def test_six_cases_that_all_improve_have_the_exact_p_of_wilcoxons_test():
    before = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    after = [0.15, 0.27, 0.39, 0.51, 0.63, 0.75]
    result = paired_wilcoxon(before, after)
    assert result.p == pytest.approx(2 / 2**6)
    assert result.value == pytest.approx(0.1)
    assert result.low > 0
    assert paired_wilcoxon(after, before).p == pytest.approx(2 / 2**6)
    assert paired_wilcoxon(before, before).p == 1.0
    assert paired_wilcoxon([None, 1.0], [1.0, None]).value is None


def test_a_paired_bootstrap_tells_a_clear_gain_from_none():
    hits, totals = [2, 3, 1, 4, 2, 3, 2, 5], [5, 6, 4, 8, 5, 6, 5, 9]
    more = [hit + 2 for hit in hits]
    gain = paired_bootstrap(ratio, (hits, totals), (more, totals))
    assert gain.value == pytest.approx(16 / 48)
    assert gain.low > 0
    assert gain.p <= 1 / 2000
    same = paired_bootstrap(ratio, (hits, totals), (hits, totals))
    assert (same.value, same.p) == (0.0, 1.0)
    # One better, one worse by as much: whichever is drawn more often decides.
    mixed = paired_bootstrap(ratio, ([1, 0] * 8, [1] * 16), ([0, 1] * 8, [1] * 16))
    assert mixed.value == 0.0
    assert mixed.p > 0.9


def test_bias_and_limits_of_known_differences():
    agreement = bland_altman([[1.0, -1.0], [], [3.0, 1.0]])
    spread = np.sqrt((0 + 4 + 4 + 0) / 3)
    assert agreement.count == 4
    assert agreement.bias.value == pytest.approx(1.0)
    assert agreement.low_limit.value == pytest.approx(1.0 - 1.96 * spread)
    assert agreement.high_limit.value == pytest.approx(1.0 + 1.96 * spread)
    constant = bland_altman([[0.5], [0.5, 0.5]])
    assert constant.low_limit.value == pytest.approx(0.5)
    assert constant.high_limit.value == pytest.approx(0.5)
    assert bland_altman([[], []]).bias.value is None


def test_froc_of_two_heads_written_by_hand():
    curve = froc([[0.9, 0.4], [0.7, None]], [[0.8], [0.3, 0.2]])
    assert curve.scores == pytest.approx((0.9, 0.8, 0.7, 0.4, 0.3, 0.2))
    assert curve.sensitivity == pytest.approx((0.25, 0.25, 0.5, 0.75, 0.75, 0.75))
    assert curve.false_positives == pytest.approx((0.0, 0.5, 0.5, 0.5, 1.0, 1.5))
    at = {rate: curve.at[rate].value for rate in RATES}
    assert at == pytest.approx(
        {0.125: 0.25, 0.25: 0.25, 0.5: 0.75, 1.0: 0.75, 2.0: 0.75, 4.0: 0.75, 8.0: 0.75}
    )


def test_a_model_that_finds_nothing_has_a_froc_of_zeros():
    curve = froc([[None, None], []], [[], []])
    assert curve.scores == ()
    assert {estimate.value for estimate in curve.at.values()} == {0.0}


def test_thousands_of_scores_give_the_curve_of_a_coin_thrown():
    rng = np.random.default_rng(5)
    curve = froc([list(rng.random(10)) for _ in range(300)], [list(rng.random(8)) for _ in range(300)])
    # Both uniform: at r false positives per head, of 8, r eighths of the lesions are found.
    assert curve.at[2.0].value == pytest.approx(0.25, abs=0.03)
    assert curve.at[4.0].value == pytest.approx(0.5, abs=0.03)


def sums(confidences: list[float], right: list[bool]) -> np.ndarray:
    return binned(confidences, right)[:, None]


def test_the_calibration_error_of_the_perfect_the_over_confident_and_the_timid():
    perfect = reliability(
        *sums([0.85] * 100 + [0.25] * 100, [True] * 85 + [False] * 15 + [True] * 25 + [False] * 75)
    )
    assert perfect.ece.value == pytest.approx(0.0, abs=1e-12)
    assert perfect.accuracy[8] == pytest.approx(0.85)
    assert perfect.confidence[2] == pytest.approx(0.25)
    assert perfect.accuracy[0] is None
    assert perfect.count == (0, 0, 100, 0, 0, 0, 0, 0, 100, 0)
    proud = reliability(*sums([0.95] * 10, [True] * 5 + [False] * 5))
    assert proud.ece.value == pytest.approx(0.45)
    timid = reliability(*sums([0.05] * 10 + [0.95] * 10, [True] * 5 + [False] * 5 + [True] * 10))
    assert timid.ece.value == pytest.approx((0.45 + 0.05) / 2)


def test_a_probability_of_one_is_in_the_last_bin():
    assert binned([1.0, 0.9], [True, False]).tolist() == [
        [0.0] * 9 + [2.0],
        [0.0] * 9 + [1.9],
        [0.0] * 9 + [1.0],
    ]
