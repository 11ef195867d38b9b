"""RANO-BM's definition of a measurable lesion, at its limits."""

import numpy as np
import pytest

from lesions.measurability import judge


@pytest.mark.parametrize(
    ("lesion", "spacing_mm", "limit_mm", "measurable", "phrase"),
    [
        ((10.0, 5.0, 2), 1.0, 10.0, True, "10.00 x 5.00 mm on 2 slices"),
        ((9.9, 6.0, 5), 1.0, 10.0, False, "long axis of 9.90 mm is below 10 mm"),
        ((12.0, 4.9, 5), 1.0, 10.0, False, "short axis of 4.90 mm is below 5 mm"),
        ((12.0, 8.0, 1), 1.0, 10.0, False, "visible on 1 slice, fewer than 2"),
        ((11.9, 8.0, 2), 6.0, 10.0, False, "below twice the slice spacing of 6.00 mm"),
        ((12.0, 8.0, 2), 6.0, 10.0, True, "12.00 x 8.00 mm"),
        ((10.0, 8.0, 2), 5.0, 10.0, True, "10.00 x 8.00 mm"),
        ((5.0, 5.0, 4), 1.0, 5.0, True, "5.00 x 5.00 mm"),
        ((6.0, 5.5, 3), 1.5, 5.0, True, "6.00 x 5.50 mm on 3 slices"),
        ((6.0, 5.5, 3), 2.0, 5.0, False, "only with slices up to 1.5 mm apart, and these are 2.00 mm"),
        ((10.0, 5.5, 3), 2.0, 5.0, True, "10.00 x 5.50 mm on 3 slices"),
        ((9.99, 5.5, 3), 2.0, 5.0, False, "a long axis below 10 mm counts only with slices up to 1.5 mm"),
        ((np.nextafter(10.0, 9), 5.0, 2), 1.0, 10.0, True, "10.00 x 5.00 mm"),
        ((9.996, 4.996, 2), 1.0, 10.0, True, "10.00 x 5.00 mm"),
        ((9.994, 5.0, 2), 1.0, 10.0, False, "long axis of 9.99 mm is below 10 mm"),
    ],
)
def test_limits(lesion, spacing_mm, limit_mm, measurable, phrase):
    long_mm, short_mm, slices = lesion
    verdict, reason = judge(long_mm, short_mm, slices, spacing_mm, limit_mm)
    assert verdict is measurable
    assert phrase in reason
    assert reason.startswith("Measurable: " if measurable else "Not measurable: ")


def test_every_reason_against_is_named():
    _, reason = judge(4.0, 3.0, 1, 7.0, 10.0)
    assert [word in reason for word in ("below 10 mm", "below 5 mm", "1 slice", "7.00 mm")] == [True] * 4


@pytest.mark.parametrize(("spacing_mm", "thick"), [(4.5, False), (5.0, False), (5.01, True)])
def test_only_slices_above_5_mm_are_compared_with_the_long_axis(spacing_mm, thick):
    _, reason = judge(8.9, 8.0, 2, spacing_mm, 10.0)
    assert ("below twice the slice spacing" in reason) is thick
