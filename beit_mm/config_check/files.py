"""Check that the files and folders of a config exist."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..checkpoint.download import is_missing
from ..utils.config_tree import get, kind, walk
from ..utils.installation import command
from .finding import Finding
from .names import accepted_arguments, find_classes

LOADERS = 'train_dataloader', 'val_dataloader', 'test_dataloader'
HOLDERS = 'Pretrained', 'TokenTarget', 'Teacher'  # types with a checkpoint


def local_datasets(cfg: dict, loaders: tuple[str, ...] = LOADERS) -> Iterator[tuple[str, dict]]:
    """Yield (path, config) of each data set that names files on this machine."""
    for loader in loaders:
        for path, node in walk(get(cfg, loader, 'dataset'), f'{loader}.dataset'):
            names_files = kind(node) and {'data_root', 'data_prefix', 'ann_file'} & set(node)
            remote = node.get('backend_args') or '://' in str(node.get('data_root'))
            if names_files and not remote:
                yield path, node


def check_files(cfg: dict) -> Iterator[Finding]:
    for path, node in local_datasets(cfg, LOADERS[:2]):
        for place in _places(node, cfg.get('default_scope')):
            if not os.path.exists(place):
                yield Finding(path, f'{place} not found')
                break  # nothing in it is found either
            if os.path.isdir(place) and not any(os.scandir(place)):
                yield Finding(path, f'{place} is empty')
    loaders = [name for name in LOADERS[:2] if cfg.get(name)]
    caches = {name: get(cfg, name, 'dataset', 'token_cache') for name in loaders}
    parts = {key: cfg.get(key) for key in ('model', 'val_evaluator')}
    for path, node in walk(parts):
        named = node.get('ann_file') or (node.get('checkpoint') if kind(node) in HOLDERS else None)
        if named and is_missing(named):
            yield Finding(path, f'{named} not found')
        if kind(node) == 'Teacher' and not named:
            effect = 'the teacher has no weights: set its checkpoint, see docs/tokenizers.md'
            yield Finding(path, effect)
        if kind(node) == 'TokenTarget' and not named and not all(caches.values()):
            effect = 'no tokenizer is given: train one, and set model.target.checkpoint to its file'
            yield Finding(path, effect)
    for name, cache in caches.items():
        if cache and not Path(cache, 'about.json').exists():
            effect = f'this is no token cache: write it with `{command("cache_tokens")}`'
            yield Finding(f'{name}.dataset.token_cache={cache}', effect)
    if cfg.get('load_from') and is_missing(cfg['load_from']):
        yield Finding('load_from', f'{cfg["load_from"]} not found')


def _places(node: dict, scope: str | None) -> Iterator[str]:
    """Yield the folder of a data set, and the folders and lists in it."""
    base, prefix = node.get('data_root') or '', node.get('data_prefix') or ''
    classes = find_classes(node['type'], node.get('_scope_', scope or 'mmengine'))
    if any('download' in (accepted_arguments(each) or ()) for each in classes):
        return
    if kind(node) in ('ImageNet', 'ImageNet21k'):
        prefix = prefix or node.get('split') or ''
    if base:
        yield base
    parts = [*(prefix.values() if isinstance(prefix, dict) else [prefix]), node.get('ann_file')]
    yield from (os.path.join(base, part) for part in parts if part and '://' not in part)
