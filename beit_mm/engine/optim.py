"""Layer-wise learning-rate decay and the weight-decay rule of BEiT.

Source: official `optim_factory.py` (https://github.com/microsoft/unilm/tree/master/beit, MIT).
"""

import logging
from collections import defaultdict
from typing import ClassVar

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..models import Tokenizer
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..utils.arguments import check_numbers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Constructor of optimizers whose learning rate decays from the head to the patch embedding.

    `model.backbone.get_layer_depth` returns a parameter's layer. Weight decay excludes 1-D
    parameters, biases, `pos_embed` and `cls_token`. As in the official code it includes
    `mask_token` and the relative position tables. A model without a backbone gets one learning rate
    and a warning: mmpretrain's vis_scheduler.py builds such a model.

    Args:
        optim_wrapper_cfg: config of an OptimWrapper; its `optimizer` needs `lr` and `weight_decay`.
        paramwise_cfg: `layer_decay_rate` in (0, 1], default 1: factor per layer. `head_lr_mult`,
            default 1: factor outside the backbone. `decay_cls_token`, default False: also decay
            `cls_token`, as the official segmentation code does by mistake. The published UPerNet
            results were trained that way.

    Raises ValueError for another key of `paramwise_cfg`, a rate out of range, or an optimizer
    without `lr` or `weight_decay`; TypeError if the backbone has no `get_layer_depth`.
    """

    DEFAULTS: ClassVar = dict(layer_decay_rate=1.0, head_lr_mult=1.0, decay_cls_token=False)

    def _validate_cfg(self) -> None:
        if unknown := sorted(set(self.paramwise_cfg) - set(self.DEFAULTS)):
            raise ValueError(
                f'paramwise_cfg has unknown keys {unknown}: known are {", ".join(self.DEFAULTS)}'
            )
        self.paramwise_cfg = {**self.DEFAULTS, **self.paramwise_cfg}
        rate, head_lr_mult, _ = self.paramwise_cfg.values()
        check_numbers(0, layer_decay_rate=rate, head_lr_mult=head_lr_mult)
        if not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate={rate}: expected a number in (0, 1]')
        if self.base_lr is None or self.base_wd is None:
            raise ValueError(f'{self.optimizer_cfg}: the optimizer needs lr and weight_decay')

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        """Append one group per (learning rate, weight decay), and log the groups."""
        groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
        _check_backbone(module)
        for name, parameter in module.named_parameters():  # yields a shared parameter once
            if parameter.requires_grad:
                rate = self.base_lr * self._lr_scale(module, name)
                groups[rate, self._weight_decay(name, parameter)].append(parameter)
        lines = ['Optimizer groups:']
        for (rate, decay), members in groups.items():
            params.append(dict(params=members, lr=rate, weight_decay=decay))
            count = sum(parameter.numel() for parameter in members)
            lines.append(f'  lr {rate:.3e}, weight decay {decay:g}: {count:,d} parameters')
        print_log('\n'.join(lines), logger='current')

    def _lr_scale(self, module: nn.Module, name: str) -> float:
        if not name.startswith('backbone.'):
            return self.paramwise_cfg['head_lr_mult']
        layer, num_layers = module.backbone.get_layer_depth(name, 'backbone.')
        return self.paramwise_cfg['layer_decay_rate'] ** (num_layers - 1 - layer)

    def _weight_decay(self, name: str, parameter: nn.Parameter) -> float:
        excluded = ['bias', 'pos_embed']
        if not self.paramwise_cfg['decay_cls_token']:
            excluded.append('cls_token')
        is_excluded = parameter.ndim <= 1 or name.rpartition('.')[2] in excluded
        return 0.0 if is_excluded else self.base_wd


def _check_backbone(model: nn.Module) -> None:
    name, backbone = type(model).__name__, getattr(model, 'backbone', None)
    if backbone is None and not isinstance(model, Tokenizer):
        message = f'{name} has no backbone: all parameters get the learning rate of the head'
        print_log(message, logger='current', level=logging.WARNING)
    elif backbone is not None and not hasattr(backbone, 'get_layer_depth'):
        raise TypeError(
            f'the backbone of {name}, {type(backbone).__name__}, has no get_layer_depth: use '
            'beit_mm.BEiT, a Vision Transformer of mmpretrain, or the constructor '
            'DefaultOptimWrapperConstructor of mmengine'
        )
