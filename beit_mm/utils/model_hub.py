"""Puts our models on mmpretrain's shelf: `list_models()`, `get_model(NAME)`, and its inferencers by name.

mmpretrain has no entry point for this, only `ModelHub.register_model_index` in a module whose import takes seconds,
while `import beit_mm` has to stay cheap and must not need mmpretrain. So the models are registered at once where that
module is imported already, and otherwise right after somebody imports it.
"""

import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

SCHEME = 'beit_mm://'  # before the name of a checkpoint, for loaders of mmengine: keys get this project's names
_HUB = 'mmpretrain.apis.model'
_TASKS = (
    'pretrain',
    'classification',
)  # mmpretrain's; mmseg looks a name up in its own package only


def root() -> Path:
    """The folder with `model-index.yml` and `configs`: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / '.mim' if (package / '.mim').is_dir() else package.parent


def register_models() -> None:
    """Registers the models of `model-index.yml` that mmpretrain can build, now or as soon as its hub is imported."""
    if _HUB in sys.modules:
        _register(sys.modules[_HUB])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


@functools.cache  # the hub takes a name once
def _register(hub: ModuleType) -> None:
    for metafile in (root() / 'configs' / task / 'metafile.yml' for task in _TASKS):
        if metafile.is_file():  # not where the package's folder alone was copied
            hub.ModelHub.register_model_index(metafile, config_prefix=root())
    for (
        model
    ) in hub.ModelHub._models_dict.values():  # `get_model(NAME, pretrained=True)` renames no keys
        if Path(model.filepath).is_relative_to(root()):
            model.weights = f'{SCHEME}{model.name}'


class _AfterImport(MetaPathFinder):
    """Finds nothing itself: it has the hub's own loader go on to `_register`, then it is gone."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _HUB:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = run_and_register
        return spec
