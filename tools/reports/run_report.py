"""The report of one run: curves of all logged values, pictures, config and environment."""

import re
from pathlib import Path
from statistics import mean

from mmengine.config import Config
from recipe.records import read_record

from beit_mm.utils.installation import command
from beit_mm.viz.pages import write_page

from . import pictures
from .summary import metrics, scalars, validations
from .terms import VALUES, find_words
from .verdict import Verdict, judge

TEMPLATES = Path(__file__).parent / 'templates'
_NO_CURVE = {'step', 'iter', 'epoch', 'memory', 'data_time', 'base_lr'}
_TITLES = dict(
    lr='learning rate',
    time='images per second',
    grad_norm='gradient norm',
    token_entropy='token entropy, nats',
)


def write(path: Path, stage_dir: Path) -> None:
    """Write the report of the latest run in a work_dir of tools/train.py or a stage of a recipe.

    Raises FileNotFoundError if no run has logged anything.
    """
    lines = scalars(stage_dir)
    if not lines:
        raise FileNotFoundError(
            f'{stage_dir} has no run with logged numbers: {_suggest_folder(stage_dir)}'
        )
    work_dir, name = locate_stage(stage_dir)
    cfg, log = pictures.stage_config(work_dir, name), _latest_log(stage_dir)
    batch_size = cfg.train_dataloader.batch_size * count_processes(log)
    section, no_pictures = _pictures(work_dir, name)
    found = judge_run(stage_dir, cfg)
    results = []
    for key, value in metrics(stage_dir).items():
        if _is_number(value):
            results.append((key, f'{value:.4g}', VALUES.get(key, '')))
    write_page(
        path,
        'run.html',
        TEMPLATES,
        title=f'Run {name}',
        heading=name,
        iterations=next((line['step'] for line in reversed(lines) if 'lr' in line), 0),
        verdict=found,
        results=results,
        words=find_words(found.reason, *(meaning for _, _, meaning in results)),
        curves=charts(lines, batch_size),
        probes=probe_charts(scalars(stage_dir, of_probe=True)),
        pictures=section,
        no_pictures=no_pictures,
        environment=environment(log),
        config=cfg.pretty_text,
    )


def _suggest_folder(stage_dir: Path) -> str:
    logs = stage_dir.rglob('vis_data/scalars.json')
    if runs := sorted({str(log.parents[2].relative_to(stage_dir)) for log in logs}):
        return f'expected one of {", ".join(runs)} in it'
    return f'expected a folder that `{command("train")}` has written (--work-dir)'


def locate_stage(stage_dir: Path) -> tuple[Path, str]:
    """Return the recipe's work_dir and the stage's name; of another run, its parent and name."""
    stage_dir = stage_dir.resolve()
    name = (read_record(stage_dir) or {}).get('name', stage_dir.name)
    return stage_dir.parents[len(Path(name).parts) - 1], name


def judge_run(stage_dir: Path, cfg: Config) -> Verdict:
    """Judge what a run has logged."""
    losses = [line['loss'] for line in scalars(stage_dir) if 'lr' in line and 'loss' in line]
    last_rank = None
    for line in scalars(stage_dir, of_probe=True):
        ranks = {key: value for key, value in line.items() if '/effective_rank/' in key}
        last_rank = list(ranks.values())[-1] if ranks else last_rank
    head = cfg.model.get('decode_head') or cfg.model.get('head') or {}
    return judge(losses, metrics(stage_dir), last_rank, head.get('num_classes'))


def charts(lines: list[dict], batch_size: int) -> list[dict]:
    """Return the charts of a log over iterations: one of all losses, and one per other number.

    Numbers of training come first, then metrics that were validated more than once. `batch_size`
    of all ranks converts the time per iteration to images per second.
    """
    training = [line for line in lines if 'lr' in line]
    curves = {}
    for key in dict.fromkeys(key for line in training for key in line):
        points = [(line['step'], line[key]) for line in training if _is_number(line.get(key))]
        if key == 'time':
            points = [(step, batch_size / seconds) for step, seconds in points if seconds > 0]
        if key not in _NO_CURVE:
            curves[_TITLES.get(key, key)] = points

    validated = [key.rpartition('/')[2] for line in lines if 'lr' not in line for key in line]
    for metric in dict.fromkeys(validated):
        points = [point for point in validations(lines, metric) if _is_number(point[1])]
        if metric not in _NO_CURVE | {'time'} and len(points) > 1:
            curves[f'validation: {metric}'] = points

    losses = {name: points for name, points in curves.items() if re.search(r'(^|\.)loss', name)}
    shown = {name: p for name, p in losses.items() if name == 'loss' or p != losses.get('loss')}
    found = [dict(title='loss', lines=shown, note='')] if losses else []
    for name in [name for name in curves if name not in losses]:
        note = VALUES.get(name.removeprefix('validation: '), '')
        found.append(dict(title=name, lines={name: curves[name]}, note=note))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def probe_charts(lines: list[dict]) -> list[dict]:
    """Return a chart per measure of `Probe` with one line per layer; heads are averaged."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for line in lines:
        for key in [key for key in line if key.startswith('probe/')]:
            measure, *place = key.split('/')[1:]
            layer = place[0].replace('_', ' ') if place else measure
            steps = found.setdefault(measure, {}).setdefault(layer, {})
            steps.setdefault(line['step'], []).append(line[key])
    charts = []
    for measure, layers in found.items():
        averaged = {}
        for layer, steps in layers.items():
            averaged[layer] = [(step, mean(values)) for step, values in steps.items()]
        charts.append(dict(title=measure, lines=averaged, note=VALUES.get(measure, '')))
    return charts


def _pictures(work_dir: Path, name: str) -> tuple[dict | None, str]:
    """Return the section of the last checkpoint, or why there is none."""
    try:
        return pictures.make_section(work_dir, name), ''
    except (ImportError, OSError, ValueError) as error:  # checkpoint, data or tokenizer not found
        return None, ' '.join(str(error).split())


def _latest_log(stage_dir: Path) -> str:
    logs = sorted(path for path in stage_dir.glob('*/*.log') if (path.parent / 'vis_data').is_dir())
    return logs[-1].read_text(errors='replace') if logs else ''


def environment(log: str) -> str:
    """Return mmengine's first block of a log without the compile options of PyTorch."""
    block = re.search(r'System environment:\n.*?(?=\n-{20,})', log, re.S)
    lines = block[0].splitlines() if block else []
    options = re.compile(r'\s*$|  - |.*compiling details')
    return '\n'.join(line for line in lines if not options.match(line))


def count_processes(log: str) -> int:
    """Return the number of ranks; mmengine calls it the number of GPUs also on a CPU."""
    found = re.search(r'GPU number: (\d+)', log)
    return int(found[1]) if found else 1
