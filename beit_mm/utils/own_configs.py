"""Base configs by name: `_base_ = 'beit_mm::TASK/NAME.py'`, in a checkout and from a wheel."""

import functools
from types import ModuleType

from .after_import import after_import
from .installation import root

PREFIX = 'beit_mm::'


def register_configs() -> None:
    """Make mmengine find our configs, now or as soon as its `Config` is imported.

    mmengine accepts names of its own projects only. It also gives every part of such a base the
    scope of the package, while our configs have the scopes of their tasks.
    """
    after_import('mmengine.config.config', _register)


@functools.cache
def _register(module: ModuleType) -> None:
    stock = module.Config._get_cfg_path

    def get_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if not cfg_path.startswith(PREFIX):
            return stock(cfg_path, filename)
        return str(root() / 'configs' / cfg_path.removeprefix(PREFIX)), None

    module.Config._get_cfg_path = staticmethod(get_path)
