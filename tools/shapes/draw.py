"""Shapes: a data set of drawn scenes in the layouts of ImageNet and ADE20K.

A scene repeats one species two to four times, in a row, a ring, a grid or a mirror image, so that
the visible things tell a masked one. Other species and a gray bar distract. A species has an
outline, a texture and a palette. Each texture and each palette belongs to two species, so neither
tells the class. With `--wrapped`, every second of the repeated things is a plain disc, whose label
only the things beside it tell.

    python tools/draw_shapes.py OUT --train 12000 --val 2000 --seed 0
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
from PIL import Image

from beit_mm.utils.installation import command
from shapes.layout import CLASSES, PALETTE, SPECIES
from shapes.scene import scene

__all__ = ['CLASSES', 'PALETTE', 'SPECIES', 'draw_dataset', 'scene']

VERSION = 3  # of what is drawn
# First scene of each split. Multiples of ten keep the class index % 10.
FIRST_INDEX = dict(train=0, val=10**9, training=2 * 10**9, validation=3 * 10**9)
IMAGENET_SPLITS = ('train', 'val')
CHUNK = 200  # images per task
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # fmt: skip


def draw_dataset(
    out: str | Path,
    train: int,
    val: int,
    seed: int = 0,
    size: int = 64,
    segmentation_train: int | None = None,
    segmentation_val: int | None = None,
    labels: tuple[int, ...] = (),
    jobs: int | None = None,
    wrapped: bool = False,
) -> bool:
    """Draw a data set: `out/imagenet` (folders and lists) and `out/ade20k` (images, label maps).

    All splits have different scenes. The files do not depend on `jobs`.

    Args:
        segmentation_train: images of `ade20k/…/training`; by default a tenth of `train`.
        segmentation_val: images of `ade20k/…/validation`; by default half of `val`.
        labels: for each n, also write lists of the first n images of the training splits.

    Returns False if the data set exists already. Raises ValueError if `out` has other content, or
    for impossible numbers.
    """
    out = Path(out)
    counts = dict(train=train, val=val)
    counts['training'] = train // 10 if segmentation_train is None else segmentation_train
    counts['validation'] = val // 2 if segmentation_val is None else segmentation_val
    largest = max(train, counts['training'])
    if min(counts.values()) < 0 or not all(0 < number <= largest for number in labels):
        raise ValueError(f'{counts}, labels={labels}: expected 0 or more, labels up to {largest}')
    scene(seed, 0, size)  # raises for a wrong seed or size
    settings = dict(version=VERSION, seed=seed, size=size, **counts, labels=sorted(set(labels)))
    if wrapped:
        settings['wrapped'] = True
    about = out / 'shapes.json'
    if about.exists() and json.loads(about.read_text()) == settings:
        print(f'{out} has this data set already', file=sys.stderr)
        return False
    if out.exists() and any(out.iterdir()):
        raise ValueError(
            f'{out} has other files than {settings}: choose another folder or delete it'
        )

    draft = out.with_name(f'{out.name}.unfinished')
    shutil.rmtree(draft, ignore_errors=True)
    for split in IMAGENET_SPLITS:
        for label in range(len(SPECIES)):
            (draft / 'imagenet' / split / _folder(label)).mkdir(parents=True)
    for folder in ('images/training', 'images/validation'):
        (draft / 'ade20k' / folder).mkdir(parents=True)
        (draft / 'ade20k' / folder.replace('images', 'annotations')).mkdir(parents=True)
    tasks = [
        (draft, split, first, min(first + CHUNK, count), seed, size, wrapped)
        for split, count in counts.items()
        for first in range(0, count, CHUNK)
    ]
    drawn = 0
    for number in _run(tasks, jobs or os.cpu_count() or 1):
        drawn += number
        print(f'\r{drawn}/{sum(counts.values())} images', end='', file=sys.stderr, flush=True)
    print(file=sys.stderr)
    _write_lists(draft, counts, labels)
    (draft / 'shapes.json').write_text(json.dumps(settings) + '\n')
    draft.rename(out)
    return True


def _folder(label: int) -> str:
    return f'n{label:08d}'  # sorted like the classes


def _name(split: str, number: int) -> str:
    if split in IMAGENET_SPLITS:
        return f'{_folder(number % len(SPECIES))}/shapes_{split}_{number:08d}.JPEG'
    return f'ADE_{"train" if split == "training" else "val"}_{number:08d}'


def _run(tasks: list[tuple], jobs: int) -> Iterator[int]:
    if jobs == 1 or len(tasks) < 2:
        yield from map(_draw, tasks)
        return
    context = multiprocessing.get_context('spawn')
    with context.Pool(min(jobs, len(tasks)), cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap_unordered(_draw, tasks)


def _draw(task: tuple) -> int:
    """Write images first … last - 1 of a split and return their number."""
    out, split, first, last, seed, size, wrapped = task
    colors = bytes([0, 0, 0, *(value for color in PALETTE for value in color)])
    for number in range(first, last):
        image, labels, _ = scene(seed, FIRST_INDEX[split] + number, size, wrapped)
        path = out / 'imagenet' / split / _name(split, number)
        if split not in IMAGENET_SPLITS:
            path = out / 'ade20k' / 'images' / split / f'{_name(split, number)}.jpg'
            label_map = Image.fromarray(labels)
            label_map.putpalette(colors)
            label_map.save(out / 'ade20k' / 'annotations' / split / f'{path.stem}.png')
        path.write_bytes(cv2.imencode('.jpg', image[..., ::-1], JPEG_OPTIONS)[1])
    return last - first


def _write_lists(out: Path, counts: dict[str, int], labels: tuple[int, ...]) -> None:
    meta = out / 'imagenet' / 'meta'
    meta.mkdir()
    (meta / 'classes.txt').write_text('\n'.join(SPECIES) + '\n')
    lists = [(meta / f'{split}.txt', split, counts[split]) for split in IMAGENET_SPLITS]
    for number in labels:
        lists.append((meta / f'train_{number}.txt', 'train', number))
        lists.append((out / f'ade20k/training_{number}.txt', 'training', number))
    for path, split, number in lists:
        if number <= counts[split]:
            names = [_name(split, i) for i in range(number)]
            if split in IMAGENET_SPLITS:
                names = [f'{name} {i % len(SPECIES)}' for i, name in enumerate(names)]
            path.write_text(''.join(f'{name}\n' for name in names))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        command('draw_shapes'), description='Draw the data set Shapes.'
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='folder for imagenet/ and ade20k/')
    parser.add_argument('--train', type=int, required=True, help='training images of imagenet/')
    parser.add_argument('--val', type=int, required=True, help='validation images of imagenet/')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=64, help='side of the images in pixels')
    parser.add_argument('--segmentation-train', type=int, help='default: a tenth of --train')
    parser.add_argument('--segmentation-val', type=int, help='default: half of --val')
    parser.add_argument('--labels', type=int, nargs='+', default=[], help='lists of N images')
    parser.add_argument('--jobs', type=int, help='processes; default: one per core')
    parser.add_argument('--wrapped', action='store_true', help='draw every second thing as a disc')
    try:
        draw_dataset(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        parser.error(str(error))
    return 0
