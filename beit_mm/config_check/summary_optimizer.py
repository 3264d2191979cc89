"""Summarize the optimizer and the schedule of a config."""

from ..utils.config_tree import get, kind
from .finding import OFF

BIAS_TABLE_KEY = 'layers.0.attn.relative_position_bias_table'


def summarize_optimizer(cfg: dict, summary: dict) -> dict:
    wrapper = cfg.get('optim_wrapper') or {}
    optimizer, paramwise = wrapper.get('optimizer') or {}, wrapper.get('paramwise_cfg') or {}
    base, lr = get(cfg, 'auto_scale_lr', 'base_batch_size'), optimizer.get('lr')
    if summary['auto_scale'] and base and lr:
        lr *= summary['ranks'] * (summary['per_rank'] or 1) / base  # as mmengine does
    decay_rate = paramwise.get('layer_decay_rate', paramwise.get('decay_rate', 1))
    return dict(
        optimizer=kind(optimizer),
        lr=lr,
        base_batch=base,
        accumulation=wrapper.get('accumulative_counts', 1),
        betas=optimizer.get('betas', (0.9, 0.999)),
        eps=optimizer.get('eps', 1e-8),
        weight_decay=optimizer.get('weight_decay'),
        layer_decay=OFF if decay_rate == 1 else decay_rate,
        clip=get(wrapper, 'clip_grad', 'max_norm') or OFF,
    )


def find_decayed_tensors(cfg: dict, summary: dict) -> dict[str, bool]:
    """Return which kinds of tensors have weight decay, by the rule of the config's constructor."""
    positions, wrapper = summary['positions'], cfg.get('optim_wrapper') or {}
    tensors = [  # kind, name in mmpretrain's BEiT, dimensions, whether the model has it
        ('biases', 'layers.0.attn.proj.bias', 1, True),
        ('LayerNorms', 'layers.0.ln1.weight', 1, True),
        ('cls_token', 'cls_token', 3, True),
        ('LayerScale', 'layers.0.gamma_1', 1, summary['layer_scale'] != OFF),
        ('pos_embed', 'pos_embed', 3, 'absolute' in positions),
        ('relative position tables', BIAS_TABLE_KEY, 2, 'relative' in positions),
        ('mask_token', 'mask_token', 3, summary['task'] == 'pretrain'),
    ]
    paramwise = wrapper.get('paramwise_cfg') or {}
    constructor = str(wrapper.get('constructor', '')).rpartition('.')[2]

    def is_decayed(name: str, dims: int) -> bool:
        if constructor == 'LayerDecayConstructor':
            decays_cls_token = name != 'cls_token' or paramwise.get('decay_cls_token', False)
            return dims > 1 and name != 'pos_embed' and decays_cls_token
        if constructor.endswith('DecayOptimizerConstructor'):
            return dims > 1  # mmseg's looks for 'cls_token', and the name is 'backbone.cls_token'
        return _decay_multiplier(paramwise, f'backbone.{name}', dims) > 0

    return {tensor: is_decayed(name, dims) for tensor, name, dims, exists in tensors if exists}


def _decay_multiplier(paramwise: dict, name: str, dims: int) -> float:
    """Return the factor of weight decay in mmengine's and mmpretrain's constructors."""
    custom = paramwise.get('custom_keys') or {}
    keys = [key for key in sorted(custom) if key in name]
    if keys:
        return custom[max(keys, key=len)].get('decay_mult', 1.0)
    rules = dict(
        norm_decay_mult='.ln' in name,
        bias_decay_mult=name.endswith('bias'),
        flat_decay_mult=dims == 1,
    )
    for rule, applies in rules.items():
        if applies and paramwise.get(rule) is not None:
            return paramwise[rule]
    return 1.0


def summarize_schedule(cfg: dict, lr: float | None, steps: float | None) -> dict:
    """Summarize the learning-rate schedule; `steps` is the number of iterations per epoch."""
    loop, given = cfg.get('train_cfg') or {}, cfg.get('param_scheduler') or []
    unit = 'iterations' if 'max_iters' in loop else 'epochs'
    length = loop.get('max_iters', loop.get('max_epochs'))
    schedulers = given if isinstance(given, list | tuple) else [given]
    schedulers = [scheduler for scheduler in schedulers if kind(scheduler).endswith('LR')]
    summary = dict(unit=unit, length=length)
    if not schedulers:
        return summary

    def end_of(scheduler: dict) -> float | None:
        """Return where a scheduler ends, in `unit`; None if that depends on an unknown data set."""
        end, by_epoch = scheduler.get('end'), scheduler.get('by_epoch', True)
        if end is None:
            return length  # the Runner's default
        if by_epoch == (unit == 'epochs'):
            return end
        if not steps:
            return None
        return end * steps if by_epoch else end / steps

    first, last = schedulers[0], schedulers[-1]
    warms_up = kind(first) in ('LinearLR', 'ConstantLR') and len(schedulers) > 1
    summary['warmup'] = end_of(first) if warms_up and first.get('begin', 0) == 0 else 0
    if kind(last) in ('CosineAnnealingLR', 'PolyLR'):
        summary['end'] = end_of(last)
        summary['min_lr'] = last.get('eta_min', (last.get('eta_min_ratio') or 0.0) * (lr or 0.0))
    summary['stalled'] = unit == 'iterations' and any(
        scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based')
        for scheduler in schedulers
    )
    return summary
