"""Recipe files: training stages, each of which can start from an earlier stage's checkpoint.

A recipe is a Python config:

    work_dir = 'work_dirs/mine'
    title, note = 'Title of the report', 'What this recipe can and cannot show.'
    seed = 0
    prepare = ['python -m …']  # commands that create the data, or return at once if it exists
    stages = [
        dict(name='tokenizer', config='configs/…py'),
        dict(name='task/pretrained', config='configs/…py',
             weights={'model.target.checkpoint': 'tokenizer'},
             options={'optim_wrapper.optimizer.lr': 1e-3}, test=True)]
"""

from argparse import ArgumentParser
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config

from beit_mm.utils.cfg_options import Options


@dataclass(frozen=True)
class Stage:
    """One run of tools/train.py in `work_dir/name`, followed by tools/test.py if `test` is set.

    `weights` maps a config key to the stage whose last checkpoint becomes its value, and `options`
    a config key to a value. A `long` stage runs with `--long` only.
    """

    name: str
    config: str
    weights: dict[str, str] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    test: bool = False
    long: bool = False


@dataclass(frozen=True)
class Recipe:
    """A recipe file's content; with `seed` None the configs' own seeds count."""

    work_dir: str
    stages: list[Stage]
    prepare: list[str]
    seed: int | None
    title: str
    note: str


def read_recipe(path: str | Path, long: bool = False) -> Recipe:
    """Read a recipe file, including the stages marked `long` only on request.

    Raises FileNotFoundError for a missing recipe or config, and ValueError for wrong stages.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'recipe {path} not found: pass a file like configs/quickstart/recipe.py'
        )
    cfg = Config.fromfile(str(path)).to_dict()
    stages: list[Stage] = []
    for entry in cfg.get('stages', []):
        if long or not entry.get('long'):
            stages.append(_read_stage(entry, [stage.name for stage in stages], path))
    if not stages:
        raise ValueError(f'{path} has no stages: expected `stages = [dict(name=…, config=…), …]`')
    return Recipe(
        work_dir=cfg.get('work_dir', f'work_dirs/{path.resolve().parent.name}'),
        stages=stages,
        prepare=cfg.get('prepare', []),
        seed=cfg.get('seed'),
        title=cfg.get('title', path.stem),
        note=cfg.get('note', ''),
    )


def _read_stage(entry: dict, earlier: list[str], path: Path) -> Stage:
    """Return a stage; its config is found from the current folder or those above the recipe."""
    try:
        stage = Stage(**entry)
    except TypeError as error:  # names the unknown or the missing key
        raise ValueError(f'{path}: wrong keys in the stage {entry}: {error}') from None
    for other in [*earlier, 'prepare']:
        if f'{stage.name}/'.startswith(f'{other}/') or f'{other}/'.startswith(f'{stage.name}/'):
            raise ValueError(
                f'{path}: stage {stage.name!r} would share a folder with {other!r}: choose another '
                'name'
            )
    for source in stage.weights.values():
        if source not in earlier:
            raise ValueError(
                f'{path}: stage {stage.name!r} takes weights from {source!r}; expected an earlier '
                f'stage: {", ".join(earlier) or "there is none"}'
            )
    for folder in (Path(), *path.resolve().parents):
        if (folder / stage.config).is_file():
            return replace(stage, config=str(folder / stage.config))
    raise FileNotFoundError(
        f'{path}: config {stage.config} of stage {stage.name!r} not found in {Path.cwd()}, '
        "the recipe's folder or a folder above it"
    )


def stage_options(stage: Stage, seed: int | None, overrides: list[str]) -> list[str]:
    """Return a stage's `--cfg-options` without its weights; `overrides` ('key=value') come last."""
    options = stage.options if seed is None else {**stage.options, 'randomness.seed': seed}
    return [f'{key}={_format_value(value)}' for key, value in options.items()] + overrides


def _format_value(value: object) -> str:
    """Write a value as mmengine's DictAction reads it."""
    if not isinstance(value, list | tuple):
        return str(value)
    items = ','.join(map(_format_value, value))
    return f'[{items}]' if isinstance(value, list) else f'({items})'


def parse_options(options: list[str]) -> dict:
    """Return `--cfg-options` ('key=value') as a dict."""
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=Options)
    return parser.parse_args(['--cfg-options', *options]).cfg_options or {}


def stage_length(stage: Stage, options: list[str]) -> tuple[str, int] | None:
    """Return ('epoch' or 'iter', their number) of a stage's training, None if it is not stated."""
    cfg = Config.fromfile(stage.config)
    cfg.merge_from_dict(parse_options(options))
    hook = cfg.get('default_hooks', {}).get('checkpoint', {})
    unit, length = ('epoch', 'max_epochs') if hook.get('by_epoch', True) else ('iter', 'max_iters')
    number = cfg.get('train_cfg', {}).get(length)
    return number and (unit, number)


def expected_checkpoint(stage: Stage, stage_dir: Path, options: list[str]) -> str:
    """Return the path of a stage's future last checkpoint, '<…>' if the config does not tell."""
    if length := stage_length(stage, options):
        return str(stage_dir / f'{length[0]}_{length[1]}.pth')
    return f'<last checkpoint in {stage_dir}>'
