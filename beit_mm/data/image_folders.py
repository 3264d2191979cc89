"""Folders of images: which files are listed, and what the list hides."""

import logging
import os
from collections import Counter
from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from PIL import Image

from ..utils.config_tree import kind, nodes
from .image_files import SUFFIXES, BadSample


def list_readable(config: dict | list) -> dict | list:
    """Make each data set of class folders in a config list all `SUFFIXES`. Returns the config.

    mmpretrain's default excludes `.webp`, `.tiff` and `.npy`. `extensions` of a config is kept.
    """
    for node in nodes(config):
        has_folders = kind(node) in ('CustomDataset', 'ImageNet', 'ImageNet21k')
        if has_folders and not node.get('ann_file'):
            node.setdefault('extensions', SUFFIXES)
    return config


def check_folder(dataset: BaseDataset, skip_bad: bool = False) -> None:
    """Log what a data set of a folder does not list: other suffixes, links to missing folders.

    Raises BadSample for a broken link to an image, unless `skip_bad`, and ValueError for a class
    folder without an image.
    """
    folder = (dataset.data_prefix or {}).get('img_path')
    setting = 'extensions' if hasattr(dataset, 'extensions') else 'img_suffix'
    listed = getattr(dataset, setting, None)
    if dataset.ann_file or not listed or not folder or not os.path.isdir(folder):
        return

    is_listed = getattr(dataset, 'is_valid_file', lambda path: path.endswith(listed))
    suffixes = (*Image.registered_extensions(), *SUFFIXES)
    unlisted, empty_classes = Counter(), set(getattr(dataset, 'folder_to_idx', None) or ())
    for file in _files(folder):
        suffix = os.path.splitext(file.name)[1]
        if file.is_symlink() and not os.path.exists(file.path):
            message = f'{file.path} is a broken link to {os.readlink(file.path)}. Fix or remove it'
            if is_listed(file.path) and not skip_bad:
                raise BadSample(message)
            if is_listed(file.path) or not suffix:  # which may have been a folder of images
                _warn(message)
        elif is_listed(file.path):
            empty_classes.discard(file.path[len(folder) :].lstrip(os.sep).partition(os.sep)[0])
        elif suffix.lower() in suffixes:
            unlisted[suffix] += 1

    if unlisted:
        counts = ', '.join(f'{number} {suffix}' for suffix, number in sorted(unlisted.items()))
        _warn(f'{folder} has images that are not listed: {counts}. Convert them, or set {setting}')
    if empty_classes:
        path = os.path.join(folder, min(empty_classes))
        text = f'{path} is the folder of a class, but has no image ({", ".join(listed)})'
        raise ValueError(f'{text}. Add images, or remove the folder in every split')


def _files(folder: str) -> Iterator[os.DirEntry]:
    """Yield the files at any depth that are not hidden, and broken links."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            elif not entry.name.startswith('.'):
                yield entry


def _warn(message: str) -> None:
    print_log(message, 'current', logging.WARNING)
