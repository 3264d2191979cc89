"""The report of a chain of runs: one web page that needs nothing beside itself, readable on a phone, light or dark."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from recipe.records import read_record

from beit_mm.viz import draw, page
from beit_mm.viz.draw import text

from . import pictures, sections
from .summary import JUDGED, rows, scalars, sentences, validations


def write(
    path: Path, work_dir: Path, names: list[str], summary: dict, title: str, note: str
) -> None:
    """Write the page at `path`: numbers from `summary`, curves and pictures from the stages `names` in `work_dir`."""
    kinds = {
        name: pictures.stage_config(work_dir, name).model.type.rpartition('.')[2] for name in names
    }
    parts = [f'<h1>{text(title)}</h1>', _results(summary, note), _curves(work_dir, names, summary)]
    parts += [
        sections.of_stage(work_dir, name)
        for name in names
        if kinds[name] in ('DiscreteVAE', 'BEiTPretrainer')
    ]
    for task, arms in _tasks(name for name in names if kinds[name] == 'EncoderDecoder').items():
        parts.append(sections.segmentation(work_dir, task, arms))
    parts.append(_runs(work_dir, names, summary))
    page.write(path, title, parts)


def _tasks(names: Iterable[str]) -> dict[str, list[str]]:
    """Stages by the first part of their names; `scratch` first."""
    tasks: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: not name.endswith('/scratch')):
        tasks.setdefault(name.partition('/')[0], []).append(name)
    return tasks


def _results(summary: dict, note: str) -> str:
    html, table = '<h2>What pre-training bought</h2>', rows(summary)
    if table:
        cells = [
            (f'{task}: {metric}', start, value, gain) for task, start, metric, value, gain in table
        ]
        html += draw.text_table(['task', 'start', 'value', 'gain'], cells)
    html += ''.join(f'<p>{text(line)}</p>' for line in sentences(summary))
    if 'seeds' in summary:
        html += f'<p>Mean ± standard deviation over {text(str(summary["seeds"]))} seeds; '
        html += "curves, pictures and commands are the first one's.</p>"
    return html + (f'<p class="note">{text(note)}</p>' if note else '')


def _curves(work_dir: Path, names: list[str], summary: dict) -> str:
    """Charts for each task: the training loss of its stages, and what they were judged by, where that was repeated."""
    charts = []
    tasks = _tasks(names)
    for task in dict.fromkeys(name.partition('/')[0] for name in names):
        logs = {name.partition('/')[2] or task: scalars(work_dir / name) for name in tasks[task]}
        losses = {
            arm: [(line['step'], line['loss']) for line in log if 'loss' in line and 'lr' in line]
            for arm, log in logs.items()
        }
        entropy = summary.get(task, {}).get('marginal_entropy')
        levels = {'ignoring the image': entropy} if isinstance(entropy, float) else {}
        charts.append((f'{task}: training loss', draw.line_chart(losses, levels, 'iterations')))
        for metric, label in JUDGED.items():
            values = {arm: validations(log, metric) for arm, log in logs.items()}
            if any(len(points) > 1 for points in values.values()):
                charts.append((f'{task}: {label}', draw.line_chart(values, {}, 'iterations')))
    figures = ''.join(
        f'<figure><h3>{text(title)}</h3>{chart}</figure>' for title, chart in charts if chart
    )
    return f'<h2>How it went</h2><div class="charts">{figures}</div>'


def _runs(work_dir: Path, names: list[str], summary: dict) -> str:
    records = {name: read_record(work_dir / name) for name in names}
    table = [
        (name, f'{r["wall_s"]:.0f} s', f'{r["peak_rss_gib"]:.2f} GiB')
        for name, r in records.items()
    ]
    prepare = summary['wall_s'].get('prepare', 0)
    total = prepare + sum(record['wall_s'] for record in records.values())
    table = [('prepare', f'{prepare:.0f} s', ''), *table]
    table.append(('together', f'{total:.0f} s', f'{summary["peak_rss_gib"]:.2f} GiB'))
    commands = ''.join(
        f'<p><code>{text(c)}</code></p>' for r in records.values() for c in r['commands']
    )
    versions = ', '.join(f'{name} {version}' for name, version in summary['versions'].items())
    html = '<h2>What ran</h2>' + draw.text_table(['stage', 'time', 'peak memory'], table)
    html += f'<details><summary>Commands</summary>{commands}</details>'
    html += '<p>A page about one stage, with all that it logged, its config and environment: '
    html += f'<code>python tools/report.py {text(str(work_dir / names[0]))}</code></p>'
    html += f'<p>Written {time.strftime("%Y-%m-%d %H:%M")} on a machine with {os.cpu_count()} CPU cores, '
    return html + f'with {text(versions)}.</p>'
