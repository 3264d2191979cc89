"""Numbers of the statistics, by hand and by counting."""

import math
import random

import pytest
from reproduce.statistics import (
    CONTRADICTED,
    OPEN,
    SUPPORTED,
    interval,
    sign_flip,
    smallest_p,
    verdict,
)

pytestmark = pytest.mark.any_stack


def test_six_of_one_sign_are_the_fewest_that_are_significant():
    assert sign_flip([1, 2, 3, 4, 5, 6]) == 2 / 64 == smallest_p(6)
    assert verdict([1, 2, 3, 4, 5, 6]) == SUPPORTED
    assert verdict([-1, -2, -3, -4, -5, -6]) == CONTRADICTED
    assert sign_flip([3.0] * 5) == 2 / 32 and verdict([3.0] * 5) == OPEN
    assert sign_flip([9.0, 9.1, 9.2]) == 0.25 == smallest_p(3) and verdict([9.0, 9.1, 9.2]) == OPEN


def test_p_counts_the_choices_of_signs_that_are_as_extreme():
    # Sums of ±1 ±2 ±3: 6, 4, 2, 0, 0, −2, −4, −6; at least 4 away from zero are four of eight.
    assert sign_flip([-1, 2, 3]) == 4 / 8
    assert sign_flip([1, -1]) == 1.0
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip([0.1, 0.2, -0.3]) == 1.0  # zero but for rounding


def test_it_does_not_depend_on_order_scale_or_direction():
    draw = random.Random(0)
    gaps = [draw.gauss(0.5, 1) for _ in range(8)]
    p = sign_flip(gaps)
    assert (
        sign_flip(gaps[::-1])
        == sign_flip([-1e6 * gap for gap in gaps])
        == sign_flip([1e-9 * gap for gap in gaps])
        == p
    )


def test_without_an_effect_it_errs_as_often_as_it_says():
    draw = random.Random(1)
    ps = [sign_flip([draw.gauss(0, 1) for _ in range(6)]) for _ in range(2000)]
    assert abs(sum(p <= 2 / 64 for p in ps) / len(ps) - 2 / 64) < 0.012  # three standard deviations
    assert abs(sum(p <= 0.5 for p in ps) / len(ps) - 0.5) < 0.034


def test_interval_is_students():
    middle, half = interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert middle == 3.5 and half == pytest.approx(2.5706 * math.sqrt(3.5 / 6), rel=1e-3)
    assert interval([2.0, 2.0, 2.0]) == (2.0, 0.0)
    assert interval([7.0])[0] == 7.0 and math.isnan(interval([7.0])[1])


def test_no_differences_and_too_many_are_refused():
    assert verdict([]) == OPEN
    with pytest.raises(ValueError, match='1 to 20'):
        sign_flip([])
    with pytest.raises(ValueError, match='21 differences'):
        sign_flip([1.0] * 21)
