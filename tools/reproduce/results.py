"""What the runs reached: figures and curves of every stage and seed, as JSON that another checkout goes on from.

{'scale': 'hour', 'runs': [{'command': …, 'commit': …, 'machine': …, 'date': …}], 'seeds':
 {'1': {'TASK/LABELS/ROW': {'digest': …, 'metrics': {…}, 'curves': {…}}}}}
"""

import json
import os
import shlex
import subprocess
import time
from pathlib import Path

from recipe.records import read_record, write_json
from reports.summary import metrics, processor, scalars, validations, versions

from .rows import TASKS

CURVES = (*TASKS.values(), 'val_loss', 'masked_accuracy', 'marginal_entropy')
OVER_ALL = ('val_loss_all', 'accuracy_all', 'marginal_entropy_all', 'marginal_accuracy_all')
KEPT = (
    *CURVES,
    *OVER_ALL,
    'marginal_accuracy',
    'psnr',
    'psnr_mean_color',
    'vocab_size',
    'codes_used',
    'perplexity',
    'mse',
)


def path(out: Path, scale: str) -> Path:
    return out / 'results' / f'{scale}.json'


def read(out: Path, scale: str) -> dict:
    """What is there of a scale, an empty store where nothing is."""
    file = path(out, scale)
    return json.loads(file.read_text()) if file.is_file() else dict(scale=scale, seeds={})


def digests(store: dict, seed: int) -> dict[str, str]:
    """Stage → digest of what it was made from, of a seed's finished stages."""
    return {name: stage['digest'] for name, stage in store['seeds'].get(str(seed), {}).items()}


def add(store: dict, seed: int, made: dict[str, str], work_dir: Path, run: dict[str, str]) -> dict:
    """The store with those stages of a seed (stage → digest) that are finished, and the run that made them."""
    found = {name: dict(digest=digest, **_stage(work_dir / name)) for name, digest in made.items()}
    seeds = store['seeds'] | {str(seed): store['seeds'].get(str(seed), {}) | found}
    runs = store.get('runs', [])
    return dict(
        scale=store['scale'],
        runs=runs if run in runs else [*runs, run],
        seeds=dict(sorted(seeds.items(), key=lambda item: int(item[0]))),
    )


def _stage(stage_dir: Path) -> dict:
    lines, record = scalars(stage_dir), read_record(stage_dir)
    curves = {
        name: [[step, round(value, 4)] for step, value in validations(lines, name)]
        for name in CURVES
    }
    last = {key: round(value, 4) for key, value in metrics(stage_dir).items() if key in KEPT}
    return dict(
        metrics=last,
        curves={name: points for name, points in curves.items() if points},
        wall_s=round(record['wall_s'], 1),
    )


def save(out: Path, store: dict) -> None:
    write_json(path(out, store['scale']), store)


def current(store: dict, digests: dict[int, dict[str, str]]) -> dict[str, dict]:
    """Seed → stage → figures, of those seeds and stages (seed → stage → digest) that were made from the same."""
    found = {}
    for seed, stages in digests.items():
        there = store['seeds'].get(str(seed), {})
        found[str(seed)] = {
            name: there[name]
            for name, digest in stages.items()
            if there.get(name, {}).get('digest') == digest
        }
    return {seed: stages for seed, stages in found.items() if stages}


def made(typed: list[str]) -> dict[str, str]:
    """By what, from what, on what and when."""
    packages = versions()
    names = ', '.join(
        f'{name} {packages[name]}' for name in ('beit_mm', 'torch', 'mmengine') if name in packages
    )
    return dict(
        command=shlex.join(['python', *typed]),
        commit=_commit(),
        machine=f'{os.cpu_count()} cores, {processor()}; {names}',
        date=time.strftime('%Y-%m-%d'),
    )


def _commit() -> str:
    """Of the checkout that this package lies in, marked when it has changes; 'unknown' outside of git."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
