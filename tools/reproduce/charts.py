"""Charts of the results over training steps, as SVG files."""

import math
from pathlib import Path

import matplotlib.pyplot as plt

from .ablations import ABLATIONS, TASKS
from .judge import Figures, curve

LENGTHS = ('sixteenth', 'quarter', 'beit', 'longer')  # ablations that differ in length only


def write(folder: Path, name: str, scale: dict, figures: Figures, units: dict) -> list[str]:
    """Write `folder/NAME_*.svg` and return the names in place of *; single points make no chart."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f'{name}_*.svg'):
        old.unlink()
    charts = []
    for task, metric in TASKS.items():
        for labels in scale[task]['labels']:
            title = f'{task}, {labels} labels: {units[metric]}'
            starts = ('scratch', *reversed(LENGTHS))
            charts.append((f'{task}_{labels}_labels', title, f'{task}/{labels}', metric, starts))
    full = [ablation for ablation in ABLATIONS if ABLATIONS[ablation].length >= 1]
    losses = dict(val_loss='loss, nats per masked token', masked_accuracy='masked accuracy, %')
    for metric, unit in losses.items():
        charts.append((f'pretrain_{metric}', f'pre-training: {unit}', 'pretrain', metric, full))

    written = []
    for stem, title, stage, metric, ablations in charts:
        lines = {a: curve(figures, f'{stage}/{a}', metric) for a in ablations}
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
