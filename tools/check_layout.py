"""Check that a data set is laid out as the configs expect. Each fault comes with its fix; exit status 1 if there is one.

    python tools/check_layout.py imagenet data/imagenet
    python tools/check_layout.py imagenet22k data/imagenet22k
    python tools/check_layout.py ade20k data/ade/ADEChallengeData2016

Your own images in the same layout: add `--classes N --any-count`, and `--zero-is-class` if 0 is a class in the label maps.
Reads all files of a split, or 2000 of them if there are more. docs/datasets.md shows the layouts.
"""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from beit_mm.data.class_numbers import Numbering, compare_classes, read_numbering
from beit_mm.data.label_maps import grouped, problems, read_label_maps
from beit_mm.data.reading import SUFFIXES, BadSample, decode_image, read_bytes
from beit_mm.utils.arguments import join_names

MOST = 2000  # files of a split that are read
KINDS = dict(
    imagenet=dict(classes=1000, train=1_281_167, val=50_000),
    imagenet22k=dict(classes=21_841, train=14_197_122),
    ade20k=dict(classes=150, training=20_210, validation=2_000),
)
Fault = tuple[str, bool]  # words, and whether it is an error rather than a remark


def image_names(folder: Path) -> list[str]:
    """Sorted paths, relative to `folder`, of the images at any depth, also of those that the data sets do not list."""
    found, suffixes = [], (*Image.registered_extensions(), *SUFFIXES)
    for place, _, files in os.walk(folder, followlinks=True):
        found += [
            os.path.join(place, f)
            for f in files
            if f.lower().endswith(suffixes) and not f.startswith('.')
        ]
    return sorted(os.path.relpath(path, folder) for path in found)


def check_listed(folder: Path, names: list[str]) -> Iterator[Fault]:
    """Name images that mmpretrain's data sets skip without a word."""
    skipped = Counter(
        os.path.splitext(name)[1] for name in names if not name.lower().endswith(SUFFIXES)
    )
    for suffix, number in sorted(skipped.items()):
        words = f'{number} files in {folder} end in {suffix}, and the data set lists {", ".join(SUFFIXES)} alone'
        yield f'{words}. Convert them, or add the suffix to its `extensions`', True


def sample(items: list) -> list:
    """All items, or `MOST` of them in their order."""
    return [
        items[i] for i in sorted(random.Random(0).sample(range(len(items)), min(MOST, len(items))))
    ]


def read_images(folder: Path, names: list[str]) -> Iterator[Fault]:
    chosen, bad = sample(names), []
    print(f'{folder}: reading {len(chosen)} of {len(names)} images', flush=True)
    for path in (str(folder / name) for name in chosen):
        try:
            decode_image(path, read_bytes(path))
        except BadSample as error:
            bad.append((path, str(error)))
    yield from ((words, True) for words in grouped(bad))


def check_count(folder: Path, names: list[str], count: int | None) -> Iterator[Fault]:
    if count is not None and len(names) != count:
        yield (
            f'{folder} has {len(names)} images, {count} are expected (--any-count accepts any number)',
            True,
        )


def check_imagenet(root: Path, classes: int, counts: dict[str, int | None]) -> Iterator[Fault]:
    """Splits are class folders, or a folder with a list in meta."""
    first = None
    for split, count in counts.items():
        folder, listing = root / split, root / 'meta' / f'{split}.txt'
        if not folder.is_dir():
            yield (
                f'{folder} is missing: put the images of this split there, a folder for each class',
                True,
            )
            continue
        names = image_names(folder)
        numbering = read_numbering(str(folder), folder, listing if listing.is_file() else None)
        if listing.is_file():
            names = [
                line.strip().rpartition(' ')[0]
                for line in listing.read_text().splitlines()
                if line.strip()
            ]
        else:
            yield from check_listed(folder, names)
            names = [name for name in names if name.lower().endswith(SUFFIXES)]
            yield from check_class_folders(folder, numbering, names, classes)
        if numbering.labels and len(numbering.labels) < classes:
            yield (
                f'{listing} uses {len(numbering.labels)} labels, {classes} are expected (--classes)',
                True,
            )
        yield from numbering.problems(classes)
        first = first or numbering
        yield from compare_classes(first, numbering)
        yield from check_count(folder, names, count)
        yield from read_images(folder, names)


def check_class_folders(
    folder: Path, numbering: Numbering, names: list[str], classes: int
) -> Iterator[Fault]:
    if not numbering.folders:
        archives = sorted(
            path.name for path in folder.iterdir() if path.suffix in ('.tar', '.zip', '.gz')
        )
        hint = (
            f'unpack {join_names([*map(repr, archives)])}'
            if archives
            else 'sort them into class folders, or list them'
        )
        listing = folder.parent / 'meta' / f'{folder.name}.txt'
        yield f'{folder} has no class folder and there is no {listing}: {hint}', True
    elif len(numbering.folders) != classes:
        yield (
            f'{folder} has {len(numbering.folders)} class folders, {classes} are expected (--classes)',
            True,
        )
    if numbering.folders and (loose := [name for name in names if os.sep not in name]):
        yield (
            f'{folder} has {len(loose)} images outside of its class folders, which are not read: {join_names([*map(repr, loose)])}',
            True,
        )
    if empty := sorted(numbering.folders.keys() - {Path(name).parts[0] for name in names}):
        yield (
            f'{folder} has class folders without an image: {join_names([*map(repr, empty)])}',
            True,
        )


def check_ade20k(
    root: Path, classes: int, counts: dict[str, int | None], zero_is_class: bool
) -> Iterator[Fault]:
    """Splits are pairs in images/ and annotations/ of the same name."""
    print(
        '0 is a class in the label maps: the config needs reduce_zero_label=False'
        if zero_is_class
        else '0 is unlabelled in the label maps (reduce_zero_label=True). Pass --zero-is-class if 0 is a class'
    )
    for split, count in counts.items():
        images, labels = root / 'images' / split, root / 'annotations' / split
        if absent := [str(folder) for folder in (images, labels) if not folder.is_dir()]:
            yield (
                f'{" and ".join(absent)} is missing: `root` is the folder that holds images/ and annotations/',
                True,
            )
            continue
        left, right = (
            {os.path.splitext(name)[0]: name for name in image_names(folder)}
            for folder in (images, labels)
        )
        yield from check_suffix(images, list(left.values()), '.jpg', 'img_suffix')
        yield from check_suffix(labels, list(right.values()), '.png', 'seg_map_suffix')
        if alone := sorted(left.keys() - right.keys()):
            yield (
                f'{images} has images without a label map in {labels}: {join_names([*map(repr, alone)])}',
                True,
            )
        if alone := sorted(right.keys() - left.keys()):
            yield (
                f'{labels} has label maps without an image in {images}: {join_names([*map(repr, alone)])}',
                True,
            )
        yield from check_count(images, list(left), count)
        both = sorted(left.keys() & right.keys())
        yield from read_images(images, [left[name] for name in both])
        pairs = [(images / left[name], labels / right[name]) for name in sample(both)]
        values = [
            f'value {number}' for number in range(not zero_is_class, classes + (not zero_is_class))
        ]
        maps = read_label_maps(pairs, len(both))
        for words, stops in problems(maps, values, not zero_is_class, training=split == 'training'):
            yield f'{labels}: {words}', stops


def check_suffix(folder: Path, names: list[str], suffix: str, setting: str) -> Iterator[Fault]:
    """The data set lists files of one suffix alone, in this case."""
    for other, number in sorted(Counter(os.path.splitext(name)[1] for name in names).items()):
        if other != suffix:
            words = (
                f'{number} files in {folder} end in {other}, and the configs list {suffix} alone'
            )
            yield (
                f'{words}. Rename them, or set {setting}={other!r} in the data set if all end so',
                True,
            )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('root', type=Path, help='the folder that the config calls data_root')
    parser.add_argument(
        '--classes', type=int, help="number of classes (default: the data set's own)"
    )
    parser.add_argument(
        '--any-count', action='store_true', help='do not compare how many images there are'
    )
    parser.add_argument(
        '--zero-is-class',
        action='store_true',
        help='0 is a class in the label maps, not unlabelled',
    )
    args = parser.parse_args(arguments)
    if args.zero_is_class and args.kind != 'ade20k':
        parser.error('--zero-is-class is about label maps: use it with ade20k')
    expected = dict(KINDS[args.kind])
    classes = args.classes or expected['classes']
    counts = {
        split: None if args.any_count else count
        for split, count in expected.items()
        if split != 'classes'
    }
    if not args.root.is_dir():
        found = iter([(f'{args.root} is no folder', True)])
    elif args.kind == 'ade20k':
        found = check_ade20k(args.root, classes, counts, args.zero_is_class)
    else:
        found = check_imagenet(args.root, classes, counts)
    faults = 0
    for words, is_error in found:
        faults += is_error
        print(f'{"fault" if is_error else "remark"}: {words}', flush=True)
    print(
        f'{args.root}: {faults} faults'
        if faults
        else f'{args.root} is laid out as the {args.kind} configs expect'
    )
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())
