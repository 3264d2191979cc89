"""Walk through a config, given as nested dicts and lists."""

from collections.abc import Iterator


def walk(tree: object, path: str = '') -> Iterator[tuple[str, dict]]:
    """Yield (path, dict) for every dict in a config; a path is its keys, joined by dots."""
    if isinstance(tree, dict):
        yield path, tree
        children = tree.items()
    elif isinstance(tree, list | tuple):
        children = enumerate(tree)
    else:
        return
    for key, child in children:
        yield from walk(child, f'{path}.{key}' if path else str(key))


def nodes(tree: object) -> Iterator[dict]:
    """Yield every dict in a config."""
    return (node for _, node in walk(tree))


def kind(node: object) -> str:
    """Return the type of a part of a config without its scope, '' if it has none."""
    name = node.get('type', '') if isinstance(node, dict) else ''
    return (name if isinstance(name, str) else getattr(name, '__name__', '')).rpartition('.')[2]


def find(tree: object, *kinds: str) -> dict | None:
    """Return the first dict of one of these types."""
    return next((node for node in nodes(tree) if kind(node) in kinds), None)


def find_dataset(tree: object) -> dict | None:
    """Return the first data set with a pipeline, which wrappers may contain."""
    return next((node for node in nodes(tree) if 'pipeline' in node), None)


def get(tree: object, *keys: str) -> object:
    """Return tree[key][key]…, or None if a key is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
