"""Write results.md and its charts."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from reports.summary import JUDGED

from . import judge
from .ablations import ABLATIONS, METRIC_OF_TASK
from .judge import CONTRADICTED, OPEN, SUPPORTED, Figures

LENGTHS = ('sixteenth', 'quarter', 'beit', 'longer')  # ablations that differ in length only
PRETRAINING = dict(  # metric → title of its column
    val_loss='loss, nats per masked token',
    marginal_entropy='loss ignoring the image',
    masked_accuracy='masked accuracy, %',
    marginal_accuracy='accuracy of the most frequent token, %',
    val_loss_all='loss over all tokens',
    accuracy_all='accuracy over all, %',
)


def write(out: Path, scale: dict, name: str, figures: Figures, runs: list[dict]) -> None:
    """Write `out/results.md` and `out/results/NAME_*.svg`; `runs` lists what made the figures."""
    stages = {stage for by_stage in figures.values() for stage in by_stage}
    ablations = [a for a in ABLATIONS if any(stage.endswith(f'/{a}') for stage in stages)]
    judged = judge.judge(figures, {task: scale[task]['main'] for task in METRIC_OF_TASK})
    order = (CONTRADICTED, OPEN, SUPPORTED)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.get_template('results.md.j2')
    text = template.render(
        name=name,
        scale=scale,
        seeds=len(figures),
        runs=runs,
        claims=[_claim_row(one) for one in sorted(judged, key=lambda x: order.index(x.verdict))],
        contradicted=[one for one in judged if one.verdict == CONTRADICTED],
        reversed=[one for one in judged if one.verdict == OPEN and one.here < 0],
        significance=judge.SIGNIFICANCE,
        smallest_p=2 / 2 ** len(figures),
        units=JUDGED.values(),
        ablations=[_ablation_row(scale, figures, ablation) for ablation in ablations],
        crossings=_crossings(scale, figures, ablations),
        pretraining_columns=PRETRAINING.values(),
        pretrainings=_pretraining_rows(figures, ablations),
        charts=_write_charts(out / 'results', name, scale, figures),
        sentence=_sentence,
    )
    (out / 'results.md').write_text(text, encoding='utf-8')


def _sentence(one: judge.JudgedClaim) -> str:
    metric = JUDGED[one.metric].split(',')[0]
    gaps = f'{_gap(one.here)} points here, {_gap(one.paper)} in the paper'
    return f'{one.claim.sentence}: {metric} {gaps} (p = {one.p:.3f}).'


def _claim_row(one: judge.JudgedClaim) -> list[str]:
    here = f'{_gap(one.here)} ± {_number(one.half, 2)}'
    metric, paper = JUDGED[one.metric], _gap(one.paper)
    return [one.claim.sentence, metric, paper, here, f'{one.p:.3f}', one.verdict]


def _ablation_row(scale: dict, figures: Figures, ablation: str) -> list[str]:
    cells = [ABLATIONS[ablation].title]
    for task, metric in METRIC_OF_TASK.items():
        found = judge.values(figures, f'{task}/{scale[task]["main"]}/{ablation}', metric)
        paper = ABLATIONS[ablation].paper.get(metric, math.nan)
        cells += [_number(paper, 2), _spread(list(found.values()))]
    return cells


def _crossings(scale: dict, figures: Figures, ablations: list[str]) -> list[list[str]]:
    rows = []
    for task, metric in METRIC_OF_TASK.items():
        for labels in scale[task]['labels']:
            for ablation in [length for length in LENGTHS if length in ablations]:
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


def _write_charts(folder: Path, name: str, scale: dict, figures: Figures) -> list[str]:
    """Write `folder/NAME_*.svg` and return the names in place of *; single points make no chart."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f'{name}_*.svg'):
        old.unlink()
    charts = []
    for task, metric in METRIC_OF_TASK.items():
        for labels in scale[task]['labels']:
            title = f'{task}, {labels} labels: {JUDGED[metric]}'
            starts = ('scratch', *reversed(LENGTHS))
            charts.append((f'{task}_{labels}_labels', title, f'{task}/{labels}', metric, starts))
    full = [ablation for ablation in ABLATIONS if ABLATIONS[ablation].length >= 1]
    for metric in ('val_loss', 'masked_accuracy'):
        title = f'pre-training: {PRETRAINING[metric]}'
        charts.append((f'pretrain_{metric}', title, 'pretrain', metric, full))

    written = []
    for stem, title, stage, metric, ablations in charts:
        lines = {a: judge.curve(figures, f'{stage}/{a}', metric) for a in ablations}
        if any(len(line) > 1 for line in lines.values()):
            _draw(folder / f'{name}_{stem}.svg', title, lines)
            written.append(stem)
    return written


def _draw(path: Path, title: str, lines: dict[str, list[tuple[float, float, float]]]) -> None:
    with plt.rc_context({'svg.hashsalt': path.stem, 'svg.fonttype': 'none'}):
        figure, axes = plt.subplots(figsize=(5.2, 3.3), layout='constrained')
        for ablation, line in lines.items():
            if line:
                x, y, half = zip(*line, strict=True)
                bars = [0 if math.isnan(value) else value for value in half]
                axes.errorbar(x, y, bars, label=ABLATIONS[ablation].title, capsize=2)
        axes.set(title=title, xlabel='steps')
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(path, metadata=dict(Date=None))
        plt.close(figure)
