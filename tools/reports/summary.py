"""What a chain of runs reached, read from the runs' own logs: a nested dict, and a table of it."""

import json
import math
import platform
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from statistics import mean, stdev

from recipe.records import PREPARED, read_record

_PACKAGES = ('torch', 'torchvision', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg')
_NO_METRIC = {'data_time', 'time', 'step', 'iter', 'epoch'}
JUDGED = dict(
    top1='top-1, %', mIoU='mIoU, %'
)  # metric → label, of the tasks that pre-training serves


def scalars(stage_dir: Path) -> list[dict]:
    """Return the lines of a stage's log but those of `Probe`: with `lr` they are of training, the others of validation."""
    return [line for line in _lines(stage_dir) if not _is_probe(line)]


def probes(stage_dir: Path) -> list[dict]:
    """Return the lines that `Probe` logged."""
    return [line for line in _lines(stage_dir) if _is_probe(line)]


def _is_probe(line: dict) -> bool:
    return any(key.startswith('probe/') for key in line)


def _lines(stage_dir: Path) -> list[dict]:
    """Return the lines of the latest run's log, or of all logs that the stage's record names: an interrupted one has several."""
    logs = sorted(stage_dir.glob('*/vis_data/scalars.json'))
    own = (read_record(stage_dir) or {}).get('logs')
    lines: list[dict] = []
    for log in [log for log in logs if log.parts[-3] in own] if own else logs[-1:]:
        more = [json.loads(line) for line in log.read_text().splitlines()]
        first = next(
            (line['step'] for line in more if 'lr' in line), math.inf
        )  # what was lost is made again from here
        lines = [
            *takewhile(lambda line, first=first: 'lr' not in line or line['step'] < first, lines),
            *more,
        ]
    return lines


def metrics(stage_dir: Path) -> dict[str, float]:
    """A stage's last validation, then what its test adds, without the metrics' prefixes."""
    found = [line for line in scalars(stage_dir) if 'lr' not in line][-1:]
    for log in sorted((stage_dir / 'test').glob('*/*.json'))[-1:]:
        found.append(json.loads(log.read_text()))
    return {
        key.rpartition('/')[2]: value
        for line in found
        for key, value in line.items()
        if key not in _NO_METRIC
    }


def validations(lines: list[dict], metric: str) -> list[tuple[int, float]]:
    """(iteration, value) of each validation in a log; a validation stands behind the training steps before it."""
    step, found = 0, []
    for line in lines:
        if 'lr' in line:
            step = line['step']
        else:
            found += [
                (step, value) for key, value in line.items() if key.rpartition('/')[2] == metric
            ]
    return found


def summarize(work_dir: Path, names: list[str]) -> dict:
    """Metrics under the stages' names ('classification/scratch' is a level deeper), wall seconds, memory, versions."""
    summary, walls, peaks = {}, {}, []
    if (prepared := work_dir / PREPARED).exists():
        walls['prepare'] = round(json.loads(prepared.read_text())['wall_s'], 1)
    for name in names:
        record, node = read_record(work_dir / name), summary
        for part in name.split('/'):
            node = node.setdefault(part, {})
        node.update(metrics(work_dir / name))
        if record:
            walls[name] = round(record['wall_s'], 1)
            peaks.append(record['peak_rss_gib'])
    return dict(
        **summary, wall_s=walls, peak_rss_gib=round(max(peaks, default=0.0), 3), versions=versions()
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that it depends on."""
    from beit_mm import __version__

    found = {name: import_module(name).__version__ for name in _PACKAGES if find_spec(name)}
    return dict(beit_mm=__version__, python=platform.python_version(), **found)


def processor() -> str:
    """Its name, or its architecture where the system does not say (/proc/cpuinfo)."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(': ')[2] for line in lines if line.startswith('model name')),
        platform.machine(),
    )


def over_seeds(summaries: list[dict]) -> dict:
    """Means of several summaries, and under `spread` the standard deviations over seeds (n − 1)."""
    first = {
        key: value for key, value in summaries[0].items() if key not in ('peak_rss_gib', 'versions')
    }
    spread = _fold(first, summaries, stdev)
    spread.pop('wall_s')
    peak = max(summary['peak_rss_gib'] for summary in summaries)
    return dict(
        **_fold(first, summaries, mean), peak_rss_gib=peak, versions=summaries[0]['versions'], spread=spread,
        seeds=len(summaries),
    )  # fmt: skip


def _fold(node: dict, peers: list[dict], fold) -> dict:
    return {
        key: _fold(value, [peer[key] for peer in peers], fold)
        if isinstance(value, dict)
        else fold(peer[key] for peer in peers)
        for key, value in node.items()
    }


# -- what a person reads ---------------------------------------------------------------------------------------------


def rows(summary: dict) -> list[tuple[str, str, str, str, str]]:
    """(task, arm, metric, value, gain over the arm `scratch`), all text; a `scratch` arm stands before the others."""
    table = []
    for task, arms in summary.items():
        arms = (
            {arm: values for arm, values in arms.items() if isinstance(values, dict)}
            if isinstance(arms, dict)
            else {}
        )
        for metric, label in JUDGED.items():
            base = arms.get('scratch', {}).get(metric)
            for arm in sorted(arms, key=lambda arm: arm != 'scratch'):
                value = arms[arm].get(metric)
                if value is None:
                    continue
                noise = summary.get('spread', {}).get(task, {}).get(arm, {}).get(metric)
                shown = f'{value:.1f}' if noise is None else f'{value:.1f} ± {noise:.1f}'
                gain = '' if arm == 'scratch' or base is None else f'{value - base:+.1f}'
                table.append((task, arm, label, shown, gain))
    return table


def sentences(summary: dict) -> list[str]:
    """The tokenizer and the pre-training in a line each, as far as they ran."""
    lines, tokenizer, pretrain = [], summary.get('tokenizer', {}), summary.get('pretrain', {})
    if 'psnr' in tokenizer:
        lines.append(
            f'Tokenizer: PSNR {tokenizer["psnr"]:.1f} dB (mean colour: {tokenizer["psnr_mean_color"]:.1f}), '
            f'{tokenizer["codes_used"]:.0f} of {tokenizer["vocab_size"]:.0f} codes used, '
            f'perplexity {tokenizer["perplexity"]:.0f}.'
        )
    if 'masked_accuracy' in pretrain:
        lines.append(
            f'Pre-training: {pretrain["val_loss"]:.2f} nats a hidden token (ignoring the image: '
            f'{pretrain["marginal_entropy"]:.2f}), {pretrain["masked_accuracy"]:.1f} % of them right '
            f'(always the commonest token: {pretrain["marginal_accuracy"]:.1f} %).'
        )
    return lines


def text_table(summary: dict) -> str:
    """`rows` in columns, `sentences` below."""
    table = [('task', 'start', 'metric', 'value', 'gain'), *rows(summary)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.insert(1, '─' * max(map(len, lines)))
    return '\n'.join(
        [
            'What pre-training bought',
            '',
            *(lines if len(table) > 1 else []),
            '',
            *sentences(summary),
        ]
    )
