"""Check that the folders of a data set are as the configs expect. Each fault comes with its fix.

    python tools/check_layout.py imagenet data/imagenet
    python tools/check_layout.py imagenet22k data/imagenet22k
    python tools/check_layout.py ade20k data/ade/ADEChallengeData2016

For your own images in the same layout add `--classes N --any-count`, and `--zero-is-class` if 0 is
a class in the label maps. Reads up to 2000 files per split. docs/datasets.md shows the layouts. The
exit status is 1 if there is a fault.
"""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from beit_mm.data.class_numbers import Message, compare_classes, read_numbering
from beit_mm.data.image_files import SUFFIXES, BadSample, read_image
from beit_mm.data.label_maps import check_label_maps, group_messages, read_label_maps
from beit_mm.utils.arguments import join_names

MAX_FILES = 2000  # that are read per split
KINDS = dict(
    imagenet=dict(classes=1000, train=1_281_167, val=50_000),
    imagenet22k=dict(classes=21_841, train=14_197_122),
    ade20k=dict(classes=150, training=20_210, validation=2_000),
)


def image_names(folder: Path) -> list[str]:
    """Return the sorted relative paths of the images at any depth, whatever their format."""
    suffixes, found = (*Image.registered_extensions(), *SUFFIXES), []
    for place, _, files in os.walk(folder, followlinks=True):
        names = [file for file in files if not file.startswith('.')]
        found += [os.path.join(place, name) for name in names if name.lower().endswith(suffixes)]
    return sorted(os.path.relpath(path, folder) for path in found)


def choose(items: list) -> list:
    """Return up to `MAX_FILES` items in their order, always the same."""
    places = random.Random(0).sample(range(len(items)), min(MAX_FILES, len(items)))
    return [items[place] for place in sorted(places)]


def read_images(folder: Path, names: list[str], count: int | None) -> Iterator[Message]:
    """Compare the number of images with `count`, and read them."""
    if count not in (None, len(names)):
        advice = 'Pass --any-count to accept any number'
        yield f'{folder} has {len(names)} images, expected {count}. {advice}', True
    chosen, faults = choose(names), {}
    print(f'{folder}: reading {len(chosen)} of {len(names)} images', flush=True)
    for path in (str(folder / name) for name in chosen):
        try:
            read_image(path)
        except BadSample as error:
            faults[path] = str(error)
    for text in group_messages(faults):
        yield text, True


def check_suffixes(
    folder: Path, names: list[str], expected: tuple[str, ...], setting: str
) -> Iterator[Message]:
    others = Counter(Path(name).suffix for name in names if not name.endswith(expected))
    for suffix, number in sorted(others.items()):
        yield (
            f'{number} files in {folder} end in {suffix}, but the configs list '
            f'{", ".join(expected)}. Rename or convert them, or set {setting} of the data set',
            True,
        )


def check_imagenet(root: Path, classes: int, counts: dict[str, int | None]) -> Iterator[Message]:
    """Check splits of class folders, or of one folder with a list in meta."""
    first = None
    for split, count in counts.items():
        folder, list_file = root / split, root / 'meta' / f'{split}.txt'
        if not folder.is_dir():
            yield f'{folder} is missing. Put the images of this split there, by class', True
            continue
        if list_file.is_file():
            lines = filter(None, map(str.strip, list_file.read_text().splitlines()))
            names = [line.rpartition(' ')[0] for line in lines]
            numbering = read_numbering(str(folder), folder, list_file)
            if len(numbering.labels) < classes:
                number = len(numbering.labels)
                yield f'{list_file} has {number} labels, expected {classes} (--classes)', True
        else:
            names = image_names(folder)
            numbering = read_numbering(str(folder), folder, None)
            upper = tuple(suffix.upper() for suffix in SUFFIXES)
            yield from check_suffixes(folder, names, (*SUFFIXES, *upper), 'extensions')
            names = [name for name in names if name.lower().endswith(SUFFIXES)]
            yield from check_class_folders(folder, numbering.folders, names, classes)
        first = first or numbering
        yield from numbering.check(classes)
        yield from compare_classes(first, numbering)
        yield from read_images(folder, names, count)


def check_class_folders(
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
        yield (
            f'{folder} has images outside of class folders, which are ignored: {_join(loose)}',
            True,
        )
    if empty := set(folders) - {Path(name).parts[0] for name in names}:
        yield f'{folder} has class folders without an image: {_join(empty)}', True


def check_ade20k(
    root: Path, classes: int, counts: dict[str, int | None], zero_is_class: bool
) -> Iterator[Message]:
    """Check splits of images and label maps with the same names."""
    meaning = 'is a class' if zero_is_class else 'is unlabeled (or pass --zero-is-class)'
    print(f'0 {meaning} in the label maps: reduce_zero_label={not zero_is_class} in the config')
    for split, count in counts.items():
        images, labels = root / 'images' / split, root / 'annotations' / split
        if missing := [str(folder) for folder in (images, labels) if not folder.is_dir()]:
            yield f'{_join(missing)} is missing. Pass the folder with images and annotations', True
            continue
        image_of = {os.path.splitext(name)[0]: name for name in image_names(images)}
        map_of = {os.path.splitext(name)[0]: name for name in image_names(labels)}
        yield from check_suffixes(images, [*image_of.values()], ('.jpg',), 'img_suffix')
        yield from check_suffixes(labels, [*map_of.values()], ('.png',), 'seg_map_suffix')
        if alone := image_of.keys() - map_of.keys():
            yield f'{images} has images without a label map in {labels}: {_join(alone)}', True
        if alone := map_of.keys() - image_of.keys():
            yield f'{labels} has label maps without an image in {images}: {_join(alone)}', True
        yield from read_images(images, [*image_of.values()], count)
        both = sorted(image_of.keys() & map_of.keys())
        pairs = [(images / image_of[name], labels / map_of[name]) for name in choose(both)]
        maps, first = read_label_maps(pairs, len(both)), int(not zero_is_class)
        names = [f'value {value}' for value in range(first, classes + first)]
        training = split == 'training'
        for text, is_error in check_label_maps(maps, names, not zero_is_class, training=training):
            yield f'{labels}: {text}', is_error


def _join(names: Iterable[str]) -> str:
    return join_names([repr(name) for name in sorted(names)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('root', type=Path, help='the folder that configs call data_root')
    parser.add_argument('--classes', type=int, help='number of classes (default: of the data set)')
    parser.add_argument('--any-count', action='store_true', help='accept any number of images')
    parser.add_argument('--zero-is-class', action='store_true', help='0 is a class in label maps')
    args = parser.parse_args(arguments)
    if args.zero_is_class and args.kind != 'ade20k':
        parser.error('--zero-is-class is for label maps: use it with ade20k')
    if not args.root.is_dir():
        parser.error(f'{args.root} is not a folder')
    counts = dict(KINDS[args.kind])
    classes = args.classes or counts['classes']
    del counts['classes']
    if args.any_count:
        counts = dict.fromkeys(counts)
    if args.kind == 'ade20k':
        found = check_ade20k(args.root, classes, counts, args.zero_is_class)
    else:
        found = check_imagenet(args.root, classes, counts)
    faults = 0
    for text, is_error in found:
        faults += is_error
        print(f'{"fault" if is_error else "remark"}: {text}', flush=True)
    print(f'{args.root}: {faults} faults' if faults else f'{args.root}: no faults')
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())
