"""The table of published weights (`published.yml`)."""

from functools import cache
from pathlib import Path

import yaml

from .state_dicts import EMA

# Mean and std of images in 0 … 255, RGB.
NORMALIZATIONS = dict(
    imagenet=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    half=dict(mean=[127.5] * 3, std=[127.5] * 3),
)


@cache
def published() -> dict[str, dict]:
    """Return name → entry of `published.yml`, which includes the entries of its family."""
    path = Path(__file__).with_name('published.yml')
    models = {}
    for family in yaml.safe_load(path.read_text(encoding='utf-8')):
        common = {key: value for key, value in family.items() if key != 'models'}
        for model in family['models']:
            entry = common | model
            entry['address'] = entry['address'].format(name=model['name'])
            models[model['name']] = entry
    return models


def find_published(source: str) -> dict | None:
    """Return the entry of weights by their name, their address, or the name of a file of them."""
    name = source.removesuffix(EMA)
    for entry in published().values():
        if entry['name'] in (name, Path(name).stem) or name in entry.get('also', ()):
            return entry
    return None


def find_normalization(source: str) -> dict[str, list[float]] | None:
    """Return mean and std of published weights, None for others."""
    entry = find_published(source) or {}
    return NORMALIZATIONS.get(entry.get('normalization'))
