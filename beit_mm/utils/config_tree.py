"""Walking through a config as nested dicts."""

from collections.abc import Iterator

OFF = 'off'  # a part that is left out


def nodes(tree: object) -> Iterator[dict]:
    """Every dict in a nested config."""
    if isinstance(tree, dict):
        yield tree
    for child in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    ):
        yield from nodes(child)


def kind(node: object) -> str:
    """A node's type without its scope."""
    name = node.get('type', '') if isinstance(node, dict) else ''
    return (name if isinstance(name, str) else getattr(name, '__name__', '')).rpartition('.')[2]


def find(tree: object, *kinds: str) -> dict | None:
    """The first dict of one of these types."""
    return next((node for node in nodes(tree) if kind(node) in kinds), None)


def get(tree: object, *keys: str) -> object:
    """tree[key][key]…, None where one is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def side(size: object) -> int | None:
    """Of a square, however it is written."""
    return size[0] if isinstance(size, list | tuple) else size


def as_tuple(values: object) -> object:
    return tuple(values) if isinstance(values, list | tuple) else values
