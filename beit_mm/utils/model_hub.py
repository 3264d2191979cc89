"""Registration of the published models for mmpretrain's `list_models`, `get_model` and inferencers.

mmpretrain has no entry point for this, only `ModelHub.register_model_index` in a module whose
import takes seconds. `import beit_mm` must stay cheap and must not need mmpretrain, so the models
are registered as soon as that module is imported.
"""

import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from .installation import root

SCHEME = 'beit_mm://'  # prefix of a checkpoint's name, for which mmengine's loaders rename the keys
_HUB = 'mmpretrain.apis.model'
_TASKS = ('pretrain', 'classification')  # mmseg looks up names in its own package only


def register_models() -> None:
    """Register the models that mmpretrain can build, now or as soon as its hub is imported."""
    if _HUB in sys.modules:
        _register(sys.modules[_HUB])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


@functools.cache  # the hub refuses names that it has
def _register(hub: ModuleType) -> None:
    for metafile in (root() / 'configs' / task / 'metafile.yml' for task in _TASKS):
        if metafile.is_file():  # missing if only the package's folder was copied
            hub.ModelHub.register_model_index(metafile, config_prefix=root())
    for model in hub.ModelHub._models_dict.values():
        if Path(model.filepath).is_relative_to(root()):
            model.weights = f'{SCHEME}{model.name}'


class _AfterImport(MetaPathFinder):
    """Finder that makes the loader of mmpretrain's hub also call `_register`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _HUB:
            return None
        sys.meta_path.remove(self)
        if spec := find_spec(name):
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = run_and_register
        return spec
