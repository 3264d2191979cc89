"""Every public class is among those that the properties here draw settings for."""

import pytest
from fuzz import test_data, test_engine, test_models
from mmengine.registry import Registry

import beit_mm.registry

pytestmark = pytest.mark.any_stack


def test_each_registered_class_is_fuzzed_and_nothing_else_is_said_to_be():
    registries = [each for each in vars(beit_mm.registry).values() if isinstance(each, Registry)]
    for registry in registries:
        registry.import_from_location()
    registered = {
        name for registry in registries for name, kind in registry.module_dict.items() if ours(kind)
    }
    assert registered == test_models.FUZZED | test_data.FUZZED | test_engine.FUZZED


def ours(kind: type) -> bool:
    return isinstance(kind, type) and kind.__module__.startswith(
        'beit_mm.'
    )  # other tests register toys
