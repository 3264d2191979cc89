"""Names of the files in a folder of images."""

import os
from collections.abc import Iterable
from pathlib import Path


def list_images(folder: Path, suffixes: Iterable[str]) -> list[str]:
    """Return the sorted relative paths of the files at any depth that end with a suffix.

    Suffixes are lowercase; the case of a name does not matter. Hidden files are skipped.
    """
    endings, found = tuple(suffixes), []
    for place, _, files in os.walk(folder, followlinks=True):
        names = (name for name in files if not name.startswith('.'))
        found += [os.path.join(place, name) for name in names if name.lower().endswith(endings)]
    return sorted(os.path.relpath(path, folder) for path in found)
