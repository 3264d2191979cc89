"""The page that a run of `tools/reproduce.py` writes: Markdown, with the disagreements first, and its charts."""

import math
from pathlib import Path

from beit_mm.viz.chart import chart

from .judge import Figures, Judged, curve, differences, judge, pays, values
from .rows import ROWS, TASKS
from .statistics import CONTRADICTED, LEVEL, OPEN, SUPPORTED, interval, smallest_p

METRIC = dict(top1='top-1, %', mIoU='mIoU, %')
LENGTHS = ('sixteenth', 'quarter', 'beit', 'longer')


def write(out: Path, scale: dict, name: str, figures: Figures, runs: list[dict[str, str]]) -> None:
    """`out/results.md` and `out/results/NAME_*.svg`. `figures`: of the seeds and stages to show; `runs`: command, commit,
    machine and date of each that made some of them."""
    mains, seen = (
        {task: scale[task]['main'] for task in TASKS},
        {stage for stages in figures.values() for stage in stages},
    )
    rows = [row for row in ROWS if any(stage.endswith(f'/{row}') for stage in seen)]
    judged, files = judge(figures, mains), _charts(scale, figures, rows, mains)
    (out / 'results').mkdir(parents=True, exist_ok=True)
    for old in (out / 'results').glob(f'{name}_*.svg'):
        old.unlink()
    for stem, svg in files.items():
        (out / 'results' / f'{name}_{stem}.svg').write_text(svg, encoding='utf-8')
    sections = [
        f"# The paper's claims, re-run at the scale `{name}`",
        f'{scale["note"]}\n\nThis page is written by the commands at its end, all of it.',
        _verdicts(judged, len(figures)),
        _table_of_rows(figures, rows, mains, scale),
        _crossings(scale, figures, rows),
        _pretrainings(figures, rows),
        '\n\n'.join(['## Curves', *(f'![{stem}](results/{name}_{stem}.svg)' for stem in files)])
        if files
        else '',
        '## Runs\n\n'
        + _list(
            f'`{run["command"]}`: commit {run["commit"]}, {run["machine"]}, {run["date"]}'
            for run in runs
        ),
    ]
    (out / 'results.md').write_text('\n\n'.join(filter(None, sections)) + '\n', encoding='utf-8')


def _verdicts(judged: list[Judged], seeds: int) -> str:
    by = {
        kind: [one for one in judged if one.verdict == kind]
        for kind in (CONTRADICTED, OPEN, SUPPORTED)
    }
    lines = ['## What disagrees with the paper', '']
    lines.append(
        _list(map(_sentence, by[CONTRADICTED])) if by[CONTRADICTED] else 'Nothing contradicts it.'
    )
    wrong = [one for one in by[OPEN] if one.here < 0]
    if wrong:
        lines += [
            '',
            'The other way round than in the paper, but not distinguishable from nothing:',
            '',
            _list(map(_sentence, wrong)),
        ]
    lines += ['', '## Claims', '', _how_sure(judged, seeds), '']
    lines.append(
        _table(
            ('claim', 'metric', 'gap in the paper', 'gap here', 'p', 'verdict'),
            [(one.claim.words, METRIC[one.metric], _gap(one.paper), f'{_gap(one.here)} ± {_number(one.half, 2)}',
              f'{one.p:.3f}', one.verdict) for kind in by for one in by[kind]],
        )
    )  # fmt: skip
    return '\n'.join(lines)


def _how_sure(judged: list[Judged], seeds: int) -> str:
    words = (
        f'Each seed pre-trains anew. A gap is the mean over {seeds} seeds of the difference between two rows, ± half its 95 % '
        f'interval (Student). p: exact sign-flip test of the paired differences, two-sided; “{SUPPORTED}” and '
        f'“{CONTRADICTED}” need p ≤ {LEVEL}. With {seeds} seeds p is {smallest_p(seeds):.3f} at least'
    )
    if smallest_p(seeds) > LEVEL:
        return (
            words
            + ': **nothing can be significant, whatever the gap.** Six seeds are the fewest that can tell.'
        )
    return (
        words
        + f'. Of {len(judged)} tests without any effect one in {round(1 / LEVEL)} would pass all the same.'
    )


def _sentence(one: Judged) -> str:
    here, there = _gap(one.here), _gap(one.paper)
    return f'{one.claim.words}: {METRIC[one.metric].split(",")[0]} {here} points here, {there} there (p = {one.p:.3f}).'


def _table_of_rows(figures: Figures, rows: list[str], mains: dict[str, str], scale: dict) -> str:
    head, lines = ['row'], []
    for metric in TASKS.values():
        head += [f'{METRIC[metric]}: paper', 'here']
    for row in rows:
        cells = [ROWS[row].title]
        for task, metric in TASKS.items():
            found = list(values(figures, f'{task}/{mains[task]}/{row}', metric).values())
            cells += [_number(ROWS[row].paper.get(metric, math.nan), 2), _spread(found)]
        lines.append(cells)
    words = f'## Rows\n\nMean over seeds ± half its 95 % interval; {scale["budget"]}\n\n'
    return words + _table(head, lines)


def _crossings(scale: dict, figures: Figures, rows: list[str]) -> str:
    lengths = [row for row in LENGTHS if row in rows]
    if 'scratch' not in rows or not lengths:
        return ''
    lines = []
    for task, metric in TASKS.items():
        for labels in scale[task]['labels']:
            for row in lengths:
                stages = [f'{task}/{labels}/{start}' for start in (row, 'scratch')]
                gains = differences(*(values(figures, stage, metric) for stage in stages))
                if not gains:
                    continue
                here, half = interval(gains)
                paying = [step for step, _, sure in pays(figures, *stages, metric) if sure]
                when = f'{paying[0]} … {paying[-1]}' if paying else 'at none'
                lines.append(
                    (task, labels, ROWS[row].title, f'{_gap(here)} ± {_number(half, 2)}', when)
                )
    if not lines:
        return ''
    words = (
        '## Where pre-training pays\n\nThe gain over training from scratch at the end, and the first and the last step of '
        'fine-tuning at which it is above zero by the test above (each validated step is tested by itself). Where the last '
        'is before the end, training from scratch has caught up.\n\n'
    )
    return words + _table(('task', 'labels', 'start', 'gain at the end', 'pays at steps'), lines)


def _pretrainings(figures: Figures, rows: list[str]) -> str:
    metrics = (
        'val_loss',
        'marginal_entropy',
        'masked_accuracy',
        'marginal_accuracy',
        'val_loss_all',
        'accuracy_all',
    )
    lines = []
    for row in rows:
        found = {
            metric: list(values(figures, f'pretrain/{row}', metric).values()) for metric in metrics
        }
        if found['masked_accuracy'] or found['accuracy_all']:
            lines.append((ROWS[row].title, *(_spread(cell, 2) for cell in found.values())))
    if not lines:
        return ''
    words = (
        '## Pre-training\n\nOn validation images; rows that predict tokens. Figures of hidden tokens are comparable between rows. '
        'A row that predicts all tokens also has figures over all of them; it sees most of these, so they are not comparable '
        'with figures of hidden tokens. –: not measured, or nothing is hidden.\n\n'
    )
    head = (
        'row',
        'loss, nats per hidden token',
        'ignoring the image',
        'masked accuracy, %',
        'always the commonest token',
    )
    return words + _table((*head, 'loss, nats per token, over all', 'accuracy over all, %'), lines)


# -- charts ------------------------------------------------------------------------------------------------------------


def _charts(
    scale: dict, figures: Figures, rows: list[str], mains: dict[str, str]
) -> dict[str, str]:
    """Stem → SVG, of what has points."""
    starts = [row for row in ('scratch', *reversed(LENGTHS)) if row in rows]
    drawn = {}
    for task, metric in TASKS.items():
        for labels in scale[task]['labels']:
            lines = {
                ROWS[row].title: curve(figures, f'{task}/{labels}/{row}', metric) for row in starts
            }
            drawn[f'{task}_{labels}_labels'] = (
                lines,
                f'{task}, {labels} labels: {METRIC[metric]}',
                'steps of fine-tuning',
                False,
                None,
            )
        lines = {
            ROWS[row].title: [(int(n), *interval(found)) for n in scale[task]['labels'] if n.isdigit()
                              if (found := list(values(figures, f'{task}/{n}/{row}', metric).values()))]
            for row in starts
        }  # fmt: skip
        drawn[f'{task}_by_labels'] = (
            lines,
            f'{task} at the end: {METRIC[metric]}',
            'labels',
            True,
            None,
        )
        lines = {}
        for labels in scale[task]['labels']:
            stages = {
                row: [f'{task}/{labels}/{start}' for start in (row, 'scratch')] for row in LENGTHS
            }
            gains = {
                row: differences(*(values(figures, s, metric) for s in stages[row]))
                for row in LENGTHS
            }
            lines[f'{labels} labels'] = [
                (scale['images'] * ROWS[row].length, *interval(gains[row]))
                for row in LENGTHS
                if gains[row]
            ]
        drawn[f'{task}_by_images'] = (
            lines,
            f'{task}: gain over scratch, points',
            'images of pre-training',
            True,
            0.0,
        )
    for metric, words in (
        ('val_loss', 'loss, nats per hidden token'),
        ('masked_accuracy', 'masked accuracy, %'),
    ):
        lines = {
            ROWS[row].title: curve(figures, f'pretrain/{row}', metric)
            for row in rows
            if ROWS[row].length >= 1
        }
        drawn[f'pretrain_{metric}'] = lines, f'pre-training: {words}', 'steps', False, None
    several = {stem: (_filled(lines), *rest) for stem, (lines, *rest) in drawn.items()}
    return {
        stem: chart(*rest)
        for stem, rest in several.items()
        if any(len(line) > 1 for line in rest[0].values())
    }


def _filled(lines: dict) -> dict:
    return {name: line for name, line in lines.items() if line}


# -- text --------------------------------------------------------------------------------------------------------------


def _spread(found: list[float], digits: int = 1) -> str:
    if not found:
        return '–'
    middle, half = interval(found)
    return _number(middle, digits) + ('' if math.isnan(half) else f' ± {half:.{digits}f}')


def _number(value: float, digits: int = 1) -> str:
    return '–' if math.isnan(value) else f'{value:.{digits}f}'


def _gap(value: float) -> str:
    return '–' if math.isnan(value) else f'{value:+.2f}'.replace('-', '−')


def _list(lines) -> str:
    return '\n'.join(f'- {line}' for line in lines)


def _table(head, rows) -> str:
    return '\n'.join(f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows))
