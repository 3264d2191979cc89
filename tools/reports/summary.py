"""The results of a chain of runs, read from their logs: a nested dict, and a table of it."""

import json
import math
import platform
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev

from recipe.records import PREPARED, read_record

_PACKAGES = ('torch', 'torchvision', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg')
_NO_METRIC = {'data_time', 'time', 'step', 'iter', 'epoch'}
# Metric → label, of the tasks that profit from pre-training.
JUDGED = dict(top1='top-1, %', mIoU='mIoU, %')


def scalars(stage_dir: Path, of_probe: bool = False) -> list[dict]:
    """Return the lines of `Probe` in a stage's log, or the others, where `lr` marks training."""
    lines = _lines(stage_dir)
    return [line for line in lines if any(key.startswith('probe/') for key in line) == of_probe]


def _lines(stage_dir: Path) -> list[dict]:
    """Return the lines of the logs that the stage's record names, or else of the latest log.

    A resumed run repeats iterations of the run before: the later lines count.
    """
    logs = sorted(stage_dir.glob('*/vis_data/scalars.json'))
    names = (read_record(stage_dir) or {}).get('logs')
    logs = [log for log in logs if log.parts[-3] in names] if names else logs[-1:]
    lines: list[dict] = []
    for log in logs:
        new = [json.loads(line) for line in log.read_text().splitlines()]
        start = min((line['step'] for line in new if 'lr' in line), default=math.inf)
        repeated = [i for i, line in enumerate(lines) if 'lr' in line and line['step'] >= start]
        lines = lines[: repeated[0]] + new if repeated else lines + new
    return lines


def metrics(stage_dir: Path) -> dict[str, float]:
    """Return the metrics of a stage's last validation and of its test, without prefixes."""
    lines = [line for line in scalars(stage_dir) if 'lr' not in line][-1:]
    for log in sorted((stage_dir / 'test').glob('*/*.json'))[-1:]:
        lines.append(json.loads(log.read_text()))
    found = {key.rpartition('/')[2]: value for line in lines for key, value in line.items()}
    return {key: value for key, value in found.items() if key not in _NO_METRIC}


def validations(lines: list[dict], metric: str) -> list[tuple[int, float]]:
    """Return (iteration, value) per validation; its iteration is that of the line before it."""
    step, found = 0, []
    for line in lines:
        if 'lr' in line:
            step = line['step']
            continue
        found += [(step, line[key]) for key in line if key.rpartition('/')[2] == metric]
    return found


def summarize_stages(work_dir: Path, names: list[str]) -> dict:
    """Return metrics by the parts of the stages' names, wall seconds, memory and versions."""
    summary, walls, peaks = {}, {}, [0.0]
    if (prepared := work_dir / PREPARED).exists():
        walls['prepare'] = round(json.loads(prepared.read_text())['wall_s'], 1)
    for name in names:
        node = summary
        for part in name.split('/'):
            node = node.setdefault(part, {})
        node.update(metrics(work_dir / name))
        if record := read_record(work_dir / name):
            walls[name] = round(record['wall_s'], 1)
            peaks.append(record['peak_rss_gib'])
    return dict(**summary, wall_s=walls, peak_rss_gib=round(max(peaks), 3), versions=versions())


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that it depends on."""
    from beit_mm import __version__

    found = {name: import_module(name).__version__ for name in _PACKAGES if find_spec(name)}
    return dict(beit_mm=__version__, python=platform.python_version(), **found)


def processor() -> str:
    """Return the processor's name, or its architecture if the system does not name it."""
    info = Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith('model name'):
            return line.partition(': ')[2]
    return platform.machine()


def over_seeds(summaries: list[dict]) -> dict:
    """Average summaries; `spread` holds the standard deviations over seeds (n − 1)."""
    unlike = {key: summaries[0][key] for key in ('peak_rss_gib', 'versions')}
    unlike['peak_rss_gib'] = max(summary['peak_rss_gib'] for summary in summaries)
    alike = [{k: v for k, v in summary.items() if k not in unlike} for summary in summaries]
    spread = _combine(alike, stdev)
    spread.pop('wall_s')
    return dict(**_combine(alike, mean), **unlike, spread=spread, seeds=len(summaries))


def _combine(nodes: list[dict], function: Callable) -> dict:
    """Apply a function to the values of the same keys."""
    combined = {}
    for key, value in nodes[0].items():
        values = [node[key] for node in nodes]
        combined[key] = _combine(values, function) if isinstance(value, dict) else function(values)
    return combined


def rows(summary: dict) -> list[tuple[str, str, str, str, str]]:
    """Return (task, start, metric, value, gain over `scratch`) as text, `scratch` first."""
    table = []
    for task, starts in summary.items():
        if not isinstance(starts, dict):
            continue
        starts = {name: values for name, values in starts.items() if isinstance(values, dict)}
        for metric, label in JUDGED.items():
            scratch = starts.get('scratch', {}).get(metric)
            for start in sorted(starts, key=lambda start: start != 'scratch'):
                value = starts[start].get(metric)
                if value is None:
                    continue
                spread = summary.get('spread', {}).get(task, {}).get(start, {}).get(metric)
                shown = f'{value:.1f}' if spread is None else f'{value:.1f} ± {spread:.1f}'
                gain = ''
                if scratch is not None and start != 'scratch':
                    gain = f'{value - scratch:+.1f}'
                table.append((task, start, label, shown, gain))
    return table


def sentences(summary: dict) -> list[str]:
    """Return one sentence each about the tokenizer and the pre-training, if they ran."""
    lines, tokenizer, pretrain = [], summary.get('tokenizer', {}), summary.get('pretrain', {})
    qualities = dict(
        psnr='PSNR {psnr:.1f} dB (mean color: {psnr_mean_color:.1f})',
        cosine='cosine to the teacher {cosine:.2f}',
    )
    for metric, quality in qualities.items():
        if metric in tokenizer:
            use = '{codes_used:.0f} of {vocab_size:.0f} codes used, perplexity {perplexity:.0f}.'
            lines.append(f'Tokenizer: {quality}, {use}'.format(**tokenizer))
    if 'masked_accuracy' in pretrain:
        lines.append(
            'Pre-training: {val_loss:.2f} nats per masked token (ignoring the image: '
            '{marginal_entropy:.2f}), {masked_accuracy:.1f} % of them correct (always the most '
            'frequent token: {marginal_accuracy:.1f} %).'.format(**pretrain)
        )
    return lines


def text_table(summary: dict) -> str:
    """Return `rows` in aligned columns, followed by `sentences`."""
    lines = ['The gain from pre-training', '']
    if found := rows(summary):
        table = [('task', 'start', 'metric', 'value', 'gain'), *found]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        cells = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in table]
        lines += [cells[0], '─' * max(map(len, cells)), *cells[1:]]
    return '\n'.join([*lines, '', *sentences(summary)])
