"""Charts of the results as SVG files: curves, and gains over labels and images of pre-training."""

import math
from pathlib import Path

import matplotlib.pyplot as plt

from .ablations import ABLATIONS, TASKS
from .judge import Figures, curve, differences, interval, values

LENGTHS = ('sixteenth', 'quarter', 'beit', 'longer')  # ablations that differ in length only
Lines = dict[str, list[tuple[float, float, float]]]  # name → (x, y, half an interval)


def write(
    folder: Path, name: str, scale: dict, figures: Figures, ablations: list[str], units: dict
) -> list[str]:
    """Write `folder/NAME_*.svg` and return the names in place of *; charts of single points are skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f'{name}_*.svg'):
        old.unlink()
    starts = [a for a in ('scratch', *reversed(LENGTHS)) if a in ablations]
    drawn = {}
    for task, metric in TASKS.items():
        unit = units[metric]
        for labels in scale[task]['labels']:
            lines = {a: curve(figures, f'{task}/{labels}/{a}', metric) for a in starts}
            title = f'{task}, {labels} labels: {unit}'
            drawn[f'{task}_{labels}_labels'] = (lines, title, 'steps of fine-tuning')
        lines = {a: _by_labels(scale, figures, task, metric, a) for a in starts}
        drawn[f'{task}_by_labels'] = (lines, f'{task} at the end: {unit}', 'labels')
        lines = {
            f'{labels} labels': _by_images(scale, figures, f'{task}/{labels}', metric)
            for labels in scale[task]['labels']
        }
        title = f'{task}: gain over scratch, points'
        drawn[f'{task}_by_images'] = (lines, title, 'images of pre-training')
    full = [a for a in ablations if ABLATIONS[a].length >= 1]
    losses = dict(val_loss='loss, nats per masked token', masked_accuracy='masked accuracy, %')
    for metric, unit in losses.items():
        lines = {a: curve(figures, f'pretrain/{a}', metric) for a in full}
        drawn[f'pretrain_{metric}'] = (lines, f'pre-training: {unit}', 'steps')
    written = []
    for stem, (lines, title, label) in drawn.items():
        lines = {ABLATIONS[a].title if a in ABLATIONS else a: y for a, y in lines.items() if y}
        if any(len(line) > 1 for line in lines.values()):
            _draw(folder / f'{name}_{stem}.svg', lines, title, label)
            written.append(stem)
    return written


def _by_labels(scale: dict, figures: Figures, task: str, metric: str, ablation: str) -> list:
    line = []
    for labels in filter(str.isdigit, scale[task]['labels']):
        if found := values(figures, f'{task}/{labels}/{ablation}', metric):
            line.append((int(labels), *interval(list(found.values()))))
    return line


def _by_images(scale: dict, figures: Figures, prefix: str, metric: str) -> list:
    line, scratch = [], values(figures, f'{prefix}/scratch', metric)
    for ablation in LENGTHS:
        if pairs := differences(values(figures, f'{prefix}/{ablation}', metric), scratch):
            line.append((scale['images'] * ABLATIONS[ablation].length, *interval(pairs)))
    return line


def _draw(path: Path, lines: Lines, title: str, label: str) -> None:
    with plt.rc_context({'svg.hashsalt': path.stem, 'svg.fonttype': 'none'}):
        figure, axes = plt.subplots(figsize=(5.2, 3.3), layout='constrained')
        for name, line in lines.items():
            x, y, half = zip(*line, strict=True)
            axes.errorbar(x, y, [0 if math.isnan(h) else h for h in half], label=name, capsize=2)
        if 'labels' in label or 'images' in label:
            axes.set_xscale('log')
        axes.set(title=title, xlabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(path, metadata=dict(Date=None))
        plt.close(figure)
