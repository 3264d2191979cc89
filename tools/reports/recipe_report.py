"""The report of a recipe: results, curves and pictures of all stages on one page."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from mmengine.logging import MMLogger
from recipe.chain import Recipe
from recipe.records import read_record, write_json

from beit_mm.utils.installation import command
from beit_mm.viz.pages import write_page

from . import pictures
from .run_report import TEMPLATES, judge_run, probe_charts
from .summary import (
    JUDGED,
    over_seeds,
    rows,
    scalars,
    sentences,
    summarize_stages,
    text_table,
    validations,
)
from .terms import find_words


def write_reports(recipe: Recipe, work_dir: Path, folders: list[Path]) -> None:
    """Write summary.json into each seed's folder; that of all and report.html into the work dir.

    Writes nothing before all stages of all seeds are finished.
    """
    names = [stage.name for stage in recipe.stages]
    stage_dirs = [folder / name for folder in folders for name in names]
    if missing := [str(path) for path in stage_dirs if not read_record(path)]:
        print(f'Not finished yet: {", ".join(missing)}. The report follows the last stage.')
        return
    summaries = [summarize_stages(folder, names) for folder in folders]
    for folder, found in zip(folders, summaries, strict=True):
        write_json(folder / 'summary.json', found)
    combined = summaries[0] if len(summaries) == 1 else over_seeds(summaries)
    write_json(work_dir / 'summary.json', combined)
    print(f'\n{text_table(combined)}\n', flush=True)
    MMLogger.get_current_instance().setLevel('WARNING')  # the stages' logs say which keys load
    path = work_dir / 'report.html'
    write(path, folders[0], names, combined, recipe.title, recipe.note)
    print(f'Report with pictures: {path}')


def write(
    path: Path, work_dir: Path, names: list[str], summary: dict, title: str, note: str
) -> None:
    """Write the page about the stages `names` in `work_dir`; its numbers are those of `summary`."""
    records = {name: read_record(work_dir / name) for name in names}
    verdicts = []
    for name in names:
        found = judge_run(work_dir / name, pictures.stage_config(work_dir, name))
        verdicts.append((name, found.word, found.reason))
    lines = sentences(summary)
    versions = ', '.join(f'{name} {version}' for name, version in summary['versions'].items())
    write_page(
        path,
        'recipe.html',
        TEMPLATES,
        title=title,
        note=note,
        results=[
            (f'{task}: {metric}', start, value, gain)
            for task, start, metric, value, gain in rows(summary)
        ],
        sentences=lines,
        verdicts=verdicts,
        words=find_words(*lines, *(reason for _, _, reason in verdicts)),
        num_seeds=summary.get('seeds'),
        curves=_curves(work_dir, names, summary),
        probes={
            name: measures
            for name in names
            if (measures := probe_charts(scalars(work_dir / name, of_probe=True)))
        },
        sections=_sections(work_dir, names),
        stages=_stages(records, summary),
        commands=[command for record in records.values() for command in record['commands']],
        stage_command=f'{command("report")} {work_dir / names[0]}',
        date=time.strftime('%Y-%m-%d %H:%M'),
        num_cores=os.cpu_count(),
        versions=versions,
    )


def _sections(work_dir: Path, names: list[str]) -> list[dict]:
    """Return pictures of tokenizers and pre-trainings, then one section per segmentation task."""
    sections, segmentors = [], []
    for name in names:
        kind = pictures.stage_config(work_dir, name).model.type.rpartition('.')[2]
        if kind == 'EncoderDecoder':
            segmentors.append(name)
        elif kind in ('DiscreteVAE', 'VQKD', 'BEiTPretrainer'):
            sections.append(pictures.make_section(work_dir, name))
    for task, stages in _by_task(segmentors).items():
        sections.append(pictures.segmentation(work_dir, task, stages))
    return [section for section in sections if section]


def _by_task(names: Iterable[str]) -> dict[str, list[str]]:
    """Group stages by the first part of their names, `scratch` first."""
    tasks: dict[str, list[str]] = {name.partition('/')[0]: [] for name in names}
    for name in sorted(names, key=lambda name: not name.endswith('/scratch')):
        tasks[name.partition('/')[0]].append(name)
    return tasks


def _curves(work_dir: Path, names: list[str], summary: dict) -> list[dict]:
    """Return the training loss per task, and metrics that were validated more than once."""
    charts = []
    for task, stages in _by_task(names).items():
        logs = {name.partition('/')[2] or task: scalars(work_dir / name) for name in stages}
        losses = {}
        for start, log in logs.items():
            training = [line for line in log if 'loss' in line and 'lr' in line]
            losses[start] = [(line['step'], line['loss']) for line in training]
        entropy = summary.get(task, {}).get('marginal_entropy')
        levels = {'ignoring the image': entropy} if isinstance(entropy, float) else {}
        charts.append(dict(title=f'{task}: training loss', lines=losses, levels=levels))
        for metric, label in JUDGED.items():
            values = {start: validations(log, metric) for start, log in logs.items()}
            if any(len(points) > 1 for points in values.values()):
                charts.append(dict(title=f'{task}: {label}', lines=values))
    return charts


def _stages(records: dict[str, dict], summary: dict) -> list[tuple[str, str, str]]:
    prepare = summary['wall_s'].get('prepare', 0)
    total = prepare + sum(record['wall_s'] for record in records.values())
    table = [('prepare', f'{prepare:.0f} s', '')]
    for name, record in records.items():
        table.append((name, f'{record["wall_s"]:.0f} s', f'{record["peak_rss_gib"]:.2f} GiB'))
    return [*table, ('total', f'{total:.0f} s', f'{summary["peak_rss_gib"]:.2f} GiB')]
