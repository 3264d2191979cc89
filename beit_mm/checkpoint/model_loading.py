"""The model of a config with the weights of a checkpoint, ready to be used."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from .. import compat
from ..models import BEiT, DiscreteVAE
from .files import read_file, state_of
from .fit import Report, check, fit_backbone
from .weights import parse


def load_model(config: str | Path | Config, checkpoint: str | Path) -> nn.Module:
    """In eval mode, on the CPU. `checkpoint`: whoever wrote it, for this model.

    Raises ValueError that names the keys that do not fit, ImportError when the host of the config is not installed.
    """
    cfg = config if isinstance(config, Config) else Config.fromfile(str(config))
    scope = cfg.get('default_scope', 'mmengine')
    compat.require('torch', 'mmengine', 'mmcv', *{scope} & {'mmpretrain', 'mmseg'})
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
    load_weights(model, checkpoint)
    model.train(False)  # a backbone of mmpretrain's returns nothing here
    return model


def load_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """Raises ValueError that names the keys that do not fit."""
    source, own = str(checkpoint), model.state_dict()
    if not isinstance(getattr(model, 'backbone', model), BEiT | DiscreteVAE):
        load_checkpoint(model, source, 'cpu', strict=True)
        return
    raw = read_file(source)
    state = state_of(raw, source)[0]
    if state.keys() != own.keys() or any(state[key].shape != own[key].shape for key in own):
        state = fit_model(raw, model, source, strict=True)
    model.load_state_dict(state, strict=False)  # what is missing has been judged


def fit_model(raw: Any, model: nn.Module, source: str, strict: bool) -> dict[str, Tensor]:
    """Return the weights of what `read_file` returned, of any project, as a state dict of this model; the log says how.

    `strict`: ValueError for a key that the checkpoint lacks; otherwise the model keeps its own.
    """
    state, origin, left, _ = parse(raw, source)
    report = Report(f'{source}, written by {origin}')
    for key, why in left.items():
        report.add('left out', key, why)
    backbone = {
        k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')
    }
    if isinstance(model, DiscreteVAE):
        fitted = state
    else:
        backbone = fit_backbone(backbone, model.backbone, report)
        check(model.backbone, backbone, source, 'BEiT', () if strict else ('fc_norm.', 'norm.'))
        heads = {k: v for k, v in state.items() if not k.startswith('backbone.')}
        fitted = {f'backbone.{k}': v for k, v in backbone.items()} | heads
    own = model.state_dict()
    for key in [k for k, v in fitted.items() if k not in own or v.shape != own[k].shape]:
        if strict:
            break  # what is unexpected is an error as well
        why = 'this model has no such part' if key not in own else 'of another shape'
        report.add('left out', key, why)
        del fitted[key]
    if strict or isinstance(model, DiscreteVAE):
        buffers = tuple(key for key in own if key.endswith(('target_counts', 'target_fingerprint')))
        check(model, fitted, source, type(model).__name__, buffers)
    for key in own:
        report.add(*(('loaded', key) if key in fitted else ('new', key, 'not in the checkpoint')))
    report.log()
    return fitted


def channels_of(backbone: nn.Module) -> int:
    """Return the number of channels of the images that a backbone reads: those of its first convolution."""
    return next(each for each in backbone.modules() if isinstance(each, nn.Conv2d)).in_channels
