"""Turn a scale and a choice of ablations into recipes, one per seed.

Stages are named 'tokenizer', 'pretrain/ABLATION' and 'TASK/LABELS/ABLATION'.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config
from recipe.chain import Recipe, Stage, stage_options
from recipe.records import digest

from beit_mm.utils.installation import find_file

from .ablations import ABLATIONS, BEIT, METRIC_OF_TASK
from .scale import Scale, apply_scale, data_options, write_ablation_config


@lru_cache
def _load(path: str) -> dict:
    return Config.fromfile(find_file(path)).to_dict()


def choose_ablations(scale: Scale, names: list[str] | None) -> list[str]:
    """Return the chosen ablations (default: the scale's) and those that they start from."""
    names = names or scale.cfg['ablations']
    if unknown := [name for name in names if name not in ABLATIONS]:
        raise ValueError(
            f'--ablations {" ".join(unknown)}: expected some of {", ".join(ABLATIONS)}'
        )
    needed = {*names, *(ABLATIONS[name].start for name in names)}
    return [name for name in ABLATIONS if name in needed]


def make_recipe(scale: Scale, names: list[str], seed: int, work_dir: Path) -> Recipe:
    """Return the recipe of one seed; its generated configs are written to `work_dir/configs`."""
    stages = [*_tokenizer_stages(scale, names), *_pretrain_stages(scale, names, work_dir)]
    for task in METRIC_OF_TASK:  # classification first, since it is the intermediate task
        stages += _task_stages(scale, names, task)
    prepare = [command.format(data=scale.data) for command in scale.cfg.get('prepare', [])]
    folder = str(work_dir / f'seed-{seed}')
    return Recipe(folder, stages, prepare, seed, f'{scale.name}, seed {seed}', '')


def _tokenizer_stages(scale: Scale, names: list[str]) -> Iterator[Stage]:
    needed = {ABLATIONS[name].tokenizer for name in names if _predicts_tokens(name)}
    for name, entry in scale.cfg['tokenizers'].items():
        if name in needed:
            options = _with_data(scale, entry['config'], entry.get('options', {}))
            yield Stage(name, find_file(entry['config']), options=options)


def _pretrain_stages(scale: Scale, names: list[str], work_dir: Path) -> Iterator[Stage]:
    for name in names:
        ablation = ABLATIONS[name]
        if ablation.config is None or ablation.start:
            continue
        path = work_dir / 'configs' / f'{name}.py'
        write_ablation_config(path, pretrain_config(scale, name), ablation.config)
        key = 'model.target.checkpoint'
        weights = {key: ablation.tokenizer} if _predicts_tokens(name) else {}
        yield Stage(f'pretrain/{name}', str(path), weights, _with_data(scale, str(path), {}))


def _task_stages(scale: Scale, names: list[str], task: str) -> Iterator[Stage]:
    entry = scale.cfg[task]
    for labels, label_options in entry['labels'].items():
        for name in names:
            ablation = ABLATIONS[name]
            is_shown = labels == entry['main'] or name in scale.cfg.get('curves', [])
            if task not in ablation.tasks or not is_shown:
                continue
            options = {**entry.get('options', {}), **label_options, **_backbone_options(name)}
            options |= entry['kinds'].get(ablation.kind, {})
            weights = {}
            if ablation.config:
                through = ablation.through
                source = f'{through}/{scale.cfg[through]["main"]}' if through else 'pretrain'
                key = 'model.backbone.init_cfg.checkpoint'
                weights[key] = f'{source}/{ablation.start or name}'
            config = find_file(entry['config'])
            options = _with_data(scale, config, options)
            yield Stage(f'{task}/{labels}/{name}', config, weights, options)


def pretrain_config(scale: Scale, name: str) -> dict:
    """Return the config of an ablation's pre-training at this scale."""
    ablation, entry = ABLATIONS[name], scale.cfg['pretrain']
    parts, whole = dict(entry.get('parts', {})), entry.get('whole', {})
    tokenizer = scale.cfg['tokenizers'].get(ablation.tokenizer, {})
    for part, values in tokenizer.get('parts', {}).items():
        parts[part] = parts.get(part, {}) | values
    cfg = apply_scale(_load(ablation.config), parts, whole)
    if ablation.length != 1:
        loop = apply_scale(_load(BEIT), parts, whole)['train_cfg']
        unit = 'max_iters' if 'max_iters' in loop else 'max_epochs'
        cfg['train_cfg'][unit] = round(loop[unit] * ablation.length)
    return cfg


def _predicts_tokens(name: str) -> bool:
    config = ABLATIONS[name].config
    return bool(config) and _load(config)['model']['target']['type'] == 'TokenTarget'


def _backbone_options(name: str) -> dict[str, object]:
    """Return options that give a fine-tuned backbone the parts of its pre-trained one or BEiT."""
    backbone = _load(ABLATIONS[name].config or BEIT)['model']['backbone']
    return {
        'model.backbone.abs_pos_embed': backbone.get('abs_pos_embed', False),
        'model.backbone.rel_pos_bias': backbone.get('rel_pos_bias') and 'per_layer',
        'model.backbone.layer_scale': backbone.get('layer_scale'),
    }


def _with_data(scale: Scale, config: str, options: dict) -> dict:
    return options if scale.data == 'data' else data_options(_load(config), scale.data) | options


def stage_digests(recipe: Recipe, overrides: list[str]) -> dict[str, str]:
    """Return per stage the digest of what determines its result: config, options, data, sources.

    How the log is shown (`visualizer`) does not count.
    """
    found: dict[str, str] = {}
    for stage in recipe.stages:
        sources = {key: found[source] for key, source in stage.weights.items()}
        config = {key: value for key, value in _load(stage.config).items() if key != 'visualizer'}
        options = stage_options(stage, recipe.seed, overrides)
        found[stage.name] = digest([config, options, recipe.prepare, sources])[:16]
    return found


def missing_stages(
    recipe: Recipe, digests: dict[str, str], finished: dict[str, dict]
) -> tuple[str, ...]:
    """Return the stages without a result of this digest, and the stages that they start from."""
    needed: set[str] = set()
    for stage in reversed(recipe.stages):
        digest_before = finished.get(stage.name, {}).get('digest')
        if stage.name in needed or digest_before != digests[stage.name]:
            needed |= {stage.name, *stage.weights.values()}
    return tuple(stage.name for stage in recipe.stages if stage.name in needed)
