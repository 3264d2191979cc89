"""The model of a config with the weights of a checkpoint, ready to be used."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from .. import compat
from ..checkpoint.files import read_file, state_of
from ..engine.any_checkpoint import fit_model
from ..models import BEiT, DiscreteVAE


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


def channels_of(backbone: nn.Module) -> int:
    """Return the number of channels of the images that a backbone reads: those of its first convolution."""
    return next(each for each in backbone.modules() if isinstance(each, nn.Conv2d)).in_channels
