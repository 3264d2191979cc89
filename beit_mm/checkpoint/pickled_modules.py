"""Read the weights of a pickled module, such as DALL-E's encoder, without running its code.

A pickle is a program that names functions and calls them. Here it may only call functions that
build tensors. Classes of `dall_e` and `torch.nn` become inert stand-ins that keep their attributes.
Every other name is refused.
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
    """A function that a pickle can call but not change: pickles may set attributes of objects."""

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
# Opcodes that name a class by number, or allocate as much memory as they say.
_REFUSED_OPCODES = {code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8)}
_STAND_INS = ('dall_e.', 'torch.nn.modules.')


def read_module(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a module that `torch.save` pickled, on the CPU.

    Raises UnpicklingError that names what is not allowed. The file must have been refused by
    `torch.load(weights_only=True)` as a pickle, which excludes TorchScript archives.
    """
    stand_in = type('StandIn', (), {})  # one class per file: pickles may set its attributes

    # The C unpickler resolves classes by number (EXT1 …) without calling `find_class`.
    class Unpickler(pickle._Unpickler):
        dispatch: ClassVar = {
            code: function
            for code, function in pickle._Unpickler.dispatch.items()
            if code not in _REFUSED_OPCODES
        }

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in _BUILDERS:
                return _BUILDERS[module, name]
            if module.startswith(_STAND_INS):
                return stand_in
            raise pickle.UnpicklingError(f'{module}.{name} is no part of a module of weights')

    restricted = SimpleNamespace(
        __name__='restricted',
        Unpickler=Unpickler,
        load=lambda file, **settings: Unpickler(file, **settings).load(),
    )
    module = torch.load(path, map_location='cpu', pickle_module=restricted, weights_only=False)
    if not isinstance(module, stand_in):
        raise pickle.UnpicklingError('the file holds no module')
    return dict(_list_tensors(module, ''))


def _list_tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ('_parameters', '_buffers'):
        for name, tensor in getattr(module, kind, {}).items():
            if isinstance(tensor, Tensor):
                yield prefix + name, tensor.detach()
    for name, child in getattr(module, '_modules', {}).items():
        if child is not None:
            yield from _list_tensors(child, f'{prefix}{name}.')
