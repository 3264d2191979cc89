"""Call a function as soon as a module of another package is imported.

`import beit_mm` must stay cheap, so it imports none of the packages that it extends.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    """Call `action` with the module `name`, now or after its import, but once per action."""
    known = {(finder.name, finder.action) for finder in sys.meta_path if type(finder) is _Finder}
    if name in sys.modules:
        action(sys.modules[name])
    elif (name, action) not in known:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(MetaPathFinder):
    """Finder that makes the loader of one module also call `action`."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]):
        self.name, self.action = name, action

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        if spec := find_spec(name):
            run = spec.loader.exec_module

            def run_and_act(module: ModuleType) -> None:
                run(module)
                self.action(module)

            spec.loader.exec_module = run_and_act
        return spec
