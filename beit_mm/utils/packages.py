"""Packages that this one needs: whether they are installed, and which versions.

Importing this module imports neither torch nor OpenMMLab.
"""

import importlib
from importlib.util import find_spec
from types import ModuleType

_ONEDL, _OPENMMLAB = "OneDL's maintained builds", "OpenMMLab's last releases"
NEEDED = {  # import name → (lowest version, source → what pip installs)
    'torch': ((2, 10), {'PyPI': 'torch torchvision'}),
    'mmengine': ((0, 10), {_ONEDL: 'onedl-mmengine', _OPENMMLAB: 'mmengine'}),
    'mmcv': ((2, 1), {_ONEDL: 'onedl-mmcv', _OPENMMLAB: '"mmcv-lite>=2.1,<2.2"'}),
    'mmpretrain': (
        (1, 2),
        {_ONEDL: 'onedl-mmpretrain einops torchvision', _OPENMMLAB: 'mmpretrain torchvision'},
    ),
    'mmdet': ((3, 3), {_ONEDL: 'onedl-mmdetection', _OPENMMLAB: 'mmdet'}),
    'mmseg': ((1, 2), {_ONEDL: 'onedl-mmsegmentation', _OPENMMLAB: 'mmsegmentation ftfy regex'}),
}


def is_installed(package: str) -> bool:
    """Return whether `package` can be found, without importing it."""
    return find_spec(package) is not None


def require(*packages: str) -> None:
    """Import torch, mmengine, mmcv, mmpretrain, mmseg or mmdet.

    Raises ImportError, with the pip command, if a package is missing, too old, or refuses the
    versions of the packages that it uses.
    """
    for package in packages:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name in NEEDED:
                message = f'{error.name} is not installed. {_pip_commands(error.name)}'
            else:
                message = f'{package} needs {error.name}: pip install {error.name}'
            raise ImportError(message) from error
        except AssertionError as error:
            message = f'{package} refuses an installed version: {error} {_pip_commands(package)}'
            raise ImportError(message) from error
        if read_version(module) < NEEDED[package][0]:
            found = f'{package} is {module.__version__}, in {module.__file__}'
            raise ImportError(f'{found}. {_pip_commands(package)}')


def read_version(module: ModuleType) -> tuple[int, ...]:
    return tuple(map(int, module.__version__.split('.')[:2]))


def _pip_commands(package: str) -> str:
    lowest, sources = NEEDED[package]
    lines = [f'beit_mm needs {package} >= {".".join(map(str, lowest))}. Install one of:']
    lines += [f'  pip install -U {names}    # {source}' for source, names in sources.items()]
    return '\n'.join(lines)
