"""The state dicts in a checkpoint file: the weights, and copies such as an average (EMA)."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

EMA = '#ema'  # at the end of a checkpoint's name: use the averaged weights in the file

# Keys of a file that hold weights: OpenMMLab's, the official code's, DeepSpeed's.
_WEIGHTS = ('state_dict', 'model', 'module')
# Keys that hold an average of the weights: the official code's, timm's, mmengine's, others'.
_AVERAGES = (
    'model_ema',
    'state_dict_ema',
    'ema_state_dict',
    'model_ema_state_dict',
    'ema_model_state_dict',
    'ema_model',
    'ema',
)
# Prefixes of keys: DistributedDataParallel's, Lightning's and torch.compile's.
WRAPPERS = re.compile(r'^((module|model|_orig_mod)\.)+')


def find_weights(raw: Any, source: str) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights in the content of a file, and the file's key that holds them.

    The keys of the weights lose the prefixes of wrappers. If the file also holds an average, the
    weights are returned. Raises ValueError that names `source` if there is no state dict, or if two
    keys differ only in the prefix of a wrapper.
    """
    path, state = next(_state_dicts(raw), (None, None))
    if state is None:
        raise ValueError(f'{source} holds no state dict (parameter names → tensors)')
    try:
        state = rename_keys(state, lambda key: WRAPPERS.sub('', key))
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    return state, path.split('.')[0] or None


def list_unused_copies(raw: Any) -> dict[str, str]:
    """Return the state dicts of a file that `find_weights` does not use, with the reason."""
    reasons = {}
    for path, _ in list(_state_dicts(raw))[1:]:
        if path.rpartition('.')[2] not in _AVERAGES:
            reason = 'a second copy of the weights'
        elif _is_swapped(raw):
            reason = 'the weights without averaging'
        else:
            reason = f"the averaged weights: to load them, append {EMA} to the checkpoint's name"
        reasons[f'{path}.*'] = reason
    return reasons


def use_average(raw: Any, source: str) -> dict:
    """Return the content of a file with the average in place of the weights.

    Raises ValueError that names `source` if the file holds no average.
    """
    averages = {
        path: state for path, state in _state_dicts(raw) if path.rpartition('.')[2] in _AVERAGES
    }
    if not averages:
        raise ValueError(
            f'{source}: the file holds no averaged weights ({", ".join(_AVERAGES)}). Remove {EMA}'
        )
    path, average = next(iter(averages.items()))
    if _is_swapped(raw):
        average = raw['state_dict']
    rest = {key: value for key, value in raw.items() if key not in (*_WEIGHTS, *_AVERAGES)}
    return rest | {'model' if path.startswith('model') else 'state_dict': average}


def rename_keys(state: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Rename the keys of a state dict. Raises ValueError that names two keys with one new name."""
    renamed, origin = {}, {}
    for key, value in state.items():
        name = rename(key)
        if name in renamed:
            raise ValueError(
                f'the keys {origin[name]} and {key} both mean {name}, and only one of them can be '
                'loaded. Remove the key that its model does not use'
            )
        renamed[name], origin[name] = value, key
    return renamed


def select_part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose keys start with `prefix`, without it."""
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _state_dicts(raw: Any, path: str = '') -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (path in the file, state dict): weights first, then averages."""
    if not isinstance(raw, dict) or not raw:
        return
    if all(isinstance(value, Tensor) for value in raw.values()):
        yield path, raw
        return
    for name in (*_WEIGHTS, *_AVERAGES):
        yield from _state_dicts(raw.get(name), f'{path}.{name}'.lstrip('.'))


def _is_swapped(raw: dict) -> bool:
    """Return whether mmengine's EMAHook wrote the file: its `state_dict` is the average."""
    return {'meta', 'state_dict', 'ema_state_dict'} <= raw.keys()
