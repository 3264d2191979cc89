"""The report of a chain of runs: one web page that needs nothing beside itself, readable on a phone, light or dark."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from ..recipe.chain import read_record
from . import draw, pictures
from .draw import text
from .summary import JUDGED, rows, scalars, sentences, validations

_STYLE = """
:root { color-scheme: light dark; --edge: #8884; --soft: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem } h3, figure { margin: 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--edge) }
th, td { padding: .3rem clamp(.4rem, 2vw, 1rem) .3rem 0 }
.pictures { width: 100%; table-layout: fixed; min-width: 18rem }
.pictures th, .pictures td { padding: 2px; border: 0; text-align: center; vertical-align: bottom }
.pictures th { font-size: .85rem; font-weight: 400; line-height: 1.2 }
img { width: 100%; display: block; image-rendering: pixelated; border-radius: 3px } svg { width: 100%; height: auto }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .3rem 0 }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem }
code { font-size: .85em; overflow-wrap: anywhere }
.note { background: var(--soft); border-left: 4px solid #0b84c6; padding: .6rem 1rem; border-radius: 4px }
"""


def write(path: Path, work_dir: Path, names: list[str], summary: dict, title: str, note: str) -> None:
    """Write the page at `path`: numbers from `summary`, curves and pictures from the stages `names` in `work_dir`."""
    models = {name: pictures.stage_config(work_dir, name).model for name in names}
    kinds = {name: model.type.rpartition('.')[2] for name, model in models.items()}
    sections = [f'<h1>{text(title)}</h1>', _results(summary, note), _curves(work_dir, names, summary)]
    for name in names:
        if kinds[name] == 'DiscreteVAE':
            sections.append(_tokenizer(work_dir, name))
        elif kinds[name] == 'BEiTPretrainer' and 'tokenizer' in models[name].target:
            sections.append(_pretraining(work_dir, name))
    for task, arms in _tasks(name for name in names if kinds[name] == 'EncoderDecoder').items():
        sections.append(_segmentation(work_dir, task, arms))
    sections.append(_runs(work_dir, names, summary))
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<title>{text(title)}</title><style>{_STYLE}</style></head><body>'
    path.write_text(head + '\n'.join(sections) + '</body></html>\n', encoding='utf-8')


def _tasks(names: Iterable[str]) -> dict[str, list[str]]:
    """Stages by the first part of their names; `scratch` first."""
    tasks: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: not name.endswith('/scratch')):
        tasks.setdefault(name.partition('/')[0], []).append(name)
    return tasks


def _results(summary: dict, note: str) -> str:
    html, table = '<h2>What pre-training bought</h2>', rows(summary)
    if table:
        cells = [(f'{task}: {metric}', start, value, gain) for task, start, metric, value, gain in table]
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
    figures = ''.join(f'<figure><h3>{text(title)}</h3>{chart}</figure>' for title, chart in charts if chart)
    return f'<h2>How it went</h2><div class="charts">{figures}</div>'


def _tokenizer(work_dir: Path, name: str) -> str:
    columns, scenes = pictures.tokenizer(work_dir, name)
    words = 'Each patch of an image became one integer, its token; from these alone the decoder draws the image again.'
    pairs = [left + right for left, right in zip(scenes[::2], scenes[1::2], strict=False)] or scenes
    columns *= len(pairs[0]) // 2
    return f'<h2>What the tokenizer keeps</h2><p>{words}</p>' + draw.picture_table(columns, pairs)


def _pretraining(work_dir: Path, name: str) -> str:
    columns, scenes = pictures.pretraining(work_dir, name)
    words = (
        'BEiT sees the patches that are not grey and guesses the tokens of the others. The last two columns are drawn '
        "by the tokenizer's decoder: from the true tokens, and with the likeliest guess in each hidden place."
    )
    return f'<h2>What pre-training guesses</h2><p>{words}</p>' + draw.picture_table(columns, scenes)


def _segmentation(work_dir: Path, task: str, names: list[str]) -> str:
    columns, scenes, colours = pictures.segmentation(work_dir, names)
    words = 'Validation images; each column is the same network after as many labels and steps, from another start.'
    html = f'<h2>{text(task.capitalize())}</h2><p>{words}</p>'
    return html + draw.picture_table(columns, scenes) + draw.legend(colours)


def _runs(work_dir: Path, names: list[str], summary: dict) -> str:
    records = {name: read_record(work_dir / name) for name in names}
    table = [(name, f'{r["wall_s"]:.0f} s', f'{r["peak_rss_gib"]:.2f} GiB') for name, r in records.items()]
    prepare = summary['wall_s'].get('prepare', 0)
    total = prepare + sum(record['wall_s'] for record in records.values())
    table = [('prepare', f'{prepare:.0f} s', ''), *table]
    table.append(('together', f'{total:.0f} s', f'{summary["peak_rss_gib"]:.2f} GiB'))
    commands = ''.join(f'<p><code>{text(c)}</code></p>' for r in records.values() for c in r['commands'])
    versions = ', '.join(f'{name} {version}' for name, version in summary['versions'].items())
    html = '<h2>What ran</h2>' + draw.text_table(['stage', 'time', 'peak memory'], table)
    html += f'<details><summary>Commands</summary>{commands}</details>'
    html += f'<p>Written {time.strftime("%Y-%m-%d %H:%M")} on a machine with {os.cpu_count()} CPU cores, '
    return html + f'with {text(versions)}.</p>'
