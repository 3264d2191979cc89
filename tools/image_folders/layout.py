"""Faults of class folders and of folders of images and label maps, each with its fix."""

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from beit_mm.data.class_numbers import Message, compare_classes, read_numbering
from beit_mm.data.image_files import SUFFIXES, BadSample, read_image
from beit_mm.data.label_maps import check_label_maps, group_messages, read_label_maps
from beit_mm.utils.arguments import join_names

from .listing import list_images

ANY_IMAGE = (*Image.registered_extensions(), *SUFFIXES)  # of a format that may not be supported
MAX_FILES = 2000  # that are read per split
Counts = dict[str, int | None]  # split → expected number of images, None: any


def check_imagenet(root: Path, classes: int, counts: Counts) -> Iterator[Message]:
    """Check splits of class folders, or of one folder with a list in meta."""
    first = None
    for split, count in counts.items():
        folder, list_file = root / split, root / 'meta' / f'{split}.txt'
        if not folder.is_dir():
            yield f'{folder} is missing. Put the images of this split there, by class', True
            continue
        has_list = list_file.is_file()
        numbering = read_numbering(str(folder), folder, list_file if has_list else None)
        if has_list:
            lines = filter(None, map(str.strip, list_file.read_text().splitlines()))
            names = [line.rpartition(' ')[0] for line in lines]
            if len(numbering.labels) < classes:
                number = len(numbering.labels)
                yield f'{list_file} has {number} labels, expected {classes} (--classes)', True
        else:
            names = list_images(folder, ANY_IMAGE)
            upper = tuple(suffix.upper() for suffix in SUFFIXES)
            yield from _check_suffixes(folder, names, (*SUFFIXES, *upper), 'extensions')
            names = [name for name in names if name.lower().endswith(SUFFIXES)]
            yield from _check_class_folders(folder, numbering.folders, names, classes)
        first = first or numbering
        yield from numbering.check(classes)
        yield from compare_classes(first, numbering)
        yield from _read_images(folder, names, count)


def check_ade20k(
    root: Path, classes: int, counts: Counts, zero_is_class: bool
) -> Iterator[Message]:
    """Check splits of images and label maps with the same names."""
    meaning = 'is a class' if zero_is_class else 'is unlabeled (or pass --zero-is-class)'
    print(f'0 {meaning} in the label maps: reduce_zero_label={not zero_is_class} in the config')
    first = int(not zero_is_class)
    class_names = [f'value {value}' for value in range(first, classes + first)]
    for split, count in counts.items():
        images, labels = root / 'images' / split, root / 'annotations' / split
        if missing := [str(folder) for folder in (images, labels) if not folder.is_dir()]:
            yield f'{_join(missing)} is missing. Pass the folder with images and annotations', True
            continue
        image_of = {os.path.splitext(name)[0]: name for name in list_images(images, ANY_IMAGE)}
        map_of = {os.path.splitext(name)[0]: name for name in list_images(labels, ANY_IMAGE)}
        yield from _check_suffixes(images, [*image_of.values()], ('.jpg',), 'img_suffix')
        yield from _check_suffixes(labels, [*map_of.values()], ('.png',), 'seg_map_suffix')
        if alone := image_of.keys() - map_of.keys():
            yield f'{images} has images without a label map in {labels}: {_join(alone)}', True
        if alone := map_of.keys() - image_of.keys():
            yield f'{labels} has label maps without an image in {images}: {_join(alone)}', True
        yield from _read_images(images, [*image_of.values()], count)
        both = sorted(image_of.keys() & map_of.keys())
        pairs = [(images / image_of[name], labels / map_of[name]) for name in _choose(both)]
        maps, training = read_label_maps(pairs, len(both)), split == 'training'
        found = check_label_maps(maps, class_names, not zero_is_class, training=training)
        yield from ((f'{labels}: {text}', is_error) for text, is_error in found)


def _choose(items: list) -> list:
    """Return up to `MAX_FILES` items in their order, always the same."""
    places = random.Random(0).sample(range(len(items)), min(MAX_FILES, len(items)))
    return [items[place] for place in sorted(places)]


def _read_images(folder: Path, names: list[str], count: int | None) -> Iterator[Message]:
    """Compare the number of images with `count`, and read them."""
    if count not in (None, len(names)):
        advice = 'Pass --any-count to accept any number'
        yield f'{folder} has {len(names)} images, expected {count}. {advice}', True
    chosen, faults = _choose(names), {}
    print(f'{folder}: reading {len(chosen)} of {len(names)} images', flush=True)
    for path in (str(folder / name) for name in chosen):
        try:
            read_image(path)
        except BadSample as error:
            faults[path] = str(error)
    yield from ((text, True) for text in group_messages(faults))


def _check_suffixes(
    folder: Path, names: list[str], expected: tuple[str, ...], setting: str
) -> Iterator[Message]:
    others = Counter(Path(name).suffix for name in names if not name.endswith(expected))
    for suffix, number in sorted(others.items()):
        listed = f'but the configs list {", ".join(expected)}'
        advice = f'Rename or convert them, or set {setting} of the data set'
        yield f'{number} files in {folder} end in {suffix}, {listed}. {advice}', True


def _check_class_folders(
    folder: Path, folders: Iterable[str], names: list[str], classes: int
) -> Iterator[Message]:
    if not folders:
        archives = [p.name for p in folder.iterdir() if p.suffix in ('.tar', '.zip', '.gz')]
        fix = f'Unpack {_join(archives)}' if archives else 'Sort the images, or list them'
        list_file = folder.parent / 'meta' / f'{folder.name}.txt'
        yield f'{folder} has no class folders, and {list_file} does not exist. {fix}', True
        return
    if len(folders) != classes:
        yield f'{folder} has {len(folders)} class folders, expected {classes} (--classes)', True
    if loose := [name for name in names if os.sep not in name]:
        text = f'{folder} has images outside of class folders, which are ignored: {_join(loose)}'
        yield text, True
    if empty := set(folders) - {Path(name).parts[0] for name in names}:
        yield f'{folder} has class folders without an image: {_join(empty)}', True


def _join(names: Iterable[str]) -> str:
    return join_names([repr(name) for name in sorted(names)])
