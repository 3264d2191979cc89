"""Is a data set laid out as the configs expect? Names every fault with its mend; exit status 1 if there is one.

    python tools/check_layout.py imagenet data/imagenet
    python tools/check_layout.py imagenet22k data/imagenet22k
    python tools/check_layout.py ade20k data/ade/ADEChallengeData2016

One's own images in the same layout: add `--classes N --any-count`. Counts names, and opens a few dozen files only.
docs/datasets.md shows the layouts.
"""

import argparse
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')  # what mmpretrain takes for an image, in any case
SAMPLE = 40  # files of each split that are opened
KINDS = dict(
    imagenet=dict(classes=1000, train=1_281_167, val=50_000),
    imagenet22k=dict(classes=21_841, train=14_197_122),
    ade20k=dict(classes=150, training=20_210, validation=2_000),
)


def names(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Sorted names of the files in `folder` that end so."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith('.'))


def few(items: Iterable) -> str:
    listed = sorted(map(str, items))
    return ', '.join(listed[:5]) + (f' and {len(listed) - 5} more' if len(listed) > 5 else '')


def sample(items: list) -> list:
    return random.Random(0).sample(items, min(SAMPLE, len(items)))


def check_imagenet(root: Path, classes: int, counts: dict[str, int | None]) -> list[str]:
    """Faults of `root`, whose splits are class folders, or a folder with a list in meta; a count of None is any."""
    faults, known = [], None
    for split, count in counts.items():
        folder, listing = root / split, root / 'meta' / f'{split}.txt'
        if not folder.is_dir():
            faults.append(f'{folder} is missing: put the images of this split there, a folder for each class')
            continue
        folders = sorted(p.name for p in folder.iterdir() if p.is_dir())
        inside = {name: names(folder / name, IMAGES) for name in folders}
        files = [f'{name}/{file}' for name in folders for file in inside[name]] + names(folder, IMAGES)
        if listing.is_file():
            listed, bad = _read_list(listing, classes)
            faults += bad
            absent = [name for name in sample(listed) if not (folder / name).is_file()]
            if absent:
                faults.append(f'{listing} names files that are not in {folder}: {few(absent)}')
            files = listed
        elif not folders:
            archives = names(folder, ('.tar', '.zip', '.gz'))
            hint = f'unpack {few(archives)}' if archives else f'sort them into class folders, or list them in {listing}'
            faults.append(f'{folder} has no class folder and there is no {listing}: {hint}')
        elif len(folders) != classes:
            faults.append(f'{folder} has {len(folders)} class folders, {classes} are expected')
        if empty := [name for name in folders if not inside[name]]:
            faults.append(f'{folder} has class folders without an image: {few(empty)}')
        if folders:
            if known is not None and set(folders) != known and not listing.is_file():
                faults.append(f'{folder} has other class folders than the split before: {few(set(folders) ^ known)}')
            known = set(folders)
        if count is not None and len(files) != count:
            faults.append(f'{folder} has {len(files)} images, {count} are expected')
        faults += _unreadable(folder / name for name in sample(files) if (folder / name).is_file())
    return faults


def _read_list(path: Path, classes: int) -> tuple[list[str], list[str]]:
    """Names in a list of `name label` lines, and its faults."""
    files, faults, seen = [], [], set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.isdigit() or int(label) >= classes:
            faults.append(
                f'{path}, line {number}: {line.strip()!r} should be a file name and a label of 0 to {classes - 1}'
            )
            if len(faults) == 5:
                break
            continue
        files.append(name)
        seen.add(int(label))
    if not faults and len(seen) != classes:
        faults.append(f'{path} uses {len(seen)} labels, {classes} are expected')
    return files, faults


def _unreadable(paths: Iterable[Path]) -> list[str]:
    faults = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.convert('RGB')
        except Exception as error:
            faults.append(f'{path} cannot be read ({error}): fetch it again')
    return faults


def check_ade20k(root: Path, classes: int, counts: dict[str, int | None]) -> list[str]:
    """Faults of `root`: pairs in images/ and annotations/, label maps with values 0 (unlabelled) to `classes`."""
    faults = []
    for split, count in counts.items():
        images, labels = root / 'images' / split, root / 'annotations' / split
        absent = [folder for folder in (images, labels) if not folder.is_dir()]
        if absent:
            faults.append(f'{few(absent)} is missing: `root` is the folder that holds images/ and annotations/')
            continue
        left = {name[:-4] for name in names(images, ('.jpg',))}
        right = {name[:-4] for name in names(labels, ('.png',))}
        if left - right:
            faults.append(f'{images} has images without a label map (.png) in {labels}: {few(left - right)}')
        if right - left:
            faults.append(f'{labels} has label maps without an image (.jpg) in {images}: {few(right - left)}')
        if count is not None and len(left) != count:
            faults.append(f'{images} has {len(left)} images (.jpg), {count} are expected')
        for name in sample(sorted(left & right)):
            faults += _check_pair(images / f'{name}.jpg', labels / f'{name}.png', classes)
    return faults


def _check_pair(image: Path, label: Path, classes: int) -> list[str]:
    if faults := _unreadable([image]):
        return faults
    try:
        with Image.open(label) as opened:
            values = np.asarray(opened)
        with Image.open(image) as opened:
            size = opened.size
    except Exception as error:
        return [f'{label} cannot be read ({error}): fetch it again']
    if values.ndim != 2 or values.dtype != np.uint8:
        kind = f'{values.ndim} dimensions and type {values.dtype}'
        return [f'{label} has {kind}: a label map is one 8-bit number a pixel (PNG mode L or P), not a picture']
    if values.shape[::-1] != size:
        return [f'{label} is {values.shape[1]}×{values.shape[0]}, its image {size[0]}×{size[1]}: they must be equal']
    if values.max() > classes:
        return [f'{label} has the value {values.max()}: 0 is unlabelled, 1 to {classes} are the classes']
    if not values.any():
        return [f'{label} is 0 everywhere, so nothing in it is labelled']
    return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('root', type=Path, help='the folder that the config calls data_root')
    parser.add_argument('--classes', type=int, help="number of classes (default: the data set's own)")
    parser.add_argument('--any-count', action='store_true', help='do not compare how many images there are')
    args = parser.parse_args(arguments)
    expected = dict(KINDS[args.kind])
    classes = expected.pop('classes')
    counts = {split: None if args.any_count else count for split, count in expected.items()}
    check = check_ade20k if args.kind == 'ade20k' else check_imagenet
    faults = check(args.root, args.classes or classes, counts) if args.root.is_dir() else [f'{args.root} is no folder']
    for fault in faults:
        print(f'fault: {fault}')
    print(
        f'{args.root}: {len(faults)} faults' if faults else f'{args.root} is laid out as the {args.kind} configs expect'
    )
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())
