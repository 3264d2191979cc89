"""The report of one run: curves of all that its log holds, pictures of what it learned, config and environment."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from mmengine.config import Config
from recipe.records import read_record

from beit_mm.viz import draw, page
from beit_mm.viz.draw import text

from . import pictures, sections
from .summary import metrics, probes, scalars, validations

_NO_CURVE = {'step', 'iter', 'epoch', 'memory', 'data_time', 'base_lr'}  # of a training line
_NAMES = dict(
    lr='learning rate',
    time='images a second',
    grad_norm='norm of the gradient',
    token_entropy='token entropy, nats',
)


def write(path: Path, stage_dir: Path) -> None:
    """Write the page at `path` for the latest run in `stage_dir`, a work_dir of tools/train.py or a stage of a recipe.

    Raises FileNotFoundError if no run has logged anything.
    """
    lines = scalars(stage_dir)
    if not lines:
        raise FileNotFoundError(
            f'{stage_dir} has no run with logged numbers: {_instead(stage_dir)}'
        )
    work_dir, name = stage_of(stage_dir)
    cfg, log = pictures.stage_config(work_dir, name), _latest_log(stage_dir)
    charts = _charts(lines, cfg, processes(log)) + probe_charts(probes(stage_dir))
    parts = [f'<h1>{text(name)}</h1>', _results(stage_dir, lines), charts]
    parts.append(_pictures(work_dir, name))
    parts.append(
        f'<h2>Environment</h2><pre>{text(environment(log) or "Its log is not there.")}</pre>'
    )
    parts.append(f'<details><summary>Config</summary><pre>{text(cfg.pretty_text)}</pre></details>')
    page.write(path, f'Run {name}', parts)


def _instead(stage_dir: Path) -> str:
    """Return what to do about a folder without logged numbers."""
    inside = sorted(
        {
            str(log.parents[2].relative_to(stage_dir))
            for log in stage_dir.rglob('vis_data/scalars.json')
        }
    )
    if inside:
        return f'expected one of {", ".join(inside)} in it'
    if _latest_log(stage_dir) or any(stage_dir.glob('*/*.log')):
        return 'its config had a visualizer without dict(type="LocalVisBackend") in vis_backends; tools/train.py adds it'
    return 'expected a folder that tools/train.py has written (--work-dir)'


def stage_of(stage_dir: Path) -> tuple[Path, str]:
    """The work_dir and the name of a stage: a recipe's record has them, of another run the folder is all."""
    stage_dir = stage_dir.resolve()
    name = (read_record(stage_dir) or {}).get('name', stage_dir.name)
    return stage_dir.parents[len(Path(name).parts) - 1], name


def curves(lines: list[dict], images: int) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """(name, points (iteration, value)) of each number in a log's training lines, then of each metric validated more than once.

    `images` in an iteration: with it the time of one becomes images a second. Names of losses begin with 'loss'.
    """
    training = [line for line in lines if 'lr' in line]
    for key in dict.fromkeys(key for line in training for key in line if key not in _NO_CURVE):
        points = [
            (line['step'], line[key]) for line in training if isinstance(line.get(key), int | float)
        ]
        if key == 'time':
            points = [(step, images / seconds) for step, seconds in points if seconds > 0]
        yield _NAMES.get(key, key), points
    checks = [key.rpartition('/')[2] for line in lines if 'lr' not in line for key in line]
    for metric in dict.fromkeys(key for key in checks if key not in {*_NO_CURVE, 'time'}):
        points = validations(lines, metric)
        if len(points) > 1 and isinstance(points[0][1], int | float):
            yield f'validation: {metric}', points


def probe_charts(lines: list[dict]) -> str:
    """Return a chart for each measure of `Probe`, with one line per layer; heads are averaged."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith('probe/'):
                measure, *place = key.removeprefix('probe/').split('/')
                layer = place[0].replace('_', ' ') if place else measure
                found.setdefault(measure, {}).setdefault(layer, {}).setdefault(
                    line['step'], []
                ).append(value)
    charts = ''
    for measure, layers in found.items():
        curves = {
            layer: [(step, mean(values)) for step, values in points.items()]
            for layer, points in layers.items()
        }
        if chart := draw.line_chart(curves, {}, 'iterations'):
            charts += f'<figure><h3>{text(measure)}</h3>{chart}</figure>'
    return f'<h2>Probes</h2><div class="charts">{charts}</div>' if charts else ''


def _charts(lines: list[dict], cfg: Config, ranks: int) -> str:
    found = dict(curves(lines, cfg.train_dataloader.batch_size * ranks))
    losses = {
        name: points
        for name, points in found.items()
        if name == 'loss' or re.search(r'(^|\.)loss', name)
    }
    charts = [('loss', draw.line_chart(losses, {}, 'iterations'))] if losses else []
    charts += [
        (name, draw.line_chart({name: points}, {}, 'iterations'))
        for name, points in found.items()
        if name not in losses
    ]
    figures = ''.join(
        f'<figure><h3>{text(title)}</h3>{chart}</figure>' for title, chart in charts if chart
    )
    return f'<h2>How it went</h2><div class="charts">{figures}</div>'


def _results(stage_dir: Path, lines: list[dict]) -> str:
    last = next((line['step'] for line in reversed(lines) if 'lr' in line), 0)
    table = [
        (key, f'{value:.4g}')
        for key, value in metrics(stage_dir).items()
        if isinstance(value, int | float)
    ]
    html = f'<h2>What it reached</h2><p>{last} iterations are logged.</p>'
    return html + (draw.text_table(['last validation or test', 'value'], table) if table else '')


def _pictures(work_dir: Path, name: str) -> str:
    """What the last checkpoint does with validation images; where that cannot be shown, why."""
    try:
        return sections.of_stage(work_dir, name)
    except (
        ImportError,
        OSError,
        ValueError,
    ) as error:  # no checkpoint yet, no data here, no tokenizer
        return f'<h2>Pictures</h2><p class="note">There are none: {text(" ".join(str(error).split()))}</p>'


# -- the text log ------------------------------------------------------------------------------------------------------


def _latest_log(stage_dir: Path) -> str:
    logs = sorted(path for path in stage_dir.glob('*/*.log') if (path.parent / 'vis_data').is_dir())
    return logs[-1].read_text(errors='replace') if logs else ''


def environment(log: str) -> str:
    """The block that mmengine writes first: machine, versions, seed, processes; without how torch was compiled."""
    block = re.search(r'System environment:\n.*?(?=\n-{20,})', log, re.S)
    lines = block[0].splitlines() if block else []
    return '\n'.join(
        line
        for line in lines
        if line.strip() and not line.startswith('  - ') and 'compiling details' not in line
    )


def processes(log: str) -> int:
    """How many processes trained; mmengine calls it the number of GPUs without one as well."""
    found = re.search(r'GPU number: (\d+)', log)
    return int(found[1]) if found else 1
