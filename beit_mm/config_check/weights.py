"""Compare the weights that a run starts from with its model, which is built without memory."""

from collections.abc import Iterator

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..checkpoint.download import is_missing, is_remote
from ..checkpoint.files import read_file
from ..checkpoint.loading import check_lora, fit_checkpoint, parse_for
from ..checkpoint.state_dicts import WRAPPERS, find_weights
from ..checkpoint.teachers import read_teacher
from ..models import BEiT, DiscreteVAE, Teacher, Tokenizer
from ..models.targets import TokenTarget
from ..registry import MODELS
from ..utils.arguments import as_pair, join_names
from ..utils.config_tree import find, get, kind, nodes
from .files import HOLDERS
from .finding import Finding


class _EmptyOnMeta(TorchFunctionMode):
    """Mode in which torch.empty, and so each weight, has a shape and no memory.

    Numbers that models compute with, such as torch.linspace, are real.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        device = dict(device='meta') if function is torch.empty else {}
        return function(*args, **(kwargs or {}) | device)


def check_weights(cfg: dict) -> Iterator[Finding]:
    """Yield the keys of each checkpoint of a config that do not fit the model.

    Skips checkpoints that are missing or remote. Raises what building the model raises.
    """
    load_from = None if cfg.get('resume') else cfg.get('load_from')
    parts = [node for node in nodes(cfg.get('model')) if node.get('checkpoint')]
    if not load_from and not any(kind(node) in HOLDERS for node in parts):
        return
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    config = _without_lora(cfg['model'])
    has_lora = config != cfg['model']
    if cfg.get('data_preprocessor'):
        config = dict(data_preprocessor=cfg['data_preprocessor']) | config
    try:
        with _EmptyOnMeta():
            model = MODELS.build(config)
    except (NotImplementedError, RuntimeError) as error:
        why = f'not compared, since the model cannot be built without memory ({error})'
        yield Finding('weights', why.partition('\n')[0], stops=False)
        return
    yield from _check_token_size(cfg, model)
    for place, module, init in _find_starting_weights(model, load_from):
        source = init.get('checkpoint')
        if not source or is_remote(source) or is_missing(source):
            continue
        try:
            if isinstance(module, Teacher):
                read_teacher(module.module, source, module.projection)
            elif place == 'load_from' and has_lora:
                check_lora(find_weights(read_file(source), source)[0], source)
            elif isinstance(module, BEiT | Tokenizer):
                options = {key: init[key] for key in ('grid', 'adapt_patch_embed') if key in init}
                fit_checkpoint(parse_for(module, read_file(source), source), module, **options)
            else:
                state, prefix = find_weights(read_file(source), source)[0], init.get('prefix')
                prefix = WRAPPERS.sub('', f'{prefix.rstrip(".")}.') if prefix else ''
                keys = [key for key in state if key.startswith(prefix)]
                state = {key.removeprefix(prefix): state[key] for key in keys}
                yield from compare_by_name(state, module, f'{place}: {source}')
        except ValueError as error:
            yield Finding(place, str(error))


def _check_token_size(cfg: dict, model: nn.Module) -> Iterator[Finding]:
    """Yield token views that do not have one token per patch.

    `comparison` does it for a DiscreteVAE, whose stride is in the config.
    """
    target, backbone = getattr(model, 'target', None), getattr(model, 'backbone', None)
    views = find(get(cfg, 'train_dataloader', 'dataset'), 'TwoViews')
    if not (isinstance(target, TokenTarget) and isinstance(backbone, BEiT) and views):
        return
    stride, patch = target.tokenizer_module.stride, backbone.patch_size
    given, size = as_pair(views.get('token_size', 112)), as_pair(views.get('size', 224))
    expected = tuple(side // patch * stride for side in size)
    if not isinstance(target.tokenizer_module, DiscreteVAE) and given != expected:
        grids = [
            f'{height / pixels:g}×{width / pixels:g}'
            for (height, width), pixels in ((given, stride), (size, patch))
        ]
        effect = (
            f'{grids[0]} tokens of {stride} pixels for {grids[1]} patches: set '
            f'{expected[0] if expected[0] == expected[1] else expected}'
        )
        yield Finding(f'TwoViews.token_size={views.get("token_size", 112)}', effect)


def _find_starting_weights(
    model: nn.Module, load_from: str | None
) -> Iterator[tuple[str, nn.Module, dict]]:
    """Yield (place, module, options) of each module that starts from a checkpoint."""
    for name, module in model.named_modules():
        init = getattr(module, 'init_cfg', None)
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            yield f'model.{name}.init_cfg', module, init
    target, backbone = getattr(model, 'target', None), getattr(model, 'backbone', None)
    if isinstance(teacher := getattr(model, 'teacher', None), Teacher):
        yield 'model.teacher', teacher, dict(checkpoint=teacher.checkpoint)
    if isinstance(target, TokenTarget):
        yield 'model.target', target.tokenizer_module, dict(checkpoint=target.checkpoint)
    module = backbone if isinstance(backbone, BEiT) else model
    yield 'load_from', module, dict(checkpoint=load_from)


def compare_by_name(state: dict[str, Tensor], model: nn.Module, what: str) -> Iterator[Finding]:
    own = {WRAPPERS.sub('', key): value for key, value in model.state_dict().items()}
    own = {key: value for key, value in own.items() if not key.startswith('data_preprocessor.')}
    fits = {key for key in own if key in state and state[key].shape == own[key].shape}
    if not fits:
        names = f'it has {join_names(sorted(state))}; the model has {join_names(sorted(own))}'
        yield Finding(what, f'none of its weights is in this model: {names}')
    elif missing := sorted(own.keys() - fits):
        effect = f'{join_names(missing)} are missing or of another shape, and start from scratch'
        yield Finding(what, effect, stops=False)


def _without_lora(node: object) -> object:
    """Return a config with the modules in mmpretrain's LoRAModel, which load weights before it."""
    if kind(node) == 'LoRAModel':
        return _without_lora(node['module'])
    if isinstance(node, dict):
        return {key: _without_lora(child) for key, child in node.items()}
    return type(node)(map(_without_lora, node)) if isinstance(node, list | tuple) else node
