"""A scale and a choice of rows as chains of stages: one recipe a seed, for the chain runner of `recipe`.

A scale is a Python config (configs/reproduce/):

    data, prepare = 'data/…', ['python -m …']      # the data set and the commands that draw it
    seeds, rows = 6, ['scratch', 'beit', …]        # by default; rows are those of `reproduce.rows`
    tokenizers = dict(tokenizer=dict(config=…, options={…}))
    pretrain = dict(parts={…}, whole={…})          # laid over each row's config by `scale.scaled`
    classification = dict(config=…, options={…},   # options on a config, as --cfg-options has them
        kinds=dict(scratch={…}, pretrained={…}),   # of rows: the learning rates
        labels={'1200': {…}, …}, main='1200')      # how many labels: one for all rows, all of them for `curves`
    segmentation = …
    curves = ['scratch', 'beit']

Stages are named 'tokenizer', 'pretrain/ROW' and 'TASK/LABELS/ROW'.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config
from recipe.chain import Recipe, Stage, stage_options

from . import scale as scaling
from .rows import BEIT, ROWS, TASKS

_BACKBONE = 'model.backbone.init_cfg.checkpoint'
_MODEL = 'model.backbone.'


@dataclass(frozen=True)
class Scale:
    """The file, its name, its content, and where the data lie."""

    path: Path
    name: str
    cfg: dict
    data: str

    @classmethod
    def read(cls, path: Path, data: str | None = None) -> 'Scale':
        """Raises FileNotFoundError for a file that is not there."""
        if not path.is_file():
            there = ', '.join(sorted(file.stem for file in path.parent.glob('*.py')))
            raise FileNotFoundError(f'no scale {path.stem}: {path.parent} has {there}')
        cfg = Config.fromfile(str(path)).to_dict()
        return cls(path, path.stem, cfg, data or cfg['data'])


@lru_cache
def _load(path: str) -> dict:
    return Config.fromfile(path).to_dict()


def rows_of(scale: Scale, chosen: list[str] | None) -> list[str]:
    """The rows to run, in the order of `ROWS`, with those that they start from. Raises ValueError for an unknown one."""
    names = chosen or scale.cfg['rows']
    if unknown := [name for name in names if name not in ROWS]:
        raise ValueError(f'--rows {" ".join(unknown)}: known are {", ".join(ROWS)}')
    needed = {*names, *(ROWS[name].start for name in names)}
    return [row for row in ROWS if row in needed]


def recipe(scale: Scale, rows: list[str], seed: int, work_dir: Path) -> Recipe:
    """The chain of one seed; the configs that are made for it lie in `work_dir/configs`."""
    stages = [*_tokenizers(scale, rows), *_pretrainings(scale, rows, work_dir)]
    for task in TASKS:  # classification first: the intermediate task
        stages += _tuned(scale, rows, task)
    prepare = [command.format(data=scale.data) for command in scale.cfg.get('prepare', [])]
    return Recipe(
        str(work_dir / f'seed-{seed}'), stages, prepare, seed, f'{scale.name}, seed {seed}', ''
    )


def _tokenizers(scale: Scale, rows: list[str]) -> Iterator[Stage]:
    needed = {ROWS[row].tokenizer for row in rows if ROWS[row].config and _targets_tokens(row)}
    for name, entry in scale.cfg['tokenizers'].items():
        if name in needed:
            yield Stage(
                name,
                entry['config'],
                options=_options(scale, entry['config'], entry.get('options', {})),
            )


def _targets_tokens(row: str) -> bool:
    return _load(ROWS[row].config)['model']['target']['type'] == 'TokenTarget'


def pretrain_config(scale: Scale, row: str) -> dict:
    """A row's pre-training at this scale."""
    own = scale.cfg['pretrain']
    parts = dict(own.get('parts', {}))
    for part, values in (
        scale.cfg['tokenizers'].get(ROWS[row].tokenizer, {}).get('parts', {}).items()
    ):
        parts[part] = parts.get(part, {}) | values
    cfg = scaling.scaled(_load(ROWS[row].config), parts, own.get('whole', {}))
    if ROWS[row].length != 1:
        base = scaling.scaled(_load(BEIT), parts, own.get('whole', {}))['train_cfg']
        unit = 'max_iters' if 'max_iters' in base else 'max_epochs'
        cfg['train_cfg'][unit] = round(base[unit] * ROWS[row].length)
    return cfg


def _pretrainings(scale: Scale, rows: list[str], work_dir: Path) -> Iterator[Stage]:
    for row in rows:
        if ROWS[row].config is None or ROWS[row].start:
            continue
        path = work_dir / 'configs' / f'{row}.py'
        scaling.write(path, pretrain_config(scale, row), ROWS[row].config)
        weights = {'model.target.checkpoint': ROWS[row].tokenizer} if _targets_tokens(row) else {}
        yield Stage(f'pretrain/{row}', str(path), weights, _options(scale, str(path), {}))


def _tuned(scale: Scale, rows: list[str], task: str) -> Iterator[Stage]:
    entry = scale.cfg[task]
    for labels, of_labels in entry['labels'].items():
        for row in rows:
            one = ROWS[row]
            if task not in one.tasks or (
                labels != entry['main'] and row not in scale.cfg.get('curves', [])
            ):
                continue
            weights = {}
            if one.config:
                origin = (
                    f'{one.through}/{scale.cfg[one.through]["main"]}' if one.through else 'pretrain'
                )
                weights[_BACKBONE] = f'{origin}/{one.start or row}'
            options = (
                entry.get('options', {})
                | of_labels
                | _architecture(row)
                | entry['kinds'].get(one.kind, {})
            )
            yield Stage(
                f'{task}/{labels}/{row}',
                entry['config'],
                weights,
                _options(scale, entry['config'], options),
            )


def _architecture(row: str) -> dict[str, object]:
    """Options that give a fine-tuning the form of the network that was pre-trained; without one BEiT's."""
    backbone = _load(ROWS[row].config or BEIT)['model']['backbone']
    bias = backbone.get('rel_pos_bias') and 'per_layer'
    form = dict(
        abs_pos_embed=backbone.get('abs_pos_embed', False),
        rel_pos_bias=bias,
        layer_scale=backbone.get('layer_scale'),
    )
    return {_MODEL + key: value for key, value in form.items()}


def _options(scale: Scale, config: str, options: dict) -> dict:
    return (
        scaling.data_options(_load(config), scale.data) if scale.data != 'data' else {}
    ) | options


# -- what was run already ----------------------------------------------------------------------------------------------


def keys(recipe: Recipe, overrides: list[str]) -> dict[str, str]:
    """Return for each stage the digest of all that decides its result: config, options, seed, data, and its sources'.

    How a config's log is shown (`visualizer`) decides nothing.
    """
    found: dict[str, str] = {}
    for stage in recipe.stages:
        sources = {key: found[source] for key, source in stage.weights.items()}
        config = {key: value for key, value in _load(stage.config).items() if key != 'visualizer'}
        content = [config, stage_options(stage, recipe.seed, overrides), recipe.prepare, sources]
        text = json.dumps(content, sort_keys=True, default=str)
        found[stage.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def missing(recipe: Recipe, current: dict[str, str], done: dict[str, str]) -> tuple[str, ...]:
    """The stages whose digest is not in `done` (stage → digest), with those that they start from."""
    wanted: set[str] = set()
    for stage in reversed(recipe.stages):
        if stage.name in wanted or done.get(stage.name) != current[stage.name]:
            wanted |= {stage.name, *stage.weights.values()}
    return tuple(stage.name for stage in recipe.stages if stage.name in wanted)
