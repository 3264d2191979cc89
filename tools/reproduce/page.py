"""Write results.md and its charts."""

import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import charts, judge
from .ablations import ABLATIONS, TASKS
from .judge import CONTRADICTED, OPEN, SUPPORTED, Figures

UNITS = dict(top1='top-1, %', mIoU='mIoU, %')
_MASKED = ('val_loss', 'marginal_entropy', 'masked_accuracy', 'marginal_accuracy')
PRETRAINING = (*_MASKED, 'val_loss_all', 'accuracy_all')


def write(out: Path, scale: dict, name: str, figures: Figures, runs: list[dict]) -> None:
    """Write `out/results.md` and `out/results/NAME_*.svg`; `runs` lists what made the figures."""
    stages = {stage for by_stage in figures.values() for stage in by_stage}
    ablations = [a for a in ABLATIONS if any(stage.endswith(f'/{a}') for stage in stages)]
    judged = judge.judge(figures, {task: scale[task]['main'] for task in TASKS})
    order = (CONTRADICTED, OPEN, SUPPORTED)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.get_template('results.md.j2')
    text = template.render(
        name=name,
        scale=scale,
        seeds=len(figures),
        runs=runs,
        claims=sorted(judged, key=lambda one: order.index(one.verdict)),
        contradicted=[one for one in judged if one.verdict == CONTRADICTED],
        reversed=[one for one in judged if one.verdict == OPEN and one.here < 0],
        significance=judge.SIGNIFICANCE,
        smallest_p=2 / 2 ** len(figures),
        units=UNITS,
        ablations=[_ablation_row(scale, figures, ablation) for ablation in ablations],
        crossings=_crossings(scale, figures, ablations),
        pretrainings=_pretraining_rows(figures, ablations),
        charts=charts.write(out / 'results', name, scale, figures, UNITS),
        sentence=_sentence,
        gap=_gap,
        number=_number,
    )
    (out / 'results.md').write_text(text, encoding='utf-8')


def _sentence(one: judge.JudgedClaim) -> str:
    metric = UNITS[one.metric].split(',')[0]
    gaps = f'{_gap(one.here)} points here, {_gap(one.paper)} in the paper'
    return f'{one.claim.sentence}: {metric} {gaps} (p = {one.p:.3f}).'


def _ablation_row(scale: dict, figures: Figures, ablation: str) -> list[str]:
    cells = [ABLATIONS[ablation].title]
    for task, metric in TASKS.items():
        found = judge.values(figures, f'{task}/{scale[task]["main"]}/{ablation}', metric)
        paper = ABLATIONS[ablation].paper.get(metric, math.nan)
        cells += [_number(paper, 2), _spread(list(found.values()))]
    return cells


def _crossings(scale: dict, figures: Figures, ablations: list[str]) -> list[list[str]]:
    rows = []
    for task, metric in TASKS.items():
        for labels in scale[task]['labels']:
            for ablation in [length for length in charts.LENGTHS if length in ablations]:
                stages = [f'{task}/{labels}/{start}' for start in (ablation, 'scratch')]
                finals = [judge.values(figures, stage, metric) for stage in stages]
                if not (pairs := judge.differences(*finals)):
                    continue
                here, half = judge.interval(pairs)
                gains = judge.gains(figures, *stages, metric)
                steps = [step for step, _, is_sure in gains if is_sure]
                when = f'{steps[0]} … {steps[-1]}' if steps else 'none'
                gain = f'{_gap(here)} ± {_number(half, 2)}'
                rows.append([task, labels, ABLATIONS[ablation].title, gain, when])
    return rows


def _pretraining_rows(figures: Figures, ablations: list[str]) -> list[list[str]]:
    rows = []
    for ablation in ablations:
        stage = f'pretrain/{ablation}'
        found = {m: list(judge.values(figures, stage, m).values()) for m in PRETRAINING}
        if found['masked_accuracy'] or found['accuracy_all']:
            cells = [_spread(cell, 2) for cell in found.values()]
            rows.append([ABLATIONS[ablation].title, *cells])
    return rows


def _spread(found: list[float], digits: int = 1) -> str:
    if not found:
        return '–'
    middle, half = judge.interval(found)
    return _number(middle, digits) + ('' if math.isnan(half) else f' ± {half:.{digits}f}')


def _number(value: float, digits: int = 1) -> str:
    return '–' if math.isnan(value) else f'{value:.{digits}f}'


def _gap(value: float) -> str:
    return '–' if math.isnan(value) else f'{value:+.2f}'.replace('-', '−')
