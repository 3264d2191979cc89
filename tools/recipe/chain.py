"""A chain of runs, each starting from an earlier one's checkpoint: the paper, from the tokenizer to ADE20K, is one.

A recipe is a Python config:

    work_dir = 'work_dirs/mine'
    title, note = 'What this is', 'What it can and cannot show.'  # for the report
    seed = 0
    prepare = ['python -m …']  # commands that run first, every time: they have to know themselves what is done
    stages = [
        dict(name='tokenizer', config='configs/…py'),
        dict(name='pretrain', config='configs/…py', weights={'model.target.checkpoint': 'tokenizer'}, test=True),
        dict(name='task/pretrained', config='configs/…py', weights={'model.backbone.init_cfg.checkpoint': 'pretrain'}),
        dict(name='task/scratch', config='configs/…py', options={'optim_wrapper.optimizer.lr': 1e-3})]

A stage is `tools/train.py` on its config in `work_dir/name`, then, with `test=True`, `tools/test.py`. It is finished
when its `stage.json` says so. `begun.json` says what an unfinished one was begun from: as long as that is the same (its
config, its options, the number of processes, the checkpoints that it reads), a stage that was broken off goes on from
its last checkpoint; when it has changed, a stage begins again, and its checkpoints are moved to `previous`. `runner` runs a
chain, `commands` are what it runs.
"""

import hashlib
import json
import os
import shutil
from argparse import ArgumentParser
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from beit_mm.utils.cfg_options import Options

RECORD, BEGUN, PREPARED = 'stage.json', 'begun.json', 'prepare.json'
PREVIOUS = 'previous'


@dataclass(frozen=True)
class Stage:
    """`weights`: config key → the stage whose checkpoint it names; `options`: config key → value; `test`: also run
    tools/test.py; `long`: only when asked for."""

    name: str
    config: str
    weights: dict[str, str] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    test: bool = False
    long: bool = False


@dataclass(frozen=True)
class Recipe:
    work_dir: str
    stages: list[Stage]
    prepare: list[str]
    seed: int | None
    title: str
    note: str


# -- reading -----------------------------------------------------------------------------------------------------------


def read_recipe(path: str | Path, long: bool = False) -> Recipe:
    """A recipe file, without its `long` stages unless they are asked for.

    Raises FileNotFoundError for a missing recipe or config, ValueError for what makes no chain.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'no recipe at {path}: give a file like configs/quickstart/recipe.py'
        )
    cfg = Config.fromfile(str(path)).to_dict()
    stages = [
        _found(stage, Path(path))
        for stage in map(_stage, cfg.get('stages', []))
        if long or not stage.long
    ]
    if not stages:
        raise ValueError(
            f'{path} has no stages: list them as `stages = [dict(name=…, config=…), …]`'
        )
    for i, stage in enumerate(stages):
        earlier = [other.name for other in stages[:i]]
        if stage.name == 'prepare':
            raise ValueError(
                f"{path}: a stage is named 'prepare', which means the recipe's `prepare`: choose another name"
            )
        if stage.name in earlier:
            raise ValueError(f'{path}: two stages are named {stage.name!r}')
        for source in set(stage.weights.values()) - set(earlier):
            raise ValueError(
                f'{path}: stage {stage.name!r} takes its weights from {source!r}, which is no earlier stage; '
                f'earlier are: {", ".join(earlier) or "none"}'
            )
        if not Path(stage.config).is_file():
            raise FileNotFoundError(
                f'{path}: stage {stage.name!r} has no config {stage.config}, neither in {Path.cwd()} nor beside or above the recipe'
            )
    return Recipe(
        work_dir=cfg.get('work_dir', f'work_dirs/{Path(path).resolve().parent.name}'),
        stages=stages,
        prepare=cfg.get('prepare', []),
        seed=cfg.get('seed'),
        title=cfg.get('title', Path(path).stem),
        note=cfg.get('note', ''),
    )


def _found(stage: Stage, recipe: Path) -> Stage:
    """Return the stage with its config looked up in the current folder, then beside the recipe and in the folders above."""
    places = (folder / stage.config for folder in recipe.resolve().parents)
    there = None if Path(stage.config).is_file() else next(filter(Path.is_file, places), None)
    return replace(stage, config=str(there)) if there else stage


def _stage(entry: dict) -> Stage:
    known = [f.name for f in fields(Stage)]
    for key in entry.keys() - set(known):
        near = get_close_matches(key, known, n=1)
        hint = f'did you mean {near[0]!r}?' if near else f'known are {", ".join(known)}'
        raise ValueError(f'a stage has an unknown key {key!r}: {hint}')
    for key in {'name', 'config'} - entry.keys():
        raise ValueError(f'a stage has no {key}: {entry}')
    return Stage(**entry)


# -- what a stage is made from -----------------------------------------------------------------------------------------


def checkpoint(stage_dir: Path) -> Path:
    """The last checkpoint of a stage, in its own folder, wherever that was moved. Raises FileNotFoundError."""
    pointer = stage_dir / 'last_checkpoint'
    path = stage_dir / Path(pointer.read_text().strip()).name if pointer.is_file() else pointer
    if not path.is_file():
        raise FileNotFoundError(
            f'{stage_dir} has no checkpoint ({path.name} is not there): run its stage first'
        )
    return path


def settings(stage: Stage, seed: int | None, overrides: list[str]) -> list[str]:
    """The stage's `--cfg-options` without its weights; `overrides` ('key=value') come last and win."""
    options = dict(stage.options)
    if (
        seed is not None
    ):  # of the weights and the steps, of the order of the data, and of what is drawn for each
        options['randomness.seed'] = seed
    return [f'{key}={_literal(value)}' for key, value in options.items()] + overrides


def _literal(value: object) -> str:
    """As mmengine's DictAction reads it."""
    if isinstance(value, list | tuple):
        return ('[{}]' if isinstance(value, list) else '({})').format(
            ','.join(map(_literal, value))
        )
    return str(value)


def weight_options(weights: dict[str, str], work_dir: Path) -> list[str]:
    """The `--cfg-options` that name the checkpoints of earlier stages."""
    return [f'{key}={checkpoint(work_dir / source)}' for key, source in weights.items()]


def as_dict(options: list[str]) -> dict:
    """Options ('key=value') as `--cfg-options` reads them."""
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=Options)
    return parser.parse_args(['--cfg-options', *options]).cfg_options or {}


def last_checkpoint(stage: Stage, stage_dir: Path, options: list[str]) -> str:
    """The checkpoint that a stage will end with, `<…>` where its config does not tell."""
    cfg = Config.fromfile(stage.config)
    cfg.merge_from_dict(as_dict(options))
    loop, hook = cfg.get('train_cfg') or {}, cfg.get('default_hooks', {}).get('checkpoint', {})
    unit, length = ('epoch', 'max_epochs') if hook.get('by_epoch', True) else ('iter', 'max_iters')
    return (
        str(stage_dir / f'{unit}_{loop[length]}.pth')
        if length in loop
        else f'<last checkpoint in {stage_dir}>'
    )


def made_from(
    stage: Stage, work_dir: Path, options: list[str], prepare: list[str], gpus: int = 1
) -> dict:
    """All that a stage's result depends on, as its record keeps it; config and checkpoints as SHA-256."""
    config = json.dumps(Config.fromfile(stage.config).to_dict(), sort_keys=True, default=str)
    return dict(
        config=hashlib.sha256(config.encode()).hexdigest(),
        options=options,
        weights={
            key: _sha256(checkpoint(work_dir / source)) for key, source in stage.weights.items()
        },
        data=prepare,
        test=stage.test,
        **(dict(gpus=gpus) if gpus > 1 else {}),
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_record(stage_dir: Path) -> dict | None:
    """What a finished stage wrote at its end, None for any other."""
    try:
        checkpoint(stage_dir)
        return json.loads((stage_dir / RECORD).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def read_begun(stage_dir: Path) -> dict | None:
    """What a stage wrote when it was last begun, None for one that is finished or was never begun."""
    try:
        return json.loads((stage_dir / BEGUN).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def set_aside(stage_dir: Path) -> Path | None:
    """Move the checkpoints of a stage that begins again into its folder `previous`, and replace what that held.

    Returns the folder, None if there was nothing to move.
    """
    previous = stage_dir / PREVIOUS
    found = [
        path
        for path in stage_dir.glob('*')
        if path.is_file() and path.suffix not in ('.py', '.json')
    ]
    if not found:
        return None
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for path in found:
        path.rename(previous / path.name)
    return previous


def changes(origin: dict, record: dict) -> list[str]:
    """The parts of `made_from` that are not as in a record."""
    before = record['made_from']
    return [part for part in (before | origin) if origin.get(part) != before.get(part)]


def write_json(path: Path, content: dict) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix('.tmp')
    unfinished.write_text(json.dumps(content, indent=2) + '\n')
    os.replace(unfinished, path)
