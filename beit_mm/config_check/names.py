"""Names and values in a config, held against what the Runner and the classes take: misspelled, unknown, of another form."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module

from mmengine import registry as root
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from ..compat import installed
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..utils.config_tree import get, kind

_EXTRA = (
    'auto_scale_lr',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
    'compile',
    'data_preprocessor',
    'tta_model',
)
RUNNER = {*inspect.signature(Runner.__init__).parameters, *_EXTRA} - {'self', 'cfg'}
HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
    'visualization',
)
DEFAULT_PARAMWISE = {
    'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult',
    'dcn_offset_lr_mult', 'bypass_duplicate',
}  # fmt: skip
# What a registry, a Runner or a builder takes out of a dict before the class sees it.
TAKEN = {
    'type',
    '_scope_',
    'priority',
    'convert_to_iter_based',
    'constructor',
    'paramwise_cfg',
    'init_cfg',
    'data_preprocessor',
}
CHECKED = 'beit_mm', 'mmengine', 'torch'  # the hosts' builders take more arguments out


# What is read here, where it is there at all.
FORMS = {
    'a dict': (dict, [
        'model', 'model.backbone', 'data_preprocessor', 'train_dataloader', 'val_dataloader', 'test_dataloader',
        'train_dataloader.dataset', 'val_dataloader.dataset', 'train_dataloader.sampler', 'val_dataloader.sampler',
        'optim_wrapper', 'optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg', 'optim_wrapper.clip_grad', 'train_cfg',
        'val_cfg', 'test_cfg', 'default_hooks', 'default_hooks.checkpoint', 'auto_scale_lr', 'randomness', 'env_cfg',
    ]),
    'a list': (list | tuple, ['custom_hooks']),
    'a dict, or a list of them': (dict | list | tuple, ['param_scheduler', 'val_evaluator', 'test_evaluator']),
    'a path': (str, ['load_from', 'work_dir']),
    'a name': (str, ['default_scope']),
    'a whole number': (int, [
        'train_cfg.max_epochs', 'train_cfg.max_iters', 'train_cfg.val_interval', 'train_dataloader.batch_size',
        'val_dataloader.batch_size',
    ]),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """`stops`: training so would fail or be for nothing; else it is worth a warning."""

    words: str
    stops: bool = True


def forms(cfg: dict) -> Iterator[Problem]:
    for words, (form, places) in FORMS.items():
        for place in places:
            value = get(cfg, *place.split('.'))
            if value is not None and (not isinstance(value, form) or isinstance(value, bool)):
                yield Problem(f'{place}={value!r}: {words} is needed')


def names_of_the_runner(cfg: dict) -> Iterator[Problem]:
    for key in cfg:
        if key not in RUNNER and (near := get_close_matches(key, RUNNER, n=1, cutoff=0.85)):
            yield Problem(f'{key} is read by nobody: did you mean {near[0]}?')
    for key in cfg.get('default_hooks') or {}:
        if key not in HOOKS and (near := get_close_matches(key, HOOKS, n=1, cutoff=0.8)):
            yield Problem(
                f'default_hooks.{key} comes beside the usual one: did you mean {near[0]}?'
            )


def types_and_keys(cfg: dict) -> Iterator[Problem]:
    scope = cfg.get('default_scope') or 'mmengine'
    if scope != 'mmengine' and not installed(scope):
        return  # the run says what to install
    for key in sorted(RUNNER & cfg.keys()):
        layers = []  # LoRAModel's targets: their types are names of layers
        for path, node in walk(cfg[key], key):
            name = node.get('type')
            if kind(node) == 'LoRAModel':
                layers.append(f'{path}.targets.')
            if path.startswith(tuple(layers)):
                continue
            if not isinstance(name, str):
                if name is not None and not callable(name):
                    yield Problem(f'{path}.type={name!r}: the name of a class is needed')
                continue
            classes = find_classes(name, node.get('_scope_', scope))
            if not classes:
                known = {n for registry in _registries(scope) for n in _names(registry)}
                if name.rpartition('.')[2] not in known:  # else it is of a host that is not there
                    yield Problem(f'{path}.type={name!r} is registered nowhere{_near(name, known)}')
            elif all(
                found.__module__.partition('.')[0] in CHECKED for found in classes
            ) and not path.endswith('_cfg'):
                taken = [accepted(found) for found in classes]
                if None not in taken:
                    yield from _unknown(path, set(node), set().union(TAKEN, *taken), name)
    for name in ('train_dataloader', 'val_dataloader'):
        own = {*inspect.signature(DataLoader.__init__).parameters, 'num_batch_per_epoch'}
        yield from _unknown(name, set(cfg.get(name) or {}), own, 'a data loader')


def optimizer_keys(cfg: dict) -> Iterator[Problem]:
    optim = cfg.get('optim_wrapper') or {}
    name = optim.get('constructor', 'DefaultOptimWrapperConstructor')
    layer_decay = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayConstructor').DEFAULTS
    known = dict(
        LayerDecayConstructor=layer_decay, DefaultOptimWrapperConstructor=DEFAULT_PARAMWISE
    )
    if keys := known.get(name.rpartition('.')[2] if isinstance(name, str) else name.__name__):
        yield from _unknown(
            'optim_wrapper.paramwise_cfg',
            set(optim.get('paramwise_cfg') or {}),
            set(keys),
            str(name),
        )
    clip = {'type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value'}
    yield from _unknown(
        'optim_wrapper.clip_grad', set(optim.get('clip_grad') or {}), clip, 'clipping'
    )


def _unknown(path: str, given: set[str], known: set[str], what: str) -> Iterator[Problem]:
    for key in sorted(given - known):
        yield Problem(f'{path}.{key} is no argument of {what}{_near(key, known)}')


def _near(name: str, known: set[str]) -> str:
    near = get_close_matches(name.rpartition('.')[2], known, n=1, cutoff=0.6)
    return f': did you mean {near[0]!r}?' if near else ''


def walk(tree: object, path: str) -> Iterator[tuple[str, dict]]:
    """Every dict in a nested config, with its place."""
    if isinstance(tree, dict):
        yield path, tree
        for key, child in tree.items():
            yield from walk(child, f'{path}.{key}')
    elif isinstance(tree, list | tuple):
        for i, child in enumerate(tree):
            yield from walk(child, f'{path}.{i}')


def _registries(scope: str) -> list[Registry]:
    """mmengine's, whose children the others are, and those that a host has besides."""
    modules, own = [root], f'{scope}.registry'
    try:
        modules.append(import_module(own))
    except ModuleNotFoundError as error:
        if not own.startswith(error.name):
            raise  # it has registries, and lacks what it needs itself
    found = dict.fromkeys(
        each for module in modules for each in vars(module).values() if isinstance(each, Registry)
    )
    return [each for each in found if each.parent is None]


@cache
def find_classes(name: str, scope: str) -> list[object]:
    """What a type may mean in the scope: the same name may be a transform, a hook and a model.

    All that `Registry.get` gives, which searches every module there is for each name that a registry does not have.
    """
    home, _, bare = name.rpartition('.')
    found = []
    for registry in _registries(home or scope):
        if not home or home == registry.scope or home in registry.children:
            with suppress(ImportError):
                found.append(_registered(registry.children.get(home or scope, registry), bare))
    if home and not any(found):
        with suppress(Exception):  # whatever importing it raises
            found.append(get_object_from_string(name))
    return [each for each in found if each is not None]


def _registered(registry: Registry | None, name: str) -> object:
    """What the registry has by this name, or one that it is a child of; None without."""
    if registry is None:
        return None
    registry.import_from_location()
    return (
        registry.module_dict[name]
        if name in registry.module_dict
        else _registered(registry.parent, name)
    )


def accepted(thing: Callable) -> set[str] | None:
    """Names of the arguments; None where it takes any."""
    keys = set()
    for owner in inspect.getmro(thing) if inspect.isclass(thing) else [thing]:
        init = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if init is None or owner is object:
            continue
        try:
            parameters = inspect.signature(init).parameters.values()
        except (TypeError, ValueError):
            return None
        keys |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return keys
    return None


def _names(registry: Registry) -> set[str]:
    return set(registry.module_dict).union(*(_names(child) for child in registry.children.values()))
