"""Check loops, hooks and folders against the length of the run."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ..utils.config_tree import find, get, kind
from .finding import Finding


def check_loop(cfg: dict) -> Iterator[Finding]:
    """Yield a loop that does not fit its sampler, its checkpoints or its validation."""
    train, hook = cfg.get('train_cfg') or {}, get(cfg, 'default_hooks', 'checkpoint') or {}
    by_epoch = 'max_epochs' in train and 'max_iters' not in train
    length = train.get('max_epochs' if by_epoch else 'max_iters') or 0
    if not by_epoch and hook and hook.get('by_epoch', True) and not hook.get('save_best'):
        effect = (
            'the run counts iterations, so only one checkpoint is written, at its end: '
            'set by_epoch=False'
        )
        yield Finding('default_hooks.checkpoint.by_epoch', effect, stops=False)
    if by_epoch and get(cfg, 'train_dataloader', 'sampler', 'infinite'):
        yield Finding('train_dataloader.sampler.infinite', 'an epoch never ends: set it to False')
    interval = train.get('val_interval', 1 if by_epoch else 1000)
    what = f'train_cfg.val_interval={interval}'
    if cfg.get('val_dataloader') and interval < 1:
        effect = (
            'expected at least 1. For no validation set val_dataloader, val_cfg and val_evaluator '
            'to None'
        )
        yield Finding(what, effect)
    if cfg.get('val_dataloader') and length and interval > length:
        yield Finding(what, f'the run ends before, at {length}', stops=False)


def check_anneal_hooks(cfg: dict) -> Iterator[Finding]:
    length = get(cfg, 'train_cfg', 'max_iters')
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if kind(hook) == 'Anneal' and length and hook['iters'] > length:
            effect = (
                f'the run has {length} iterations, so {hook["attribute"]} does not reach '
                f'{hook["end"]:.3g}. Set it to {length}'
            )
            yield Finding(f'custom_hooks.{i}.iters={hook["iters"]}', effect, stops=False)


def check_vocabularies(cfg: dict) -> Iterator[Finding]:
    model, metric = cfg.get('model') or {}, find(cfg.get('val_evaluator'), 'TokenizerMetric')
    if metric and kind(model) == 'DiscreteVAE':
        given, expected = metric.get('vocab_size'), model.get('vocab_size')
        if given != expected:
            yield Finding(
                f'val_evaluator.vocab_size={given}', f'the tokenizer has {expected} codes'
            )


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
