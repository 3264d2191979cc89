"""Metrics of a config: which keys they report, and whether the best checkpoint can be chosen by them."""

from collections.abc import Iterator
from difflib import get_close_matches

from mmengine.hooks import CheckpointHook

from ..utils.config_tree import get, kind
from .names import Problem, walk

TOKENIZER = (
    'psnr',
    'psnr_mean_color',
    'reconstruction',
    'kl',
    'elbo',
    'vocab_size',
    'codes_used',
    'perplexity',
)
FIGURES = ('val_loss', 'marginal_entropy', 'marginal_accuracy')
MIM = (
    *(*FIGURES, 'masked_accuracy', 'token_term', 'pixel_term', 'eq3'),
    *(f'{name}_all' for name in (*FIGURES, 'accuracy')),
)
OF_SEGMENTS = dict(
    mIoU=('mIoU', 'mAcc'), mDice=('mDice', 'mAcc'), mFscore=('mFscore', 'mPrecision', 'mRecall')
)
RULES = 'greater', 'less'


def reported(metric: dict) -> list[str] | None:
    """Return the keys that a metric can report, in its order; None for a metric that is not known here."""
    name, prefix = kind(metric), metric.get('prefix')
    if name == 'TokenizerMetric':
        keys, own = TOKENIZER, 'tokenizer'
    elif name == 'MIMMetric':
        keys, own = MIM, 'mim'
    elif name == 'Accuracy' and not metric.get('thrs'):
        keys, own = [f'top{k}' for k in _as_list(metric.get('topk', 1))], 'accuracy'
    elif name == 'IoUMetric':
        asked = _as_list(metric.get('iou_metrics', 'mIoU'))
        keys, own = (
            ['aAcc', *dict.fromkeys(key for each in asked for key in OF_SEGMENTS[each])],
            None,
        )
    else:
        return None
    prefix = prefix or own
    return [f'{prefix}/{key}' if prefix else key for key in keys]


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


def best_checkpoint_can_be_chosen(cfg: dict) -> Iterator[Problem]:
    """Yield what is wrong with `save_best` and `rule` of the checkpoint hook."""
    hook, place = get(cfg, 'default_hooks', 'checkpoint') or {}, 'default_hooks.checkpoint'
    wanted, metrics = hook.get('save_best'), cfg.get('val_evaluator')
    if not wanted:
        return
    if not metrics:
        yield Problem(
            f'{place}.save_best={wanted!r} has no effect: the run has no val_evaluator', stops=False
        )
        return
    lists = [reported(metric) for metric in _as_list(metrics)]
    keys = [key for each in lists for key in each or ()]
    rules = _as_list(hook.get('rule'))
    wanted = _as_list(wanted)
    for key, rule in zip(wanted, rules * len(wanted) if len(rules) == 1 else rules, strict=False):
        if rule not in (None, *RULES):
            yield Problem(f"{place}.rule={rule!r}: expected 'greater' or 'less'")
        elif key == 'auto':
            if None not in lists and 'mIoU' in keys:
                yield Problem(
                    f"{place}.save_best='auto' keeps the checkpoint of the best {keys[0]}, which common classes decide: set "
                    "save_best='mIoU'",
                    stops=False,
                )
            elif lists[0] and rule is None and _inferred(keys[0], hook) is None:
                yield Problem(
                    f"{place}.save_best='auto' takes the first metric, {keys[0]}, for which mmengine cannot infer a rule: set "
                    f"save_best='{keys[0]}' and rule='greater'"
                )
        elif None not in lists and key not in keys:
            near = get_close_matches(key.lower(), [each.lower() for each in keys], n=1, cutoff=0.4)
            meant = next(
                (f': did you mean {each!r}?' for each in keys if [each.lower()] == near), ''
            )
            yield Problem(
                f'{place}.save_best={key!r} is not reported by val_evaluator, which reports {", ".join(keys)}{meant}'
            )
        elif rule is None and _inferred(key, hook) is None:
            yield Problem(
                f"{place}.save_best={key!r} needs a rule: set rule='greater' or rule='less'"
            )
        elif rule and _inferred(key, hook) not in (None, rule):
            yield Problem(
                f'{place}.rule={rule!r} keeps the worst {key}: set rule={_inferred(key, hook)!r}'
            )


def _inferred(key: str, hook: dict) -> str | None:
    """Return the rule that mmengine's CheckpointHook infers for a key."""
    names = [
        [
            name.lower()
            for name in _as_list(
                hook.get(f'{rule}_keys') or getattr(CheckpointHook, f'_default_{rule}_keys')
            )
        ]
        for rule in RULES
    ]
    found = [rule for rule, own in zip(RULES, names, strict=True) if key.lower() in own]
    found += [
        rule
        for rule, own in zip(RULES, names, strict=True)
        if any(name in key.lower() for name in own)
    ]
    return found[0] if found else None


def topk_is_within_the_classes(cfg: dict) -> Iterator[Problem]:
    classes = get(cfg, 'model', 'head', 'num_classes')
    for path, node in walk(cfg.get('val_evaluator'), 'val_evaluator'):
        if kind(node) == 'Accuracy' and classes and max(_as_list(node.get('topk', 1))) > classes:
            yield Problem(
                f'{path}.topk={node["topk"]}, but model.head has {classes} classes: set topk=1'
            )
