"""Load a checkpoint of any project into a model."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from ..models import VQKD, BEiT, DiscreteVAE, Tokenizer
from ..models.relative_position import Grid
from ..models.targets import TokenTarget
from ..registry import WEIGHT_INITIALIZERS
from ..utils import packages
from .files import read_file
from .fit import check_fit, fit_backbone
from .parse import Checkpoint, parse_checkpoint, read_checkpoint
from .report import KeyReport
from .state_dicts import find_weights, list_unused_copies

_NORMS = ('fc_norm.', 'norm.')  # fine-tuning may add them
# Weight with one row per code → its tokenizer.
_CODES = {'codebook.codes': 'VQKD', 'encoder.output.conv.weight': 'DiscreteVAE'}
_BUFFERS = ('target_counts', 'target_fingerprint')  # of pre-training


def fit_checkpoint(
    checkpoint: Checkpoint,
    model: nn.Module,
    every_key: bool = False,
    grid: Grid | None = None,
    adapt_patch_embed: bool = False,
) -> tuple[dict[str, Tensor], KeyReport]:
    """Fit a checkpoint to a model: return a state dict of the model and the report of all keys.

    Args:
        model: a BEiT, a Tokenizer, or a model whose `backbone` is a BEiT.
        every_key: a key of the model that the checkpoint lacks is an error. Otherwise heads and
            final norms may be new.
        grid, adapt_patch_embed: see `fit.fit_backbone`.

    Raises ValueError that names the keys that are missing, unexpected or of another shape.
    """
    report = KeyReport(f'{checkpoint.source}, written by {checkpoint.origin}')
    for key, reason in checkpoint.skipped.items():
        report.add('skipped', key, reason)
    if isinstance(model, Tokenizer):
        state = _fit_tokenizer(checkpoint, model, report, every_key)
    elif isinstance(model, BEiT):
        for name in sorted({k.split('.')[0] for k in checkpoint.state} - {'backbone'}):
            report.add('skipped', f'{name}.*', 'no part of the backbone')
        state = _fit_backbone(checkpoint, model, report, _NORMS, grid, adapt_patch_embed)
    else:
        _check_mim_head(checkpoint, model)
        state = _fit_model(checkpoint, model, report, every_key)
    for key in model.state_dict():
        if key in state:
            report.add('loaded', key)
        else:
            report.add('new', key, 'not in the checkpoint')
    return state, report


@WEIGHT_INITIALIZERS.register_module()
def load_backbone(
    model: BEiT, source: str, grid: Grid | None = None, adapt_patch_embed: bool = False
) -> None:
    """Load the backbone of a checkpoint into a BEiT and log the status of each key.

    The arguments and errors are those of `fit_checkpoint`.
    """
    checkpoint = read_checkpoint(source)
    state, report = fit_checkpoint(
        checkpoint, model, grid=grid, adapt_patch_embed=adapt_patch_embed
    )
    model.load_state_dict(state, strict=False)
    model.pretrained_normalization = checkpoint.meta.get('normalization')
    report.log()


@WEIGHT_INITIALIZERS.register_module()
def load_tokenizer(model: Tokenizer, source: str) -> None:
    """Load a tokenizer of this project, the official code (VQ-KD), DALL-E or mmpretrain.

    DALL-E's is a folder or encoder.pkl, mmpretrain's an encoder. With an encoder alone, `decoder`
    of a DiscreteVAE becomes None: it gives ids but cannot decode them. Raises ValueError that names
    every key that does not match.
    """
    state, report = fit_checkpoint(parse_for(model, read_file(source), source), model)
    model.load_state_dict(state, strict=False)
    if isinstance(model, DiscreteVAE) and not any(key.startswith('decoder.') for key in state):
        model.decoder = None
    report.log()


def load_model(config: str | Path | Config, checkpoint: str | Path) -> nn.Module:
    """Build the model of a config with the weights of a checkpoint, in evaluation mode on the CPU.

    Raises ValueError that names the keys that do not fit, ImportError if the library of the
    config's scope is not installed.
    """
    cfg = config if isinstance(config, Config) else Config.fromfile(str(config))
    scope = cfg.get('default_scope', 'mmengine')
    packages.require('torch', 'mmengine', 'mmcv', *{scope} & {'mmpretrain', 'mmseg'})
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
    if isinstance(getattr(model, 'backbone', model), BEiT | Tokenizer):
        state, _ = convert_to(model, read_file(checkpoint), str(checkpoint), every_key=True)
        model.load_state_dict(state, strict=False)
    else:
        load_checkpoint(model, str(checkpoint), 'cpu', strict=True)
    model.train(False)  # mmpretrain's backbones return None here
    return model


def convert_to(
    model: nn.Module, raw: Any, source: str, every_key: bool = False
) -> tuple[dict[str, Tensor], dict]:
    """Return the content of a file as (a state dict of `model`, meta); log the status of each key.

    Raises as `fit_checkpoint`.
    """
    checkpoint = parse_for(model, raw, source)
    state, report = fit_checkpoint(checkpoint, model, every_key)
    report.log()
    return state, checkpoint.meta


def parse_for(model: nn.Module, raw: Any, source: str) -> Checkpoint:
    """Parse what `read_file(source)` returned for a model.

    Keys are not renamed if the file is of the same model, or if the model is a tokenizer of the
    user. `parse_checkpoint` would skip buffers such as `target_fingerprint`.
    """
    is_foreign = isinstance(model, Tokenizer) and not isinstance(model, DiscreteVAE | VQKD)
    if not is_foreign and not hasattr(model, 'backbone'):
        return parse_checkpoint(raw, source)
    state, wrapper = find_weights(raw, source)
    if not is_foreign and _get_shapes(state) != _get_shapes(model.state_dict()):
        return parse_checkpoint(raw, source)
    meta = raw.get('meta') if wrapper else None
    return Checkpoint(source, state, 'beit_mm', list_unused_copies(raw), meta or {})


def check_lora(state: dict[str, Tensor], source: str) -> None:
    """Raise ValueError if weights for a model in mmpretrain's LoRAModel are not of a LoRAModel.

    LoRA layers have other names than the layers that they replace, so nothing would be loaded.
    """
    if not any('.lora_' in key for key in state):
        raise ValueError(
            f'load_from={source} holds no LoRA weights, and the model is in a LoRAModel: none of '
            'its layers would be loaded. Remove load_from, and set init_cfg=dict('
            "type='Pretrained', checkpoint=…) of LoRAModel's module"
        )


def count_channels(model: nn.Module) -> int:
    """Return the number of channels of the images, which the first convolution reads."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return convolutions[0].in_channels if convolutions else 3


def _get_shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _fit_backbone(
    checkpoint: Checkpoint,
    model: BEiT,
    report: KeyReport,
    optional: tuple[str, ...],
    grid: Grid | None = None,
    adapt: bool = False,
) -> dict[str, Tensor]:
    _check_num_heads(checkpoint, model)
    state = fit_backbone(checkpoint.part('backbone.'), model, report, grid, adapt)
    check_fit(model, state, checkpoint.source, optional)
    return state


def _fit_tokenizer(
    checkpoint: Checkpoint, model: Tokenizer, report: KeyReport, every_key: bool
) -> dict[str, Tensor]:
    state, source = dict(checkpoint.state), checkpoint.source
    holds, own = _find_tokenizer(state), _find_tokenizer(model.state_dict())
    if holds and own and holds != own:
        raise ValueError(
            f'{source} holds a {holds}, the config builds a {own}: set '
            f"tokenizer=dict(type='{holds}', …), or pass the checkpoint of a {own}"
        )
    if isinstance(model, VQKD):
        _check_num_heads(checkpoint, model.encoder)
        if model.decoder is None:
            for key in [key for key in state if key.startswith(('decoder.', 'decoder_head.'))]:
                report.add('skipped', key, 'used in training with a teacher only')
                del state[key]
    has_decoder = any(key.startswith('decoder.') for key in state)
    is_encoder = isinstance(model, DiscreteVAE) and not has_decoder and not every_key
    check_fit(model, state, source, ('decoder.',) if is_encoder else ())
    return state


def _find_tokenizer(state: dict[str, Tensor]) -> str | None:
    return next((name for key, name in _CODES.items() if key in state), None)


def _check_num_heads(checkpoint: Checkpoint, model: BEiT) -> None:
    num_heads = checkpoint.meta.get('num_heads', model.num_heads)
    if num_heads != model.num_heads:
        raise ValueError(
            f'{checkpoint.source} was trained with {num_heads} heads, this BEiT has '
            f'{model.num_heads}. Set arch.num_heads={num_heads}'
        )


def _check_mim_head(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Raise ValueError if a head of others predicts the tokens of another kind of tokenizer.

    Our own files have the tokenizer's fingerprint instead.
    """
    target = getattr(model, 'target', None)
    is_known = checkpoint.origin == 'beit_mm' or 'head.proj.weight' not in checkpoint.state
    if is_known or not isinstance(target, TokenTarget):
        return
    is_v2 = any(key.startswith('backbone.cls_pt_layers.') for key in checkpoint.state)
    tokenizer = target.tokenizer_module
    if is_v2 == isinstance(tokenizer, DiscreteVAE):
        raise ValueError(
            f'the head of {checkpoint.source} predicts the tokens of '
            f'{"VQKD (BEiT v2)" if is_v2 else "a DiscreteVAE (BEiT)"}, and model.target has a '
            f'{type(tokenizer).__name__}: set model.target.tokenizer to that kind, or load the '
            'backbone alone by model.backbone.init_cfg'
        )


def _fit_model(
    checkpoint: Checkpoint, model: nn.Module, report: KeyReport, every_key: bool
) -> dict[str, Tensor]:
    backbone = _fit_backbone(checkpoint, model.backbone, report, () if every_key else _NORMS)
    state = {f'backbone.{key}': value for key, value in backbone.items()}
    state |= {k: v for k, v in checkpoint.state.items() if not k.startswith('backbone.')}
    own = model.state_dict()
    if every_key:
        check_fit(model, state, checkpoint.source, tuple(k for k in own if k.endswith(_BUFFERS)))
        return state
    for key, value in list(state.items()):
        if key not in own:
            report.add('skipped', key, 'the model has no such part')
        elif value.shape != own[key].shape:
            report.add('skipped', key, 'of another shape')
        else:
            continue
        del state[key]
    return state
