"""Check that the best checkpoint can be chosen by a metric that validation reports."""

from collections.abc import Iterator
from difflib import get_close_matches

from mmengine.hooks import CheckpointHook

from ..utils.config_tree import get, kind, walk
from .finding import Finding
from .renamed import explain_renamed

# Key → rule that keeps the best checkpoint.
TOKENIZER_KEYS = dict(
    psnr='greater', psnr_mean_color=None, reconstruction='less', kl=None, elbo='greater',
    vocab_size=None, codes_used='greater', perplexity='greater', cosine='greater',
)  # fmt: skip
MIM_KEYS = dict(
    val_loss='less', marginal_entropy=None, marginal_accuracy=None, masked_accuracy='greater',
    log_p_tokens='greater', log_p_pixels='greater', eq3='greater', val_loss_all='less',
    marginal_entropy_all=None, marginal_accuracy_all=None, accuracy_all='greater',
)  # fmt: skip
SAVE_BEST_RULES = {f'tokenizer/{key}': rule for key, rule in TOKENIZER_KEYS.items()}
SAVE_BEST_RULES |= {f'mim/{key}': rule for key, rule in MIM_KEYS.items()}
SEGMENTATION_KEYS = dict(
    mIoU=('mIoU', 'mAcc'), mDice=('mDice', 'mAcc'), mFscore=('mFscore', 'mPrecision', 'mRecall')
)  # fmt: skip


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
    """Yield keys in `save_best` of the checkpoint hook that cannot choose the best checkpoint."""
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
    known = [] if None in lists else [key for keys in lists for key in keys]
    if get(cfg, 'model', 'target', 'recover') != 'all':
        known = [key for key in known if not key.endswith('_all')]
    wanted, rules = _as_list(hook['save_best']), _as_list(hook.get('rule'))
    rules = rules * len(wanted) if len(rules) == 1 else rules
    for given, rule in zip(wanted, rules, strict=False):
        key = lists[0][0] if given == 'auto' and lists[0] else given
        expected = SAVE_BEST_RULES.get(key) or _inferred_rule(key, hook)
        if given == 'auto' and 'mIoU' in known:
            effect = f"common classes decide {key}, which it takes: set save_best='mIoU'"
        elif known and key not in known:
            effect = _explain_unknown(key, known)
        elif rule and expected not in (None, rule):
            effect = f'rule={rule!r} keeps the worst checkpoint: set {expected!r}'
        elif not rule and key != 'auto' and not _inferred_rule(key, hook):
            effect = f'mmengine infers no rule: set save_best={key!r} and rule={expected!r}'
        else:
            continue
        yield Finding(f'{place}={given!r}', effect, stops=given != 'auto' or 'mIoU' not in known)


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


def _inferred_rule(key: str, hook: dict) -> str | None:
    """Return the rule that mmengine's CheckpointHook infers for a key, None if it cannot."""
    options = {name: hook[name] for name in ('greater_keys', 'less_keys') if hook.get(name)}
    try:
        return CheckpointHook(save_best=key, **options).rules[0]
    except (ValueError, KeyError):
        return None


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
