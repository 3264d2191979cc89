"""Records in a stage's folder: the inputs that the stage was made from, and what it took.

`stage.json` marks a finished stage, `begun.json` one that has started and is not finished.
"""

import hashlib
import json
import shutil
from pathlib import Path

from mmengine.config import Config

from beit_mm.checkpoint.folders import find_last_checkpoint
from beit_mm.engine.atomic_file import write_file

from .chain import Stage

FINISHED, BEGUN, PREPARED = 'stage.json', 'begun.json', 'prepare.json'


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically."""
    write_file(path, [f'{json.dumps(content, indent=2)}\n'.encode()])


def read_json(path: Path) -> dict | None:
    """Read a JSON file; return None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def digest(content: object) -> str:
    """Return the SHA-256 of nested dicts and lists; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def find_checkpoint(stage_dir: Path) -> Path:
    """Return a stage's last checkpoint, also if the folder was moved. Raises FileNotFoundError."""
    if path := find_last_checkpoint(stage_dir):
        return path
    raise FileNotFoundError(f'no checkpoint in {stage_dir}: run this stage first')


def weight_options(weights: dict[str, str], work_dir: Path) -> list[str]:
    """Return the `--cfg-options` that name the checkpoints of earlier stages."""
    return [f'{key}={find_checkpoint(work_dir / source)}' for key, source in weights.items()]


def read_record(stage_dir: Path) -> dict | None:
    """Return the record of a finished stage whose checkpoint exists, else None."""
    try:
        find_checkpoint(stage_dir)
    except FileNotFoundError:
        return None
    return read_json(stage_dir / FINISHED)


def describe_inputs(
    stage: Stage, work_dir: Path, options: list[str], prepare: list[str], gpus: int = 1
) -> dict:
    """Return everything that determines a stage's result, with config and sources as digests.

    The stages that it starts from have to be finished. Their inputs stand for their checkpoints,
    since the same inputs give the same bits.
    """
    sources = {key: read_record(work_dir / name) for key, name in stage.weights.items()}
    inputs = dict(
        config=digest(Config.fromfile(stage.config).to_dict()),
        options=options,
        weights={key: digest(record['made_from']) for key, record in sources.items()},
        data=prepare,
        test=stage.test,
    )
    return inputs | dict(gpus=gpus) if gpus > 1 else inputs


def stage_status(stage_dir: Path, inputs: dict) -> tuple[str, str]:
    """Return 'finished', 'interrupted' or 'new', and a sentence for the log, or ''."""
    finished = read_record(stage_dir)
    record = finished or read_json(stage_dir / BEGUN)
    if not record:
        return 'new', ''
    before = record['made_from']
    changed = [name for name in before | inputs if inputs.get(name) != before.get(name)]
    if changed:
        return 'new', f'runs again, because its inputs have changed: {", ".join(changed)}'
    if finished:
        return 'finished', f'finished before, in {record["wall_s"]:.0f} s; skipped'
    try:
        return 'interrupted', f'was interrupted, resumes from {find_checkpoint(stage_dir)}'
    except FileNotFoundError:
        return 'new', ''


def move_to_previous(stage_dir: Path) -> Path:
    """Move a stage's folder to NAME.previous, in place of an earlier one, and return that."""
    previous = stage_dir.with_name(f'{stage_dir.name}.previous')
    shutil.rmtree(previous, ignore_errors=True)
    return stage_dir.rename(previous)
