"""What is wrong with a config, found before the first iteration: all of it in one list, without building anything real.

A rule is a function config → problems. Those about the recipe itself are `CONTRADICTIONS` of `tools/recipe.py check`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mmengine.config import Config

from ..checkpoint.download import is_missing
from ..utils.config_tree import find, get, kind, nodes
from . import comparison as check
from .comparison import CONTRADICTIONS, show
from .images import channel_order, channels, image_sizes, sizes_when_testing
from .labels import ignored_labels, labels, unnamed_classes
from .metrics import best_checkpoint_can_be_chosen, topk_is_within_the_classes
from .names import (
    Problem,
    accepted,
    find_classes,
    forms,
    names_of_the_runner,
    optimizer_keys,
    types_and_keys,
    walk,
)
from .paper import nearest
from .run import anneals_end_with_the_run, batches, palettes, work_dir_can_be_written, workers
from .summary import facts
from .weights import weights_fit

Rule = Callable[[dict], Iterator[Problem]]
# What a few iterations to try something bring with them: `--cfg-options train_cfg.max_iters=9` has to run.
SHORT_TRIES = (
    check.rate_is_meant_for_the_batch,
    check.schedule_ends_with_the_run,
    check.warmup_is_shorter_than_the_run,
)


def preflight(cfg: Config, ranks: int = 1) -> list[Problem]:
    """All problems of training with `cfg` on so many processes, those that stop first."""
    plain = cfg.to_dict()
    find_classes.cache_clear()
    found = list(forms(plain))
    if not found:  # the rules take these forms for granted
        found = [problem for rule in RULES for problem in judged(rule, plain)]
        found += judged(batches, plain, ranks)
        found += judged(contradictions, plain, ranks)
        found += judged(weights, plain, any(p.stops for p in found))
    return sorted(dict.fromkeys(found), key=lambda problem: not problem.stops)


def report(cfg: Config, problems: list[Problem]) -> str:
    """The problems in words, a line each; ✗ marks those that stop."""
    name = Path(cfg.filename).name if cfg.filename else 'this config'
    lines = [f'  {"✗" if problem.stops else "!"} {problem.words}' for problem in problems]
    return '\n'.join(
        [
            f'{name}: {sum(p.stops for p in problems)} mistakes (✗), {len(problems)} remarks in all',
            *lines,
        ]
    )


def judged(rule: Callable, cfg: dict, *more: object) -> list[Problem]:
    """What a rule finds; a config that it stumbles over has a value of an unknown form deeper down, which the run will name."""
    found = []
    try:
        found.extend(rule(cfg, *more))
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        words = rule.__name__.replace('_', ' ')
        found.append(
            Problem(f'{words}: not all could be read, {type(error).__name__}: {error}', stops=False)
        )
    return found


# -- files and classes -------------------------------------------------------------------------------------------------


def data_sets(cfg: dict) -> Iterator[tuple[str, dict]]:
    """What training reads from: (place in the config, the data set that names files)."""
    for loader in ('train_dataloader', 'val_dataloader'):
        for path, node in walk(get(cfg, loader, 'dataset'), f'{loader}.dataset'):
            if isinstance(node.get('type'), str) and {'data_root', 'data_prefix', 'ann_file'} & set(
                node
            ):
                yield path, node


def files(cfg: dict) -> Iterator[Problem]:
    for path, node in data_sets(cfg):
        for place in _places(node, cfg.get('default_scope')):
            if not os.path.exists(place):
                yield Problem(f'{path}: {place} not found')
                break  # what lies in it is not found either
            if os.path.isdir(place) and not any(os.scandir(place)):
                yield Problem(f'{path}: {place} is empty')
    for path, node in [
        *walk(cfg.get('model'), 'model'),
        *walk(cfg.get('val_evaluator'), 'val_evaluator'),
    ]:
        named = (
            node.get('ann_file')
            or (kind(node) in ('Pretrained', 'TokenTarget') and node.get('checkpoint'))
            or ''
        )
        if named and is_missing(named):
            yield Problem(f'{path}: {named} not found')
        if (
            kind(node) == 'TokenTarget'
            and not node.get('checkpoint')
            and not _tokens_are_cached(cfg)
        ):
            yield Problem(
                f'{path}: no tokenizer is given; train one, then set model.target.checkpoint to its file'
            )
    for name in ('train_dataloader', 'val_dataloader'):
        cache = get(cfg, name, 'dataset', 'token_cache')
        if cache and not Path(cache, 'about.json').exists():
            yield Problem(
                f'{name}.dataset.token_cache: {cache} is no token cache; make it by tools/cache_tokens.py'
            )
    load = cfg.get('load_from')
    if load and is_missing(load):
        yield Problem(f'load_from: {load} not found')


def _tokens_are_cached(cfg: dict) -> bool:
    """No image of this run needs a tokenizer."""
    loaders = [cfg[name] for name in ('train_dataloader', 'val_dataloader') if cfg.get(name)]
    return all(get(loader, 'dataset', 'token_cache') for loader in loaders)


def _places(node: dict, scope: str | None) -> Iterator[str]:
    base, prefix = node.get('data_root') or '', node.get('data_prefix') or ''
    if (
        '://' in base
        or node.get('backend_args')
        or any('download' in (accepted(c) or ()) for c in _classes(node, scope))
    ):
        return
    if kind(node) in ('ImageNet', 'ImageNet21k'):
        prefix = prefix or node.get('split') or ''
    inside = [*(prefix.values() if isinstance(prefix, dict) else [prefix]), node.get('ann_file')]
    yield from filter(
        None, [base, *(os.path.join(base, each) for each in inside if each and '://' not in each)]
    )


def _classes(node: dict, scope: str | None) -> list[type]:
    return find_classes(node['type'], node.get('_scope_', scope or 'mmengine'))


def classes_of_the_head(cfg: dict) -> Iterator[Problem]:
    model = cfg.get('model') or {}
    heads = {
        path: node['num_classes']
        for name in ('head', 'decode_head', 'auxiliary_head', 'bbox_head')
        for path, node in walk(model.get(name), f'model.{name}')
        if isinstance(node.get('num_classes'), int)
        and kind(node) != 'STDCHead'  # which may predict edges
    }
    for path, node in data_sets(cfg):
        number = _number_of_classes(node, cfg.get('default_scope'))
        for head, width in heads.items():
            if number and width != number:
                yield Problem(f'{head}.num_classes={width}, but {path} has {number} classes')
    given = get(cfg, 'data_preprocessor', 'num_classes') or get(
        model, 'data_preprocessor', 'num_classes'
    )
    if given and heads and given not in heads.values():
        yield Problem(
            f'data_preprocessor.num_classes={given}, but the head has {next(iter(heads.values()))}'
        )


def _number_of_classes(node: dict, scope: str | None) -> int | None:
    """As named in the config, or by the data set's class, or by its folders; None where it cannot be told at once."""
    if node.get('with_label') is False:
        return None
    named = node.get('classes') or get(node, 'metainfo', 'classes')
    named = named or next(
        (
            c.METAINFO['classes']
            for c in _classes(node, scope)
            if get(getattr(c, 'METAINFO', 0), 'classes')
        ),
        None,
    )
    if isinstance(named, list | tuple):
        return len(named)
    if (
        kind(node) == 'CustomDataset'
        and not node.get('ann_file')
        and isinstance(node.get('data_prefix', ''), str)
    ):
        folder = Path(node.get('data_root') or '', node.get('data_prefix') or '')
        return sum(each.is_dir() for each in os.scandir(folder)) if folder.is_dir() else None
    return None


# -- the run -----------------------------------------------------------------------------------------------------------


def loop_and_hooks_count_alike(cfg: dict) -> Iterator[Problem]:
    train, hook = cfg.get('train_cfg') or {}, get(cfg, 'default_hooks', 'checkpoint') or {}
    by_epoch = 'max_epochs' in train and 'max_iters' not in train
    length = train.get('max_epochs' if by_epoch else 'max_iters') or 0
    if not by_epoch and hook and hook.get('by_epoch', True) and not hook.get('save_best'):
        words = 'the run counts iterations and its checkpoints epochs: one is written, at its end'
        yield Problem(f'{words}. Set default_hooks.checkpoint.by_epoch=False', stops=False)
    if by_epoch and get(cfg, 'train_dataloader', 'sampler', 'infinite'):
        yield Problem(
            'the sampler is infinite, so an epoch never ends: set train_dataloader.sampler.infinite=False'
        )
    interval = train.get('val_interval', 1 if by_epoch else 1000)
    if cfg.get('val_dataloader') and interval < 1:
        words = 'expected at least 1. For no validation set val_dataloader, val_cfg and val_evaluator to None'
        yield Problem(f'train_cfg.val_interval={interval}: {words}')
    if cfg.get('val_dataloader') and length and interval > length:
        yield Problem(
            f'train_cfg.val_interval={interval} is beyond the run of {length}', stops=False
        )
    together = [
        name for name in ('val_dataloader', 'val_cfg', 'val_evaluator') if cfg.get(name) is not None
    ]
    if len(together) in (1, 2):
        yield Problem(
            f'of val_dataloader, val_cfg and val_evaluator there is only {" and ".join(together)}: give all or none'
        )


def vocabularies(cfg: dict) -> Iterator[Problem]:
    model, metric = cfg.get('model') or {}, find(cfg.get('val_evaluator'), 'TokenizerMetric')
    if (
        metric
        and kind(model) == 'DiscreteVAE'
        and metric.get('vocab_size') != model.get('vocab_size')
    ):
        given = metric.get('vocab_size')
        yield Problem(
            f'val_evaluator.vocab_size={given}, but the tokenizer has {model.get("vocab_size")} codes'
        )


def contradictions(cfg: dict, ranks: int) -> Iterator[Problem]:
    try:
        found = facts(cfg, ranks)
    except ValueError:  # no BEiT
        return
    except (AttributeError, KeyError, TypeError) as error:
        yield Problem(f'the recipe cannot be read: {type(error).__name__}: {error}', stops=False)
        return
    row = nearest(found)[0]
    for rule in CONTRADICTIONS:
        for finding in filter(lambda finding: finding.contradiction, rule(found, row)):
            words = f'{finding.what}: {show(finding.yours)}; {finding.effect}'
            yield Problem(words, stops=rule not in SHORT_TRIES)


def weights(cfg: dict, stopped: bool) -> Iterator[Problem]:
    """What the run starts from, held against a model without memory, which is built for that alone."""
    starts = any(
        kind(node) in ('Pretrained', 'TokenTarget') and node.get('checkpoint')
        for node in nodes(cfg.get('model'))
    )
    if not starts and (not cfg.get('load_from') or cfg.get('resume')):
        return
    try:
        yield from (Problem(words, stops) for words, stops in weights_fit(cfg))
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        if not stopped:  # a mistake that is named already may be why
            yield Problem(f'the model cannot be built: {error}')


RULES: list[Rule] = [
    names_of_the_runner,
    types_and_keys,
    optimizer_keys,
    files,
    classes_of_the_head,
    labels,
    ignored_labels,
    unnamed_classes,
    loop_and_hooks_count_alike,
    vocabularies,
    best_checkpoint_can_be_chosen,
    topk_is_within_the_classes,
    workers,
    work_dir_can_be_written,
    anneals_end_with_the_run,
    palettes,
    image_sizes,
    sizes_when_testing,
    channels,
    channel_order,
]
