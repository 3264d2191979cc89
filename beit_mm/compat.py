"""What the two OpenMMLab stacks need to run on today's PyTorch, and nothing else; nothing else here patches anything.

The stacks are OneDL's maintained builds (onedl-mmengine, …) and OpenMMLab's own last releases (mmengine 0.10.7, …); the
import names are the same. Each function that `apply` calls mends one fault, named in its docstring; a test shows that
the stock stack still has it. Importing this module imports neither torch nor OpenMMLab.
"""

import functools
import importlib
import pickle
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_ONEDL, _OPENMMLAB = "OneDL's maintained builds", "OpenMMLab's own last releases"
_NEEDED = {  # import name: (least version, what pip installs it from)
    'torch': (
        (2, 6),
        {'PyPI': 'torch torchvision'},
    ),  # before 2.6 weights_only=True could be made to run code (CVE-2025-32434)
    'mmengine': ((0, 10), {_ONEDL: 'onedl-mmengine', _OPENMMLAB: 'mmengine'}),
    'mmcv': ((2, 1), {_ONEDL: 'onedl-mmcv', _OPENMMLAB: '"mmcv-lite>=2.1,<2.2"'}),
    'mmpretrain': ((1, 2), {_ONEDL: 'onedl-mmpretrain einops torchvision', _OPENMMLAB: 'mmpretrain torchvision'}),
    'mmseg': ((1, 2), {_ONEDL: 'onedl-mmsegmentation', _OPENMMLAB: 'mmsegmentation ftfy regex'}),
}


def installed(package: str) -> bool:
    """Whether `package` can be found; nothing is imported."""
    return find_spec(package) is not None


def require(*packages: str) -> None:
    """Imports each of torch, mmengine, mmcv, mmpretrain, mmseg that is named.

    Raises ImportError, with the pip command that mends it, for one that is missing, too old, or refused by its host.
    """
    for package in packages:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name not in _NEEDED:
                raise ImportError(
                    f'{package} needs {error.name}, which is missing: pip install {error.name}'
                ) from error
            raise ImportError(f'{error.name} is not installed. {_mend(error.name)}') from error
        except AssertionError as error:  # a host's check of the versions beneath it
            raise ImportError(f'{package} refuses what is installed: {error} {_mend(package)}') from error
        if _version(module) < _NEEDED[package][0]:
            raise ImportError(f'{package} is {module.__version__}, in {module.__file__}. {_mend(package)}')


def _version(module: ModuleType) -> tuple[int, ...]:
    return tuple(map(int, module.__version__.split('.')[:2]))


def _mend(package: str) -> str:
    least, sources = _NEEDED[package]
    commands = ''.join(f'\n  pip install -U {names}    # {origin}' for origin, names in sources.items())
    return f'beit_mm needs {package} >= {".".join(map(str, least))}, which pip installs:{commands}'


@functools.cache
def apply() -> None:
    """Mends the stack in place, once; not where PyTorch or mmengine is missing or too old, which `require` says."""
    try:
        require('torch', 'mmengine')
    except ImportError:
        return
    _load_weights_only()
    _stand_in_for_missing_ops()


def _load_weights_only() -> None:
    """mmengine 0.10.7 cannot resume its own checkpoints: its HistoryBuffer and NumPy's scalars are not on the list of
    `torch.load(weights_only=True)`; onedl-mmengine loads what fails there with False, which runs the pickle's code.

    With this both always load with True, and the list holds what their checkpoints hold.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import checkpoint

    def refuse(*args: Any) -> None:
        raise pickle.UnpicklingError(f'WeightsUnpickler error: Unsupported call with {args}')

    def statistic(owner: type, name: str) -> Any:
        return getattr(owner, name) if owner is HistoryBuffer and name in names else refuse(owner, name)

    def empty_array(kind: Any, shape: tuple, code: bytes) -> np.ndarray:
        return np.zeros(0)  # its contents come next

    names = ('min', 'max', 'mean', 'current')
    scalar = np.float32(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdgFDUS'}  # all but objects
    allowed = [HistoryBuffer, (statistic, 'builtins.getattr'), np.dtype, *dtypes]
    for multiarray in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # NumPy 1 and 2
        allowed += [(empty_array, f'{multiarray}._reconstruct'), (scalar, f'{multiarray}.scalar')]
    # np.ndarray(shape, object, bytes) takes the bytes for addresses: a file may name the class, not call it. To fill an
    # empty array the class itself has to be listed, so it is, under a name that no pickle can spell.
    allowed += [(refuse, 'numpy.ndarray'), (np.ndarray, 'numpy.ndarray\n')]
    torch.serialization.add_safe_globals(allowed)

    def load_from_local(filename: str, map_location: Any) -> Any:  # mmengine logs the end of this name
        from .checkpoint.files import read_file  # which imports torch

        return read_file(filename, map_location)

    checkpoint.CheckpointLoader.register_scheme(('', 'http://', 'https://'), load_from_local, force=True)
    checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)  # what resolves to http(s)
    if hasattr(checkpoint, '_safe_torch_load'):  # onedl: the remaining schemes
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)


def _stand_in_for_missing_ops() -> None:
    """mmseg 1.2.2 imports mmcv.ops without a guard, which fails where mmcv has no compiled ops (as mmcv-lite).

    With a stand-in during that one import, all of mmcv.ops is there and an op says what is missing when it is called.
    """
    if not installed('mmcv') or not installed('mmseg') or find_spec('mmcv._ext'):
        return
    import mmcv

    if _version(mmcv) >= (2, 3):
        return  # onedl: its mmseg guards these imports, and has fallbacks for some

    class NoOps(ModuleType):
        def __getattr__(self, name: str) -> Any:
            def op(*args: Any, **kwargs: Any) -> None:
                raise ImportError(
                    f'the compiled op {name} of mmcv was called, but mmcv {mmcv.__version__} has none: in place '
                    'of mmcv-lite, build it with `MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0`'
                )

            return op

    sys.modules['mmcv._ext'] = NoOps('mmcv._ext')
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules['mmcv._ext']  # mmengine's mmcv_full_available() goes on telling the truth


def weigh_classes_beside_ignored_pixels() -> None:
    """mmseg 1.2.2's cross-entropy looks a weight up for every label before it passes over the ignored ones: an IndexError
    for 255, on a GPU an assertion that ends the process. Called where mmseg is imported, not by `apply`.
    """
    from mmseg.models.losses import cross_entropy_loss

    stock = cross_entropy_loss.cross_entropy
    if _version(importlib.import_module('mmseg')) >= (1, 3) or isinstance(stock, functools.partial):
        return

    def cross_entropy(stock, pred, label, weight=None, class_weight=None, reduction='mean', avg_factor=None, **kwargs):
        if class_weight is not None and avg_factor is None and reduction == 'mean':
            avg_factor = class_weight[label[label != kwargs.get('ignore_index', -100)]].sum()
        return stock(pred, label, weight, class_weight, reduction, avg_factor, **kwargs)

    cross_entropy_loss.cross_entropy = functools.partial(cross_entropy, stock)
