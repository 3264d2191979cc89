"""What a config says about its optimizer and its schedule, as a part of `facts`."""

from ..utils.config_tree import OFF, get, kind


def optimizer(cfg: dict, ranks: int, scale: bool) -> dict:
    wrapper = cfg.get('optim_wrapper') or {}
    given, paramwise = wrapper.get('optimizer') or {}, wrapper.get('paramwise_cfg') or {}
    base, lr = get(cfg, 'auto_scale_lr', 'base_batch_size'), given.get('lr')
    if scale and base and lr:
        lr *= ranks * (get(cfg, 'train_dataloader', 'batch_size') or 1) / base  # as mmengine does
    rate = paramwise.get('layer_decay_rate', paramwise.get('decay_rate', 1.0))
    return dict(
        optimizer=kind(given),
        lr=lr,
        base_batch=base,
        accumulation=wrapper.get('accumulative_counts', 1),
        betas=tuple(given.get('betas', (0.9, 0.999))),
        eps=given.get('eps', 1e-8),
        weight_decay=given.get('weight_decay'),
        layer_decay=OFF if rate == 1 else rate,
        clip=get(wrapper, 'clip_grad', 'max_norm') or OFF,
    )


def decayed(cfg: dict, found: dict) -> dict[str, bool]:
    """Which tensors of this model have weight decay, by the rule of the config's constructor."""
    tensors = {  # name as mmpretrain has it, dimensions
        'biases': ('backbone.layers.0.attn.proj.bias', 1),
        'LayerNorms': ('backbone.layers.0.ln1.weight', 1),
        'cls_token': ('backbone.cls_token', 3),
    }
    if found['layer_scale'] != OFF:
        tensors['LayerScale'] = ('backbone.layers.0.gamma_1', 1)
    if 'absolute' in found['positions']:
        tensors['pos_embed'] = ('backbone.pos_embed', 3)
    if 'relative' in found['positions']:
        tensors['relative position tables'] = (
            'backbone.layers.0.attn.relative_position_bias_table',
            2,
        )
    if found['task'] == 'pretrain':
        tensors['mask_token'] = ('backbone.mask_token', 3)
    wrapper = cfg.get('optim_wrapper') or {}
    paramwise = wrapper.get('paramwise_cfg') or {}
    constructor = str(wrapper.get('constructor', '')).rpartition('.')[2]
    if constructor == 'LayerDecayConstructor':  # ours
        spared = ('pos_embed',) if paramwise.get('decay_cls_token') else ('pos_embed', 'cls_token')
        return {tensor: dims > 1 and tensor not in spared for tensor, (_, dims) in tensors.items()}
    if constructor.endswith(
        'DecayOptimizerConstructor'
    ):  # mmseg's looks for 'cls_token', and finds 'backbone.cls_token'
        return {tensor: dims > 1 for tensor, (_, dims) in tensors.items()}
    return {tensor: _multiplier(paramwise, *entry) > 0 for tensor, entry in tensors.items()}


def _multiplier(paramwise: dict, name: str, dims: int) -> float:
    """Of the weight decay, as mmengine's and mmpretrain's constructors find it: the longest key in the name first."""
    keys = sorted(sorted(paramwise.get('custom_keys') or {}), key=len, reverse=True)
    if key := next((key for key in keys if key in name), None):
        return paramwise['custom_keys'][key].get('decay_mult', 1.0)
    rules = dict(
        norm_decay_mult='.ln' in name,
        bias_decay_mult=name.endswith('bias'),
        flat_decay_mult=dims == 1,
    )
    return next(
        (
            paramwise[rule]
            for rule, holds in rules.items()
            if holds and paramwise.get(rule) is not None
        ),
        1.0,
    )


def schedule(cfg: dict, lr: float | None, steps: float | None) -> dict:
    """`steps`: iterations an epoch, 0 or None where the data set's size is unknown."""
    loop, given = cfg.get('train_cfg') or {}, cfg.get('param_scheduler') or []
    unit = 'iterations' if 'max_iters' in loop else 'epochs'
    length = loop.get('max_iters', loop.get('max_epochs'))
    schedulers = [
        s for s in (given if isinstance(given, list | tuple) else [given]) if kind(s).endswith('LR')
    ]

    def at(scheduler: dict, key: str, default: float | None) -> float | None:
        theirs, value = (
            'epochs' if scheduler.get('by_epoch', True) else 'iterations',
            scheduler.get(key),
        )
        if value is None or theirs == unit:
            return default if value is None else value
        return None if not steps else value * steps if unit == 'iterations' else value / steps

    found = dict(unit=unit, length=length)
    if not schedulers:
        return found
    first, main = schedulers[0], schedulers[-1]
    rising = (
        kind(first) in ('LinearLR', 'ConstantLR')
        and first is not main
        and first.get('begin', 0) == 0
    )
    least = main.get(
        'eta_min',
        lr * main['eta_min_ratio'] if main.get('eta_min_ratio') is not None and lr else 0.0,
    )
    falls = kind(main) in ('CosineAnnealingLR', 'PolyLR')
    never = unit == 'iterations' and any(
        s.get('by_epoch', True) and not s.get('convert_to_iter_based') for s in schedulers
    )
    return found | dict(
        warmup=at(first, 'end', length) if rising else 0,
        end=at(main, 'end', length) if falls else None,  # a Runner's default is the run's length
        min_lr=least if falls else None,
        stalled=never,
    )
