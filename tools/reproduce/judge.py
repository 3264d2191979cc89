"""From raw figures to what they say: means, verdicts, and where pre-training begins and ceases to pay. Pure functions."""

from dataclasses import dataclass
from statistics import mean

from .rows import CLAIMS, TASKS, Claim
from .statistics import SUPPORTED, interval, sign_flip, verdict

Figures = dict[str, dict]  # seed → stage → what `results` keeps of it


def values(figures: Figures, stage: str, metric: str) -> dict[str, float]:
    """Seed → figure, of the seeds that have it."""
    return {seed: stages[stage]['metrics'][metric] for seed, stages in figures.items()
            if metric in stages.get(stage, {}).get('metrics', {})}  # fmt: skip


def differences(better: dict[str, float], worse: dict[str, float]) -> list[float]:
    """Pairs of the same seed."""
    return [better[seed] - worse[seed] for seed in better if seed in worse]


@dataclass(frozen=True)
class Judged:
    """A claim, for one metric: gap in the paper (NaN: it has none), here with half its 95 % interval, p, seeds, verdict."""

    claim: Claim
    metric: str
    paper: float
    here: float
    half: float
    p: float
    seeds: int
    verdict: str


def judge(figures: Figures, mains: dict[str, str]) -> list[Judged]:
    """All claims that both rows have run for, at the labels `mains` (task → labels)."""
    found = []
    for claim in CLAIMS:
        for task, metric in TASKS.items():
            if metric not in claim.gap:
                continue
            both = (
                values(figures, f'{task}/{mains[task]}/{row}', metric)
                for row in (claim.better, claim.worse)
            )
            if not (pairs := differences(*both)):
                continue
            here, half = interval(pairs)
            found.append(
                Judged(
                    claim,
                    metric,
                    claim.gap[metric],
                    here,
                    half,
                    sign_flip(pairs),
                    len(pairs),
                    verdict(pairs),
                )
            )
    return found


def curve(figures: Figures, stage: str, name: str) -> list[tuple[float, float, float]]:
    """(step, mean, half the 95 % interval) over the seeds that have the stage."""
    lines = [
        dict(map(tuple, stages[stage]['curves'].get(name, [])))
        for stages in figures.values()
        if stage in stages
    ]
    steps = sorted(set.intersection(*map(set, lines))) if lines else []
    return [(step, *interval([line[step] for line in lines])) for step in steps]


def pays(figures: Figures, better: str, worse: str, metric: str) -> list[tuple[int, float, bool]]:
    """(step, mean gain, whether it is above zero by the test) along two fine-tunings of the same length."""

    def at(stage: str, step: int) -> dict[str, float]:
        lines = {seed: dict(map(tuple, stages[stage]['curves'].get(metric, [])))
                 for seed, stages in figures.items() if stage in stages}  # fmt: skip
        return {seed: line[step] for seed, line in lines.items() if step in line}

    steps = [step for step, _, _ in curve(figures, better, metric)]
    pairs = {step: differences(at(better, step), at(worse, step)) for step in steps}
    return [
        (step, mean(gains), verdict(gains) == SUPPORTED) for step, gains in pairs.items() if gains
    ]
