"""Registration of the published models for mmpretrain's `list_models`, `get_model` and inferencers.

mmpretrain has no entry point for this, only `ModelHub.register_model_index` in a module whose
import takes seconds. `import beit_mm` must stay cheap and must not need mmpretrain, so the models
are registered as soon as that module is imported.
"""

import functools
from pathlib import Path
from types import ModuleType

from .after_import import after_import
from .installation import root

SCHEME = 'beit_mm://'  # prefix of a checkpoint's name, for which mmengine's loaders rename the keys
_TASKS = ('pretrain', 'classification')  # mmseg looks up names in its own package only


def register_models() -> None:
    """Register the models that mmpretrain can build, now or as soon as its hub is imported."""
    after_import('mmpretrain.apis.model', _register)


@functools.cache  # the hub refuses names that it has
def _register(hub: ModuleType) -> None:
    for metafile in (root() / 'configs' / task / 'metafile.yml' for task in _TASKS):
        if metafile.is_file():  # missing if only the package's folder was copied
            hub.ModelHub.register_model_index(metafile, config_prefix=root())
    for model in hub.ModelHub._models_dict.values():
        if Path(model.filepath).is_relative_to(root()):
            model.weights = f'{SCHEME}{model.name}'
