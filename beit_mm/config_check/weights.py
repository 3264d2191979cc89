"""Do the weights that a run starts from fit its model? Names and shapes are compared; the model is built without memory."""

from collections.abc import Iterator

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import checkpoint
from ..checkpoint.download import is_missing, is_remote
from ..checkpoint.files import WRAPPERS, read_file, state_of
from ..checkpoint.fit import Report, check, check_lora, fit_backbone
from ..models import BEiT, DiscreteVAE
from ..models.targets import TokenTarget
from ..registry import MODELS
from ..utils.arguments import join_names


class _WithoutMemory(TorchFunctionMode):
    """Weights (torch.empty) have shapes alone; what models compute numbers from, such as torch.linspace, is real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(
            *args, **(kwargs or {}) | (dict(device='meta') if function is torch.empty else {})
        )


def weights_fit(cfg: dict) -> Iterator[tuple[str, bool]]:
    """(what does not fit, whether that stops the run) of each checkpoint of a config as nested dicts.

    Files that are not there or not on this machine are passed over. Raises what building the model raises.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    given, config = cfg.get('data_preprocessor'), _without_lora(cfg['model'])
    adapted = config != cfg['model']
    model = (
        config
        if not given or 'data_preprocessor' in config
        else config | dict(data_preprocessor=given)
    )
    try:
        with _WithoutMemory():
            model = MODELS.build(model)
    except (NotImplementedError, RuntimeError) as error:
        yield (
            f'weights were not compared: this model needs memory to be built ({str(error).splitlines()[0]})',
            False,
        )
        return
    for name, module in model.named_modules():
        init = getattr(module, 'init_cfg', None)
        source = (
            init.get('checkpoint')
            if isinstance(init, dict) and init.get('type') == 'Pretrained'
            else None
        )
        try:
            if isinstance(module, BEiT) and _is_here(source):
                state, _ = checkpoint.load(source)
                _backbone(
                    state, module, source, init.get('grid'), init.get('adapt_patch_embed', False)
                )
            elif _is_here(source):
                prefix = (
                    WRAPPERS.sub('', f'{init["prefix"].rstrip(".")}.') if init.get('prefix') else ''
                )
                state, _ = state_of(read_file(source), source)
                state = {
                    k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
                }
                yield from _by_name(state, module, f'model.{name}.init_cfg: {source}')
        except ValueError as error:
            yield str(error), True
    target = getattr(model, 'target', None)
    if isinstance(target, TokenTarget) and _is_here(target.checkpoint):
        try:
            _tokenizer(target.untrained_tokenizer, target.checkpoint)
        except ValueError as error:
            yield str(error), True
    source = cfg.get('load_from')
    if _is_here(source) and not cfg.get('resume'):
        try:
            if adapted:
                check_lora(state_of(read_file(source), source)[0], source)
                return
            backbone = getattr(model, 'backbone', None)
            if isinstance(backbone, BEiT) or isinstance(model, DiscreteVAE):
                state, _ = checkpoint.load(source)
            else:
                state, _ = state_of(read_file(source), source)
            if isinstance(backbone, BEiT):
                _backbone(state, backbone, source)
            else:
                yield from _by_name(state, model, f'load_from: {source}')
        except ValueError as error:
            yield str(error), True


def _without_lora(node: object) -> object:
    """Return a config with the modules that mmpretrain's LoRAModel adapts: they load their weights before it does."""
    if isinstance(node, list | tuple):
        return type(node)(_without_lora(child) for child in node)
    if not isinstance(node, dict):
        return node
    if getattr(node.get('type'), '__name__', str(node.get('type'))).endswith('LoRAModel'):
        return _without_lora(node['module'])
    return {key: _without_lora(child) for key, child in node.items()}


def _is_here(source: str | None) -> bool:
    return bool(source) and not is_remote(source) and not is_missing(source)


def _backbone(
    state: dict[str, Tensor],
    model: BEiT,
    source: str,
    grid: tuple | None = None,
    adapt: bool = False,
) -> None:
    """As `load_backbone`: ValueError that names what is missing, unexpected or of another shape."""
    state = {k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')}
    check(
        model,
        fit_backbone(state, model, Report(source), grid, adapt),
        source,
        'BEiT',
        ('fc_norm.', 'norm.'),
    )


def _tokenizer(model: nn.Module, source: str) -> None:
    state, _ = checkpoint.load(source)
    whole = any(key.startswith('decoder.') for key in state)
    check(model, state, source, 'tokenizer', () if whole else ('decoder.',))


def _by_name(state: dict[str, Tensor], model: nn.Module, where: str) -> Iterator[tuple[str, bool]]:
    own = {
        WRAPPERS.sub('', k): v
        for k, v in model.state_dict().items()
        if not k.startswith('data_preprocessor.')
    }
    fits = {k for k, v in own.items() if k in state and state[k].shape == v.shape}
    if not fits:
        yield (
            f'{where} has nothing that this model has: {join_names(sorted(state))}; the model has {join_names(sorted(own))}',
            True,
        )
    elif missing := sorted(own.keys() - fits):
        yield (
            f'{where} lacks {join_names(missing)}, or has them of another shape: they start from scratch',
            False,
        )
