"""Check that the best checkpoint can be chosen by a metric that validation reports."""

from collections.abc import Iterator
from difflib import get_close_matches

from mmengine.hooks import CheckpointHook

from ..utils.config_tree import get, kind, walk
from .finding import Finding
from .renamed import explain_renamed

TOKENIZER_KEYS = (
    'psnr', 'psnr_mean_color', 'reconstruction', 'kl', 'elbo', 'vocab_size', 'codes_used',
    'perplexity',
)  # fmt: skip
MIM_KEYS = (
    'val_loss', 'marginal_entropy', 'marginal_accuracy', 'masked_accuracy', 'log_p_tokens',
    'log_p_pixels', 'eq3', 'val_loss_all', 'marginal_entropy_all', 'marginal_accuracy_all',
    'accuracy_all',
)  # fmt: skip
LESS_IS_BETTER = ('reconstruction', 'val_loss', 'val_loss_all')
GREATER_IS_BETTER = (
    'psnr', 'elbo', 'codes_used', 'perplexity', 'masked_accuracy', 'accuracy_all', 'log_p_tokens',
    'log_p_pixels', 'eq3',
)  # fmt: skip
SEGMENTATION_KEYS = dict(
    mIoU=('mIoU', 'mAcc'),
    mDice=('mDice', 'mAcc'),
    mFscore=('mFscore', 'mPrecision', 'mRecall'),
)


def reported_keys(metric: dict) -> list[str] | None:
    """Return the keys that a metric can report, in its order; None for an unknown metric."""
    name, prefix = kind(metric), None
    if name == 'TokenizerMetric':
        keys, prefix = TOKENIZER_KEYS, 'tokenizer'
    elif name == 'MIMMetric':
        keys, prefix = MIM_KEYS, 'mim'
    elif name == 'Accuracy' and not metric.get('thrs'):
        keys, prefix = [f'top{k}' for k in _as_list(metric.get('topk', 1))], 'accuracy'
    elif name == 'IoUMetric':
        groups = _as_list(metric.get('iou_metrics', 'mIoU'))
        keys = ['aAcc', *dict.fromkeys(key for group in groups for key in SEGMENTATION_KEYS[group])]
    else:
        return None
    prefix = metric.get('prefix') or prefix
    return [f'{prefix}/{key}' if prefix else key for key in keys]


def check_save_best(cfg: dict) -> Iterator[Finding]:
    """Yield keys in `save_best` of the checkpoint hook that cannot choose the best checkpoint.

    mmengine's CheckpointHook itself explains an invalid or missing `rule`.
    """
    hook = get(cfg, 'default_hooks', 'checkpoint') or {}
    metrics, place = cfg.get('val_evaluator'), 'default_hooks.checkpoint.save_best'
    if not hook.get('save_best'):
        return
    if not metrics:
        yield Finding(place, 'it has no effect: the run has no val_evaluator', stops=False)
        return
    if get(metrics, 'metrics'):  # an Evaluator
        metrics = metrics['metrics']
    lists = [reported_keys(metric) for metric in _as_list(metrics)]
    known = None if None in lists else [key for keys in lists for key in keys]
    if known and get(cfg, 'model', 'target', 'recover') != 'all':
        known = [key for key in known if not key.endswith('_all')]
    wanted, rules = _as_list(hook['save_best']), _as_list(hook.get('rule'))
    rules = rules * len(wanted) if len(rules) == 1 else rules
    for key, rule in zip(wanted, rules, strict=False):
        what = f'{place}={key!r}'
        if key == 'auto' and known and 'mIoU' in known:
            effect = (
                f'it keeps the checkpoint of the best {known[0]}, which common classes decide: '
                "set save_best='mIoU'"
            )
            yield Finding(what, effect, stops=False)
        elif key == 'auto' and lists[0] and not rule and not _inferred_rule(lists[0][0], hook):
            effect = (
                f'it takes the first metric, {lists[0][0]}, for which mmengine cannot infer a rule: '
                f'set save_best={lists[0][0]!r} and rule={_right_rule(lists[0][0], hook)!r}'
            )
            yield Finding(what, effect)
        elif key != 'auto' and known and key not in known:
            yield Finding(what, _explain_unknown(key, known))
        elif rule and _right_rule(key, hook) not in (None, rule):
            effect = f'rule={rule!r} keeps the worst checkpoint: set {_right_rule(key, hook)!r}'
            yield Finding(what, effect)
        elif not rule and key != 'auto' and not _inferred_rule(key, hook):
            effect = f'mmengine cannot infer its rule: set rule={_right_rule(key, hook)!r}'
            yield Finding(what, effect)


def check_topk(cfg: dict) -> Iterator[Finding]:
    classes = get(cfg, 'model', 'head', 'num_classes')
    for path, node in walk(cfg.get('val_evaluator'), 'val_evaluator'):
        if kind(node) == 'Accuracy' and classes and max(_as_list(node.get('topk', 1))) > classes:
            effect = f'model.head has {classes} classes: set topk=1'
            yield Finding(f'{path}.topk={node["topk"]}', effect)


def _explain_unknown(key: str, known: list[str]) -> str:
    if reason := explain_renamed(key):
        return f'this key was {reason}'
    lower = {each.lower(): each for each in known}
    near = get_close_matches(key.lower(), lower, n=1, cutoff=0.4)
    hint = f': did you mean {lower[near[0]]!r}?' if near else ''
    return f'val_evaluator does not report this key, but {", ".join(known)}{hint}'


def _right_rule(key: str, hook: dict) -> str | None:
    """Return the rule that keeps the best checkpoint, None if it is not known."""
    name = key.rpartition('/')[2]
    if key.startswith(('tokenizer/', 'mim/')) and name in (*LESS_IS_BETTER, *GREATER_IS_BETTER):
        return 'less' if name in LESS_IS_BETTER else 'greater'
    return _inferred_rule(key, hook)


def _inferred_rule(key: str, hook: dict) -> str | None:
    """Return the rule that mmengine's CheckpointHook infers for a key, None if it cannot."""
    options = {name: hook[name] for name in ('greater_keys', 'less_keys') if hook.get(name)}
    try:
        return CheckpointHook(save_best=key, **options).rules[0]
    except (ValueError, KeyError):
        return None


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
