"""Check the names in a config: keys that nothing reads, unknown types and unknown arguments."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..models import Tokenizer
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..utils.config_tree import kind, walk
from ..utils.packages import is_installed
from .finding import Finding
from .renamed import RENAMED, explain_renamed

RUNNER_KEYS = {
    *inspect.signature(Runner.__init__).parameters, 'auto_scale_lr', 'find_unused_parameters',
    'model_wrapper_cfg', 'sync_bn', 'compile', 'data_preprocessor', 'tta_model',
} - {'self', 'cfg'}  # fmt: skip
DEFAULT_HOOKS = {
    'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint',
    'visualization',
}  # fmt: skip
MMENGINE_PARAMWISE = {
    'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult',
    'dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate',
}  # fmt: skip
CLIP_GRAD = {'type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value'}
# Keys that a registry, the Runner or a builder removes before the class gets the rest.
BUILDER_KEYS = {
    'type', '_scope_', 'priority', 'convert_to_iter_based', 'constructor', 'paramwise_cfg',
    'init_cfg', 'data_preprocessor',
}  # fmt: skip
LOG_KEYS = {'save_best', 'monitor', 'data_src'}  # arguments that name a key of the log
CHECKED_PACKAGES = 'beit_mm', 'mmengine', 'torch'  # builders of the others remove more keys


def check_runner_keys(cfg: dict) -> Iterator[Finding]:
    hooks = cfg.get('default_hooks') or {}
    for keys, place, known, effect in [
        (cfg, '', RUNNER_KEYS, 'nothing reads this key'),
        (hooks, 'default_hooks.', DEFAULT_HOOKS, 'this hook is added to the default one'),
    ]:
        for key in keys:
            near = get_close_matches(key, known, n=1, cutoff=0.85)
            if near and key not in known:
                yield Finding(f'{place}{key}', f'{effect}: did you mean {near[0]!r}?')


def check_types_and_arguments(cfg: dict) -> Iterator[Finding]:
    scope = cfg.get('default_scope') or 'mmengine'
    if scope != 'mmengine' and not is_installed(scope):
        return  # `build_runner` says what to install
    layers = []  # the types in LoRAModel's targets are names of layers
    for key in sorted(RUNNER_KEYS & cfg.keys()):
        for path, node in walk(cfg[key], key):
            if kind(node) == 'LoRAModel':
                layers.append(f'{path}.targets.')
            if not path.startswith(tuple(layers)):
                yield from _check_node(path, node, scope)
    loader_keys = {*inspect.signature(DataLoader.__init__).parameters, 'num_batch_per_epoch'}
    for name in ('train_dataloader', 'val_dataloader'):
        yield from _check_arguments(name, cfg.get(name) or {}, loader_keys, 'DataLoader')


def refuse_old_names(cfg: dict) -> None:
    """Exit with the new names if a config has names of an earlier version."""
    if found := list(_find_old_names(cfg)):
        raise SystemExit('\n'.join(f'error: {finding}' for finding in found))


def _find_old_names(cfg: dict) -> Iterator[Finding]:
    scope = cfg.get('default_scope') or 'mmengine'
    old_classes = {key.partition('.')[0] for key in RENAMED}
    for path, node in walk(cfg):
        for key in LOG_KEYS & node.keys():
            values = node[key] if isinstance(node[key], list | tuple) else [node[key]]
            for value in values:
                # Keys without '/' are of the training log: only `data_src` reads it.
                is_ours = isinstance(value, str) and (key == 'data_src' or '/' in value)
                if is_ours and (reason := explain_renamed(value)):
                    yield Finding(f'{path}.{key}={value!r}', f'this key was {reason}')
        name, bare = node.get('type'), kind(node)
        if bare not in old_classes or not isinstance(name, str):
            continue
        classes = find_classes(name, node.get('_scope_', scope))
        if not classes and (reason := explain_renamed(bare)):
            yield Finding(f'{path}.type={name!r}', f'this class was {reason}')
        if any(each.__module__.partition('.')[0] != 'beit_mm' for each in classes):
            continue  # a class of the user with the same name
        for key, value in node.items():
            for old in (f'{bare}.{key}', f'{bare}.{key}={value!r}'):
                if reason := explain_renamed(old):
                    yield Finding(f'{path}.{key}={value!r}', f'this argument was {reason}')


def check_optimizer_keys(cfg: dict) -> Iterator[Finding]:
    wrapper = cfg.get('optim_wrapper') or {}
    constructor = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    name = kind(dict(type=constructor))
    layer_decay = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayConstructor')
    known = dict(DefaultOptimWrapperConstructor=MMENGINE_PARAMWISE)
    known['LayerDecayConstructor'] = layer_decay.DEFAULTS
    if name in known:
        place, given = 'optim_wrapper.paramwise_cfg', wrapper.get('paramwise_cfg') or {}
        yield from _check_arguments(place, given, known[name], name)
    clip = wrapper.get('clip_grad') or {}
    yield from _check_arguments('optim_wrapper.clip_grad', clip, CLIP_GRAD, 'gradient clipping')


def _check_node(path: str, node: dict, scope: str) -> Iterator[Finding]:
    name, what = node.get('type'), f'{path}.type={node.get("type")!r}'
    if name is None or callable(name):
        return
    if not isinstance(name, str):
        yield Finding(what, 'expected the name of a class')
        return
    classes, bare = find_classes(name, node.get('_scope_', scope)), name.rpartition('.')[2]
    if not classes:
        known = {each for registry in _registries(scope) for each in _all_names(registry)}
        if reason := explain_renamed(bare):
            yield Finding(what, f'this class was {reason}')
        elif bare not in known:  # otherwise its package is not installed
            yield Finding(what, f'no such class is registered{_did_you_mean(bare, known)}')
        return
    packages = {each.__module__.partition('.')[0] for each in classes}
    if packages <= set(CHECKED_PACKAGES) and not path.endswith('_cfg'):
        arguments = [accepted_arguments(each) for each in classes]
        if None not in arguments:
            yield from _check_arguments(path, node, BUILDER_KEYS.union(*arguments), name)


def _check_arguments(
    path: str, given: Iterable[str], known: Iterable[str], name: str
) -> Iterator[Finding]:
    for key in sorted(set(given) - set(known)):
        if reason := explain_renamed(f'{name.rpartition(".")[2]}.{key}'):
            yield Finding(f'{path}.{key}', f'this argument was {reason}')
        else:
            hint = _did_you_mean(key, known)
            yield Finding(f'{path}.{key}', f'{name} has no such argument{hint}')


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f': did you mean {near[0]!r}?' if near else ''


# -- what a name stands for ------------------------------------------------------------------------


@cache
def find_classes(name: str | type, scope: str) -> list[type]:
    """Return what a type may mean in a scope: a transform, a hook and a model may share a name."""
    if not isinstance(name, str):
        return [name]
    found, home = [], name.rpartition('.')[0]
    for registry in _registries(home or scope):
        with suppress(Exception):  # importing a module of the user may raise anything
            found.append(registry.children.get(scope, registry).get(name))
    return list(dict.fromkeys(filter(callable, found)))  # a bare name may be that of a module


def is_tokenizer(node: dict, cfg: dict) -> bool:
    """Return whether a part of a config is a subclass of `beit_mm.models.Tokenizer`."""
    if not kind(node):
        return False
    scope = node.get('_scope_', cfg.get('default_scope') or 'mmengine')
    classes = find_classes(node['type'], scope)
    return any(inspect.isclass(each) and issubclass(each, Tokenizer) for each in classes)


def _registries(scope: str) -> list[Registry]:
    """Return mmengine's registries, and those that the package of the scope has besides."""
    modules, name = [mmengine_registry], f'{scope}.registry'
    try:
        modules.append(import_module(name))
    except ModuleNotFoundError as error:
        if not name.startswith(error.name):
            raise  # the package has registries, and one of its requirements is missing
    found = [each for module in modules for each in vars(module).values()]
    found = [each for each in found if isinstance(each, Registry) and each.parent is None]
    return list(dict.fromkeys(found))


def _all_names(registry: Registry) -> set[str]:
    names = set(registry.module_dict)
    return names.union(*(_all_names(child) for child in registry.children.values()))


def accepted_arguments(function: Callable) -> set[str] | None:
    """Return the names of the arguments of a class or function; None if it accepts any."""
    names, inits = set(), [function]
    if inspect.isclass(function):
        owners = [vars(owner) for owner in function.__mro__[:-1]]  # without object
        inits = [owner['__init__'] for owner in owners if '__init__' in owner]
    for init in inits:
        try:
            parameters = inspect.signature(init).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {each.name for each in parameters}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            return names
    return None
