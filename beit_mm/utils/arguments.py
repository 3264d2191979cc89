"""Checks of arguments: errors name each setting, its value and what was expected."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor


def check_integers(least: int, **settings: object) -> None:
    """Raise ValueError unless every setting is an integer ≥ `least`."""
    _check(settings, lambda value: _is_integer(value, least), f'an integer, at least {least}')


def check_numbers(least: float = -math.inf, **settings: object) -> None:
    """Raise ValueError unless every setting is a finite number ≥ `least`."""
    limit = '' if least == -math.inf else f', at least {least}'

    def is_valid(value: object) -> bool:
        return _is_real(value) and math.isfinite(value) and value >= least

    _check(settings, is_valid, f'a finite number{limit}')


def check_mean_and_std(mean: object, std: object) -> None:
    """Raise ValueError unless both are lists of one number per channel, `std` above 0."""
    are_lists = isinstance(mean, list | tuple) and isinstance(std, list | tuple)
    if not are_lists or not mean or len(mean) != len(std):
        raise ValueError(f'mean={mean!r}, std={std!r}: expected one number per channel each')
    check_numbers(**{f'mean[{i}]': value for i, value in enumerate(mean)})
    check_numbers(1e-6, **{f'std[{i}]': value for i, value in enumerate(std)})


def check_sizes(least: int, **settings: object) -> None:
    """Raise ValueError unless every setting is an integer ≥ `least` or a pair (height, width)."""

    def is_valid(value: object) -> bool:
        sides = value if isinstance(value, list | tuple) else (value, value)
        return len(sides) == 2 and all(_is_integer(side, least) for side in sides)

    _check(settings, is_valid, f'an integer, at least {least}, or a pair (height, width)')


def check_ranges(highest: float = math.inf, **settings: object) -> None:
    """Raise ValueError unless every setting is a pair, 0 < low ≤ high ≤ `highest`."""

    def is_valid(value: object) -> bool:
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_real, value)):
            return False
        return 0 < value[0] <= value[1] <= highest and value[1] != math.inf

    limit = '' if highest == math.inf else f' ≤ {highest:g}'
    _check(settings, is_valid, f'(low, high) with 0 < low ≤ high{limit}')


def check_choices(known: Iterable[str | None], **settings: object) -> None:
    """Raise ValueError unless every setting is one of the known words."""
    known = list(known)
    expected = f'one of {", ".join(map(str, known))}'
    _check(settings, lambda value: value in known, expected)


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, *sizes: int | None) -> None:
    """Raise ValueError unless a tensor has the dtype and sizes; None stands for any size."""
    shape = tuple(tensor.shape)
    fits = len(shape) == len(sizes)
    fits = fits and all(size in (None, given) for size, given in zip(sizes, shape, strict=True))
    if tensor.dtype != dtype or not fits:
        expected = ', '.join('any' if size is None else str(size) for size in sizes)
        raise ValueError(
            f'{name} is {tensor.dtype} of shape {shape}: expected {dtype} of shape ({expected})'
        )


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) as plain integers."""
    height, width = (size, size) if isinstance(size, Integral) else size
    return int(height), int(width)


def pretrained_checkpoint(init_cfg: dict | None, model: str) -> str | None:
    """Return the checkpoint in the `init_cfg` of a `model`, or None without pre-training."""
    match init_cfg or dict(type='Pretrained', checkpoint=None):
        case {'type': 'Pretrained', 'checkpoint': checkpoint}:
            return checkpoint
    expected = "dict(type='Pretrained', checkpoint=…) or None"
    raise ValueError(f'init_cfg={init_cfg}: {model} expected {expected}')


def join_names(names: Sequence[object], most: int = 8) -> str:
    """Return the first `most` names for a message, and the number of names if there are more."""
    rest = f' … ({len(names)})' if len(names) > most else ''
    return ', '.join(map(str, names[:most])) + rest if names else 'none'


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check(settings: dict, is_valid: Callable[[object], bool], expected: str) -> None:
    if wrong := {name: value for name, value in settings.items() if not is_valid(value)}:
        given = ', '.join(f'{name}={value!r}' for name, value in wrong.items())
        raise ValueError(f'{given}: expected {expected}')
