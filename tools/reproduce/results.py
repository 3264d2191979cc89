"""Results of all seeds and stages in one JSON file, from which another checkout can continue.

{'scale': 'hour', 'runs': [{'command': …, 'commit': …, 'machine': …, 'date': …}], 'seeds':
 {'1': {'TASK/LABELS/ABLATION': {'digest': …, 'metrics': {…}, 'curves': {…}}}}}
"""

import os
import shlex
import subprocess
import time
from pathlib import Path

from recipe.plan import plan
from recipe.records import read_json, read_record, write_json
from reports.summary import metrics, processor, scalars, validations, versions

from .ablations import METRIC_OF_TASK

CURVES = (*METRIC_OF_TASK.values(), 'val_loss', 'masked_accuracy', 'marginal_entropy')
OVER_ALL_TOKENS = ('val_loss_all', 'accuracy_all', 'marginal_entropy_all', 'marginal_accuracy_all')
TOKENIZER = ('psnr', 'psnr_mean_color', 'vocab_size', 'codes_used', 'perplexity', 'mse')
KEPT_METRICS = (*CURVES, *OVER_ALL_TOKENS, *TOKENIZER, 'marginal_accuracy')


def read(out: Path, scale: str) -> dict:
    """Return the results of a scale, empty ones if there are none."""
    return read_json(out / f'results/{scale}.json') or dict(scale=scale, runs=[], seeds={})


def save_finished(results: dict, out: Path, runs: dict, command: list[str]) -> None:
    """Add the stages that are finished with the present inputs to `results`, and save them.

    `runs` maps a seed to its recipe, its settings and the digests of its stages.
    """
    for seed, (recipe, settings, digests) in runs.items():
        unfinished = {planned.stage.name for planned in plan(recipe, settings)}
        names = [name for name in settings.only if name not in unfinished]
        stages = dict(results['seeds'].get(str(seed), {}))
        for name in names:
            stages[name] = dict(digest=digests[name], **_read_stage(settings.work_dir / name))
        if names:
            run = describe_run(command)
            results['runs'] += [] if run in results['runs'] else [run]
            seeds = results['seeds'] | {str(seed): stages}
            results['seeds'] = {key: seeds[key] for key in sorted(seeds, key=int)}
            write_json(out / f'results/{results["scale"]}.json', results)


def _read_stage(stage_dir: Path) -> dict:
    lines, curves = scalars(stage_dir), {}
    for name in CURVES:
        if points := validations(lines, name):
            curves[name] = [[step, round(value, 4)] for step, value in points]
    last = {
        key: round(value, 4) for key, value in metrics(stage_dir).items() if key in KEPT_METRICS
    }
    wall_s = round(read_record(stage_dir)['wall_s'], 1)
    return dict(metrics=last, curves=curves, wall_s=wall_s)


def select_current(results: dict, digests: dict[int, dict[str, str]]) -> dict[str, dict]:
    """Return seed → stage → results of the stages whose digest is that in `digests`."""
    selected = {}
    for seed, expected in digests.items():
        stages = results['seeds'].get(str(seed), {})
        current = {name: s for name, s in stages.items() if s['digest'] == expected.get(name)}
        if current:
            selected[str(seed)] = current
    return selected


def describe_run(arguments: list[str]) -> dict[str, str]:
    """Return command, commit, machine and date of this run."""
    packages = versions()
    names = [name for name in ('beit_mm', 'torch', 'mmengine') if name in packages]
    software = ', '.join(f'{name} {packages[name]}' for name in names)
    return dict(
        command=shlex.join(['python', *arguments]),
        commit=_commit(),
        machine=f'{os.cpu_count()} cores, {processor()}; {software}',
        date=time.strftime('%Y-%m-%d'),
    )


def _commit() -> str:
    """Return the commit of this checkout, marked if it has changes; 'unknown' outside of git."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    try:
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return done.stdout.strip()
