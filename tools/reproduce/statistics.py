"""What a few seeds can tell: intervals of a mean, and an exact test of paired differences. Pure functions."""

import itertools
import math
from collections.abc import Sequence
from statistics import mean, stdev

LEVEL = 0.05
SUPPORTED, OPEN, CONTRADICTED = 'supported', 'not distinguishable', 'contradicted here'
# Student's t, 97.5 %, for 1 … 30 degrees of freedom; beyond, the last is used, which is too wide by 4 % at most.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
      2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
_MOST = 20  # seeds: a million sign patterns


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t); of one value the latter is NaN."""
    if len(values) < 2:
        return mean(values), math.nan
    return mean(values), _T[min(len(values) - 1, len(_T)) - 1] * stdev(values) / math.sqrt(
        len(values)
    )


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences: the share of all 2ⁿ choices of signs whose sum is at least as far from zero.

    Exact, and free of any distribution: without an effect each difference is as likely to have the other sign. The
    smallest p of n is 2 / 2ⁿ: 0.031 for six, 0.25 for three.

    Raises ValueError for none, or more than 20.
    """
    if not 0 < len(differences) <= _MOST:
        raise ValueError(f'{len(differences)} differences: the exact test takes 1 to {_MOST}')
    observed, tolerance = abs(math.fsum(differences)), 1e-9 * math.fsum(map(abs, differences))
    sums = (math.fsum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in itertools.product((1, -1), repeat=len(differences)))  # fmt: skip
    return sum(abs(total) >= observed - tolerance for total in sums) / 2 ** len(differences)


def smallest_p(seeds: int) -> float:
    """What `sign_flip` of so many differences reaches at best."""
    return 2 / 2**seeds


def verdict(differences: Sequence[float]) -> str:
    """Of the claim that paired differences are above zero."""
    if not differences or sign_flip(differences) > LEVEL:
        return OPEN
    return SUPPORTED if math.fsum(differences) > 0 else CONTRADICTED
