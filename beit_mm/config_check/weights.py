"""Compare the weights that a run starts from with its model, which is built without memory."""

from collections.abc import Callable, Iterator

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..checkpoint import read_checkpoint
from ..checkpoint.download import is_missing, is_remote
from ..checkpoint.files import read_file
from ..checkpoint.loading import check_lora, fit_checkpoint
from ..checkpoint.state_dicts import WRAPPERS, find_weights
from ..models import BEiT, DiscreteVAE
from ..models.targets import TokenTarget
from ..registry import MODELS
from ..utils.arguments import join_names
from ..utils.config_tree import kind, nodes
from .finding import Finding


class _EmptyOnMeta(TorchFunctionMode):
    """Weights (torch.empty) have shapes only; numbers that models compute with, such as torch.linspace, are real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        device = dict(device='meta') if function is torch.empty else {}
        return function(*args, **(kwargs or {}) | device)


def check_weights(cfg: dict) -> Iterator[Finding]:
    """Yield the keys of each checkpoint of a config that do not fit the model.

    Checkpoints that are missing or not on this machine are skipped. Raises what building the model raises.
    """
    parts = [node for node in nodes(cfg.get('model')) if node.get('checkpoint')]
    load_from = None if cfg.get('resume') else cfg.get('load_from')
    if not load_from and not any(kind(node) in ('Pretrained', 'TokenTarget') for node in parts):
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
        why = f'this model cannot be built without memory ({str(error).splitlines()[0]})'
        yield Finding('weights', f'not compared: {why}', stops=False)
        return
    for name, module in model.named_modules():
        init = getattr(module, 'init_cfg', None)
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            yield from _compare(_compare_pretrained, module, init.get('checkpoint'), name)
    if isinstance(getattr(model, 'target', None), TokenTarget):
        yield from _compare(_compare_tokenizer, model.target, model.target.checkpoint)
    compare = _compare_lora if has_lora else _compare_load_from
    yield from _compare(compare, model, load_from)


def _compare(compare: Callable, module: nn.Module, source: str | None, *more) -> Iterator[Finding]:
    """Yield the findings of a comparison, and the ValueError that it raises as a finding."""
    if not source or is_remote(source) or is_missing(source):
        return
    try:
        yield from compare(module, source, *more) or ()
    except ValueError as error:
        yield Finding('weights', str(error))


def _compare_pretrained(module: nn.Module, source: str, name: str) -> Iterator[Finding]:
    init = module.init_cfg
    if isinstance(module, BEiT):
        fit_checkpoint(
            read_checkpoint(source),
            module,
            grid=init.get('grid'),
            adapt_patch_embed=init.get('adapt_patch_embed', False),
        )
        return
    state, _ = find_weights(read_file(source), source)
    prefix = init.get('prefix')
    prefix = WRAPPERS.sub('', f'{prefix.rstrip(".")}.') if prefix else ''
    state = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    yield from compare_by_name(state, module, f'model.{name}.init_cfg: {source}')


def _compare_load_from(model: nn.Module, source: str) -> Iterator[Finding]:
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, BEiT):
        fit_checkpoint(read_checkpoint(source), backbone)
        return
    if isinstance(model, DiscreteVAE):
        state = read_checkpoint(source).state
    else:
        state, _ = find_weights(read_file(source), source)
    yield from compare_by_name(state, model, f'load_from: {source}')


def _compare_lora(model: nn.Module, source: str) -> None:
    check_lora(find_weights(read_file(source), source)[0], source)


def _compare_tokenizer(target: TokenTarget, source: str) -> None:
    fit_checkpoint(read_checkpoint(source), target.untrained_tokenizer)


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
    """Return a config with the modules in mmpretrain's LoRAModel: they load weights before it adapts them."""
    if isinstance(node, list | tuple):
        return type(node)(_without_lora(child) for child in node)
    if not isinstance(node, dict):
        return node
    if kind(node) == 'LoRAModel':
        return _without_lora(node['module'])
    return {key: _without_lora(child) for key, child in node.items()}
