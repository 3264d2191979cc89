"""Weights out of a module that was pickled whole, as DALL-E's published encoder and decoder are, without its code.

A pickle is a program that names functions and calls them. Here it may call what builds a tensor, and nothing else: classes
of `dall_e` and of `torch.nn` become inert stand-ins that keep their attributes, any other name is refused.
"""

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor


class _Builder(tuple):
    """A function that a pickle can call, but not change: it may set attributes of whatever it gets."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self[0](*args)


_BUILDERS = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('builtins', 'set'): set,
    ('__builtin__', 'set'): set,
    ('torch', 'device'): torch.device,
    ('torch._utils', '_rebuild_tensor_v2'): _Builder([torch._utils._rebuild_tensor_v2]),
    ('torch._utils', '_rebuild_parameter'): _Builder([torch._utils._rebuild_parameter]),
}
# What names by number, and what makes as much memory as it says.
_LEFT_OUT = {code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8)}
_STOOD_IN_FOR = ('dall_e.', 'torch.nn.modules.')


def read(path: Path) -> dict[str, Tensor]:
    """The state dict of a module that `torch.save` wrote whole, on the CPU. UnpicklingError names what does not belong.

    Call it on what `torch.load(weights_only=True)` has refused as a pickle: that has sorted out TorchScript archives.
    """
    stand_in = type('StandIn', (), {})  # of this file alone, for the same reason

    class Unpickler(
        pickle._Unpickler
    ):  # that in C gives a class by its number (EXT1 …) without asking `find_class`
        dispatch: ClassVar = {
            code: call for code, call in pickle._Unpickler.dispatch.items() if code not in _LEFT_OUT
        }

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in _BUILDERS:
                return _BUILDERS[module, name]
            if module.startswith(_STOOD_IN_FOR):
                return stand_in
            raise pickle.UnpicklingError(f'{module}.{name} is no part of a module of weights')

    restricted = SimpleNamespace(
        __name__='restricted',
        Unpickler=Unpickler,
        load=lambda file, **how: Unpickler(file, **how).load(),
    )
    module = torch.load(path, map_location='cpu', pickle_module=restricted, weights_only=False)
    if not isinstance(module, stand_in):
        raise pickle.UnpicklingError('the file holds no module')
    return dict(_tensors(module, ''))


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ('_parameters', '_buffers'):
        for name, tensor in getattr(module, kind, {}).items():
            if isinstance(tensor, Tensor):
                yield prefix + name, tensor.detach()
    for name, child in getattr(module, '_modules', {}).items():
        if child is not None:
            yield from _tensors(child, f'{prefix}{name}.')
