"""Statistics of paired seeds: intervals, an exact test, verdicts on claims, and gains over time."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from scipy import stats

from .ablations import CLAIMS, METRIC_OF_TASK, Claim

Figures = dict[str, dict]  # seed → stage → its results
SIGNIFICANCE = 0.05
SUPPORTED, OPEN, CONTRADICTED = 'supported', 'not distinguishable', 'contradicted here'
MAX_SEEDS = 20  # a million sign patterns


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student's t), NaN for one value."""
    n = len(values)
    if n < 2:
        return mean(values), math.nan
    return mean(values), float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)


def sign_flip(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of paired differences.

    p is the share of all 2ⁿ choices of signs whose sum is at least as far from zero. The test
    assumes no distribution: without an effect both signs are equally likely. Its smallest p is
    2 / 2ⁿ.

    Raises ValueError for no differences or more than 20.
    """
    if not 1 <= len(differences) <= MAX_SEEDS:
        raise ValueError(f'{len(differences)} differences: expected 1 to {MAX_SEEDS}')
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))), np.int8)
    sums = np.abs(signs @ np.array(differences, float))  # the first one has all signs as they are
    tolerance = 1e-9 * math.fsum(map(abs, differences))
    return float(np.mean(sums >= sums[0] - tolerance))


def verdict(differences: Sequence[float]) -> str:
    """Return the verdict on the claim that paired differences are positive."""
    if not differences or sign_flip(differences) > SIGNIFICANCE:
        return OPEN
    return SUPPORTED if math.fsum(differences) > 0 else CONTRADICTED


def values(figures: Figures, stage: str, metric: str) -> dict[str, float]:
    """Return seed → final value for the seeds that have it."""
    final = {
        s: stages.get(stage, {}).get('metrics', {}).get(metric) for s, stages in figures.items()
    }
    return {seed: value for seed, value in final.items() if value is not None}


def differences(better: dict[str, float], worse: dict[str, float]) -> list[float]:
    """Return the differences of the seeds that both have."""
    return [better[seed] - worse[seed] for seed in better if seed in worse]


@dataclass(frozen=True)
class JudgedClaim:
    """A claim for one metric, with its gap in the paper (NaN: none) and here.

    `half` is half the width of the 95 % interval of `here`.
    """

    claim: Claim
    metric: str
    paper: float
    here: float
    half: float
    p: float
    seeds: int
    verdict: str


def judge(figures: Figures, labels: dict[str, str]) -> list[JudgedClaim]:
    """Judge all claims whose ablations both have results; `labels` maps a task to its labels."""
    judged = []
    for claim, (task, metric) in itertools.product(CLAIMS, METRIC_OF_TASK.items()):
        if metric not in claim.gap:
            continue
        prefix = f'{task}/{labels[task]}'
        better = values(figures, f'{prefix}/{claim.better}', metric)
        worse = values(figures, f'{prefix}/{claim.worse}', metric)
        if pairs := differences(better, worse):
            test = (sign_flip(pairs), len(pairs), verdict(pairs))
            judged.append(JudgedClaim(claim, metric, claim.gap[metric], *interval(pairs), *test))
    return judged


def curve_values(figures: Figures, stage: str, metric: str) -> dict[float, dict[str, float]]:
    """Return step → seed → value for the validations of a stage."""
    found: dict[float, dict[str, float]] = {}
    for seed, stages in figures.items():
        for step, value in stages.get(stage, {}).get('curves', {}).get(metric, []):
            found.setdefault(step, {})[seed] = value
    return dict(sorted(found.items()))


def curve(figures: Figures, stage: str, metric: str) -> list[tuple[float, float, float]]:
    """Return (step, mean, half the 95 % interval) for the steps that all its seeds have."""
    by_step = curve_values(figures, stage, metric)
    seeds = max(map(len, by_step.values()), default=0)
    return [(x, *interval(list(y.values()))) for x, y in by_step.items() if len(y) == seeds]


def gains(
    figures: Figures, better: str, worse: str, metric: str
) -> list[tuple[float, float, bool]]:
    """Return (step, mean gain, whether it is significantly positive) for two stages."""
    other = curve_values(figures, worse, metric)
    found = []
    for step, own in curve_values(figures, better, metric).items():
        if pairs := differences(own, other.get(step, {})):
            found.append((step, mean(pairs), verdict(pairs) == SUPPORTED))
    return found
