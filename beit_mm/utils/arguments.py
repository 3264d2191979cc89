"""What a class is given, held against what it may be: errors that name each setting with its value."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def whole(least: int, **given: object) -> None:
    """Raises ValueError for settings that are no whole numbers, or below `least`."""
    _refuse(
        {k: v for k, v in given.items() if not _is(v, Integral) or v < least},
        f'whole numbers, at least {least}',
    )


def finite(least: float = -math.inf, **given: object) -> None:
    """Raises ValueError for settings that are no finite numbers, or below `least`."""
    end = '' if least == -math.inf else f', at least {least}'
    wrong = {
        k: v for k, v in given.items() if not _is(v, Real) or not math.isfinite(v) or v < least
    }
    _refuse(wrong, f'finite numbers{end}')


def height_and_width(least: int, **given: object) -> None:
    """Raises ValueError for settings that are neither a whole number ≥ `least` nor two."""
    wrong = {}
    for name, value in given.items():
        sides = value if isinstance(value, list | tuple) else (value, value)
        if len(sides) != 2 or not all(_is(side, Integral) and side >= least for side in sides):
            wrong[name] = value
    _refuse(wrong, f'whole numbers, at least {least}: one, or (height, width)')


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) as plain ints, from one whole number of any type or two."""
    height, width = (value, value) if isinstance(value, Integral) else value
    return int(height), int(width)


def checkpoint_of(init_cfg: dict | None, model: str) -> str | None:
    """Return the checkpoint that the `init_cfg` of a `model` names; None means: from scratch.

    Raises ValueError for an `init_cfg` that is not `dict(type='Pretrained', checkpoint=…)`.
    """
    if not init_cfg:
        return None
    if init_cfg.get('type') != 'Pretrained' or 'checkpoint' not in init_cfg:
        raise ValueError(
            f"init_cfg={init_cfg}: {model} takes dict(type='Pretrained', checkpoint=…) or None"
        )
    return init_cfg['checkpoint']


def span(highest: float = math.inf, **given: object) -> None:
    """Raises ValueError for settings that are not (low, high), 0 < low ≤ high ≤ `highest`."""
    wrong = {}
    for name, value in given.items():
        two = (
            isinstance(value, list | tuple)
            and len(value) == 2
            and all(_is(end, Real) for end in value)
        )
        if not two or not 0 < value[0] <= value[1] <= highest or value[1] == math.inf:
            wrong[name] = value
    _refuse(wrong, f'(low, high), 0 < low ≤ high{"" if highest == math.inf else f" ≤ {highest:g}"}')


def one_of(known: Iterable[str], **given: object) -> None:
    """Raises ValueError for settings that are none of the known words."""
    known = list(known)
    _refuse({k: v for k, v in given.items() if v not in known}, f'one of {", ".join(known)}')


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _refuse(wrong: dict[str, object], needed: str) -> None:
    if wrong:
        raise ValueError(
            f'{", ".join(f"{name}={value!r}" for name, value in wrong.items())}: give {needed}'
        )


def few(names: list[str]) -> str:
    """Return at most eight names, and how many there are if there are more, for a message."""
    return (
        ', '.join(names[:8]) + (f' … ({len(names)})' if len(names) > 8 else '') if names else 'none'
    )
