"""The recipes of the paper (`paper_recipes.yml`), and which of them a config follows."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .summary import ConfigSummary

# Some settings make a config another experiment altogether.
IDENTITY_WEIGHTS = dict(head=3, frozen=3)


@dataclass(frozen=True)
class PaperRecipe:
    """One recipe of the paper; `paper_recipes.yml` describes the fields."""

    title: str
    identity: dict[str, list]
    values: dict[str, object]
    exceptions: dict[str, str] = field(default_factory=dict)


_TABLES = yaml.safe_load(Path(__file__).with_name('paper_recipes.yml').read_text('utf-8'))
RECIPES = [PaperRecipe(**recipe) for recipe in _TABLES['recipes']]
SETTINGS: dict[str, list[str]] = _TABLES['settings']  # name, what another value does


def find_nearest(summary: ConfigSummary) -> tuple[PaperRecipe, list[str]]:
    """Return the recipe nearest to a config, and the settings that make the config another one."""

    def mismatches(recipe: PaperRecipe) -> list[str]:
        return [
            name
            for name, allowed in recipe.identity.items()
            if summary[name] is not None and summary[name] not in allowed
        ]

    def distance(recipe: PaperRecipe) -> tuple[int, int]:
        different = sum(IDENTITY_WEIGHTS.get(name, 1) for name in mismatches(recipe))
        return different, -sum(agrees(summary, recipe, name) for name in recipe.values)

    recipes = [recipe for recipe in RECIPES if summary['task'] in recipe.identity['task']]
    recipe = min(recipes, key=distance)
    return recipe, mismatches(recipe)


def agrees(summary: ConfigSummary, recipe: PaperRecipe, name: str) -> bool:
    """Return whether a setting has the recipe's value, and is counted in the same unit."""
    if name in ('length', 'warmup', 'end') and summary['unit'] != recipe.values['unit']:
        return False
    return is_close(summary[name], recipe.values[name])


def is_close(a: object, b: object) -> bool:
    """Return whether values are equal, numbers to a thousandth."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(is_close, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-3)
    return a == b
