"""Layer-wise learning-rate decay and BEiT's weight-decay rule, for both hosts and for pre-training.

Source: official `optim_factory.py` (https://github.com/microsoft/unilm/tree/master/beit, MIT).
"""

import logging
from difflib import get_close_matches
from typing import ClassVar

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..utils.arguments import check_numbers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Optimizer whose learning rate falls by `layer_decay_rate` a layer, from the head down to the patch embedding.

    A parameter's layer is what `model.backbone.get_layer_depth` says; all outside the backbone has the full rate.
    Not decayed: 1-D parameters, biases, `pos_embed`, `cls_token`. As in the official code, `mask_token` and the
    relative position tables are decayed. Frozen parameters are left out, shared ones come once.

    Args:
        optim_wrapper_cfg: any OptimWrapper's config; its `optimizer` has to state `lr` and `weight_decay`.
        paramwise_cfg: `layer_decay_rate` in (0, 1], 1 by default; `head_lr_mult`, a factor for all outside the
            backbone, 1 by default; `decay_cls_token`, False by default: True reproduces a slip of the official
            segmentation code, with which the published UPerNet numbers were made.

    A model without a backbone has one rate, with a warning: mmpretrain's vis_scheduler.py builds such a model.

    Raises ValueError for another key, a rate out of range, an optimizer without `lr` or `weight_decay`, and TypeError if
    the backbone lacks `get_layer_depth`.
    """

    DEFAULTS: ClassVar = dict(layer_decay_rate=1.0, head_lr_mult=1.0, decay_cls_token=False)

    def _validate_cfg(self) -> None:
        defaults = self.DEFAULTS
        for key in set(self.paramwise_cfg) - set(defaults):
            near = get_close_matches(key, defaults, n=1, cutoff=0.5)
            hint = f'did you mean {near[0]!r}?' if near else f'known are {", ".join(defaults)}'
            raise ValueError(f'paramwise_cfg has an unknown key {key!r}: {hint}')
        self.paramwise_cfg = {**defaults, **self.paramwise_cfg}
        check_numbers(
            0, **{name: self.paramwise_cfg[name] for name in ('layer_decay_rate', 'head_lr_mult')}
        )
        if not 0 < self.paramwise_cfg['layer_decay_rate'] <= 1:
            raise ValueError(
                f'layer_decay_rate={self.paramwise_cfg["layer_decay_rate"]} has to be in (0, 1]'
            )
        if self.base_lr is None or self.base_wd is None:
            raise ValueError(
                f'the optimizer needs lr and weight_decay, given was {self.optimizer_cfg}'
            )

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        """Append the parameter groups of the whole model, one a (learning rate, weight decay), and log them."""
        backbone = getattr(module, 'backbone', None)
        if backbone is None:
            print_log(
                f'{type(module).__name__} has no backbone: all its parameters have the learning rate of a head',
                logger='current',
                level=logging.WARNING,
            )
        elif not hasattr(backbone, 'get_layer_depth'):
            raise TypeError(
                f'the backbone of {type(module).__name__}, {type(backbone).__name__}, has no get_layer_depth: use beit_mm.BEiT, a '
                "Vision Transformer of mmpretrain, or mmengine's DefaultOptimWrapperConstructor"
            )
        rate, head_lr_mult = (
            self.paramwise_cfg['layer_decay_rate'],
            self.paramwise_cfg['head_lr_mult'],
        )
        no_decay = (
            {'pos_embed'} if self.paramwise_cfg['decay_cls_token'] else {'pos_embed', 'cls_token'}
        )
        groups: dict[tuple, dict] = {}
        for name, param in module.named_parameters():  # a shared parameter is yielded once
            if not param.requires_grad:
                continue
            scale, last = head_lr_mult, name.rpartition('.')[2]
            if name.startswith('backbone.'):
                layer, num_layers = backbone.get_layer_depth(name, 'backbone.')
                scale = rate ** (num_layers - 1 - layer)
            decay = 0.0 if param.ndim <= 1 or last == 'bias' or last in no_decay else self.base_wd
            group = dict(params=[], lr=self.base_lr * scale, weight_decay=decay, lr_scale=scale)
            groups.setdefault((scale, decay), group)['params'].append(param)
        params.extend(groups.values())
        print_log(_table(params), logger='current')


def _table(groups: list[dict]) -> str:
    lines = [
        'Optimizer groups:',
        f'{"lr":>12} {"lr scale":>10} {"weight decay":>12} {"tensors":>8} {"parameters":>12}',
    ]
    for g in groups:
        count = sum(p.numel() for p in g['params'])
        decay = f'{g["weight_decay"]:g}'
        lines.append(
            f'{g["lr"]:12.3e} {g["lr_scale"]:10.5f} {decay:>12} {len(g["params"]):8d} {count:12,d}'
        )
    return '\n'.join(lines)
