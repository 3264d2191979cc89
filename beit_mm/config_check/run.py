"""Check loops, loaders, hooks and folders of a run."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ..utils.config_tree import find, get, kind, walk
from .files import LOADERS
from .finding import Finding
from .names import is_tokenizer

# Heads of mmseg that pool to 1×1 before a norm.
POOLING_HEADS = 'UPerHead', 'PSPHead', 'ASPPHead', 'DepthwiseSeparableASPPHead'


def check_loop(cfg: dict) -> Iterator[Finding]:
    """Yield a loop that does not fit its sampler, its checkpoints or its validation."""
    train, hook = cfg.get('train_cfg') or {}, get(cfg, 'default_hooks', 'checkpoint') or {}
    by_epoch = 'max_epochs' in train and 'max_iters' not in train
    if not by_epoch and hook and hook.get('by_epoch', True) and not hook.get('save_best'):
        effect = 'only one checkpoint is written, at the end: set by_epoch=False'
        yield Finding('default_hooks.checkpoint.by_epoch', effect, stops=False)
    if by_epoch and get(cfg, 'train_dataloader', 'sampler', 'infinite'):
        yield Finding('train_dataloader.sampler.infinite', 'an epoch never ends: set it to False')
    interval = train.get('val_interval', 1 if by_epoch else 1000)
    if cfg.get('val_dataloader') and interval < 1:
        off = 'val_dataloader=None val_cfg=None val_evaluator=None'
        what = f'train_cfg.val_interval={interval}'
        yield Finding(what, f'expected at least 1. For no validation set {off}')


def check_schedules(cfg: dict) -> Iterator[Finding]:
    """Yield a scheduler that begins after the end of the run, which is where it would end."""
    train, given = cfg.get('train_cfg') or {}, cfg.get('param_scheduler') or []
    unit = 'iters' if 'max_iters' in train else 'epochs'
    length = train.get(f'max_{unit}')
    for i, scheduler in enumerate(given if isinstance(given, list | tuple) else [given]):
        begin, by_epoch = scheduler.get('begin', 0), scheduler.get('by_epoch', True)
        has_run_unit = by_epoch == (unit == 'epochs')
        if length and has_run_unit and scheduler.get('end') is None and begin >= length:
            effect = f'the run ends at {length}: raise train_cfg.max_{unit}, or shorten the warm-up'
            yield Finding(f'param_scheduler.{i}.begin={begin}', effect)


def check_anneal_hooks(cfg: dict) -> Iterator[Finding]:
    length = get(cfg, 'train_cfg', 'max_iters')
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if kind(hook) == 'Anneal' and length and (hook.get('iters') or 0) > length:
            effect = f'{hook["attribute"]} does not reach {hook["end"]:.3g}. Set it to {length}'
            yield Finding(f'custom_hooks.{i}.iters={hook["iters"]}', effect, stops=False)


def check_vocabularies(cfg: dict) -> Iterator[Finding]:
    model, metric = cfg.get('model') or {}, find(cfg.get('val_evaluator'), 'TokenizerMetric')
    if metric and is_tokenizer(model, cfg):
        given, expected = metric.get('vocab_size'), model.get('vocab_size')
        if expected and given != expected:
            effect = f'the tokenizer has {expected} codes'
            yield Finding(f'val_evaluator.vocab_size={given}', effect)


def check_workers(cfg: dict) -> Iterator[Finding]:
    for name in LOADERS[:2]:
        loader = cfg.get(name) or {}
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key) and not loader.get('num_workers'):
                effect = f'num_workers is 0. Set num_workers to at least 1, or remove {key}'
                yield Finding(f'{name}.{key}={loader[key]}', effect)


def check_palettes(cfg: dict) -> Iterator[Finding]:
    for name in LOADERS[:2]:
        for path, node in walk(get(cfg, name, 'dataset'), f'{name}.dataset'):
            classes, palette = (get(node, 'metainfo', key) for key in ('classes', 'palette'))
            if classes and palette and len(classes) != len(palette):
                effect = f'{len(classes)} classes and {len(palette)} colors in the palette'
                yield Finding(f'{path}.metainfo', f'{effect}: make the numbers equal')


def check_batch_norm(cfg: dict) -> Iterator[Finding]:
    """Yield a batch of one image for a head that normalizes 1×1 maps over the batch."""
    if get(cfg, 'train_dataloader', 'batch_size') != 1:
        return
    for path, head in walk(cfg.get('model'), 'model'):
        norm = kind(head.get('norm_cfg'))
        if kind(head) in POOLING_HEADS and 1 in head.get('pool_scales', (1,)) and norm[:2] == 'BN':
            effect = (
                f'{path} pools to 1×1, and {norm} needs more than one value per channel. Set '
                "batch_size=2, or norm_cfg=dict(type='GN', num_groups=32)"
            )
            yield Finding('train_dataloader.batch_size=1', effect)


def check_pretrained(cfg: dict) -> Iterator[Finding]:
    """Yield `init_cfg` without a checkpoint where mmengine needs one."""
    for path, node in walk(cfg.get('model'), 'model'):
        init = node.get('init_cfg')
        takes_none = kind(node) == 'BEiT' or is_tokenizer(node, cfg)
        if kind(init) == 'Pretrained' and not init.get('checkpoint') and not takes_none:
            effect = 'checkpoint is missing. Remove init_cfg to start from scratch'
            yield Finding(f'{path}.init_cfg', effect)


def check_work_dir(cfg: dict) -> Iterator[Finding]:
    """Yield a `work_dir` in which no folder can be made."""
    if not cfg.get('work_dir'):
        return
    folder = Path(cfg['work_dir']).expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        effect = f'no folder can be made in {folder} ({error.strerror}): set another work_dir'
        yield Finding(f'work_dir={cfg["work_dir"]}', effect)
