"""Shapes: an embedded data set of drawn scenes, in ImageNet's and ADE20K's own layouts.

A scene repeats one species two to four times, in a row, a ring, a grid or a mirror image: a hidden object can be told
from the visible ones. Other species and a grey bar lie about as distraction. A species is an outline, a texture and a
palette; each texture and each palette belongs to two species, so neither tells the class. With `--wrapped` every second of
the repeated things is a plain disc: the label of its pixels has to come from the things beside it. A scene is a pure
function of (seed, index), planned in `shapes.layout`, drawn in `shapes.scene`; this file writes
them.

    python tools/draw_shapes.py OUT --train 12000 --val 2000 --seed 0
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
from PIL import Image

from shapes.layout import CLASSES, PALETTE, SPECIES
from shapes.scene import scene

__all__ = ['CLASSES', 'PALETTE', 'SPECIES', 'scene', 'write']

VERSION = 3  # of what is drawn: a folder drawn by another version is not taken for this one's
# The first index of each split, so far apart that the splits never meet; multiples of ten keep index % 10 the class.
_FIRST = dict(train=0, val=10**9, training=2 * 10**9, validation=3 * 10**9)


def _wnid(label: int) -> str:
    return f'n{label:08d}'  # sorts as the classes do: a reader without the list counts the same ids


def _name(split: str, number: int, label: int) -> str:
    if split in ('train', 'val'):
        return f'{_wnid(label)}/shapes_{split}_{number:08d}.JPEG'
    return f'ADE_{"train" if split == "training" else "val"}_{number:08d}'


def _draw(task: tuple[Path, str, int, int, int, int, bool]) -> int:
    """Write the images first … last − 1 of a split; how many."""
    out, split, first, last, seed, size, wrapped = task
    quality = [
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    colours = bytes([0, 0, 0, *(value for colour in PALETTE for value in colour)])
    for number in range(first, last):
        image, labels, label = scene(seed, _FIRST[split] + number, size, wrapped)
        name = _name(split, number, label)
        if split in ('train', 'val'):
            path = out / 'imagenet' / split / name
        else:
            path = out / 'ade20k' / 'images' / split / f'{name}.jpg'
            indexed = Image.fromarray(labels)
            indexed.putpalette(colours)
            indexed.save(out / 'ade20k' / 'annotations' / split / f'{name}.png')
        path.write_bytes(cv2.imencode('.jpg', image[..., ::-1], quality)[1])
    return last - first


def _run(tasks: list, jobs: int) -> Iterator[int]:
    if jobs == 1:
        yield from map(_draw, tasks)
        return
    with multiprocessing.get_context('spawn').Pool(jobs, cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap_unordered(_draw, tasks)


def write(
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
    """Draw a data set: `out/imagenet` (folders and `meta`) and `out/ade20k` (images, annotations).

    All splits are disjoint scenes. The files are the same for any number of jobs.

    Args:
        segmentation_train: images of `ade20k/…/training`; a tenth of `train` unless told.
        segmentation_val: images of `ade20k/…/validation`; half of `val` unless told.
        labels: for each n the lists `imagenet/meta/train_n.txt` and `ade20k/training_n.txt` of the first n images
            (classes alternate); a list is left out where the split is smaller than n.
        jobs: processes; one a core unless told.
        wrapped: every second of the repeated things is a plain disc, whose species only the others tell.

    Returns:
        False where the finished data set was there already.

    Raises:
        ValueError: `out` holds something else, or a number makes no sense.
    """
    out = Path(out)
    counts = dict(train=train, val=val)
    counts['training'] = train // 10 if segmentation_train is None else segmentation_train
    counts['validation'] = val // 2 if segmentation_val is None else segmentation_val
    for split, count in counts.items():
        if not 0 <= count <= 10**8:
            raise ValueError(f'{split}: {count} images asked for, 0 to 10^8 are possible')
    for number in labels:
        if not 0 < number <= max(train, counts['training']):
            raise ValueError(
                f'--labels {number}: needs 1 to {max(train, counts["training"])}, the larger training split'
            )
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f'jobs: {jobs} processes asked for, at least one is needed')
    scene(seed, 0, size)  # a bad seed or size is told before anything is written

    wanted = dict(version=VERSION, seed=seed, size=size, **counts, labels=sorted(set(labels)))
    if wrapped:
        wanted['wrapped'] = True
    done, begun = out / 'shapes.json', out / 'shapes.unfinished.json'
    for manifest in (done, begun):
        if manifest.exists() and json.loads(manifest.read_text()) != wanted:
            raise ValueError(
                f'{out} holds another data set ({manifest.name}: {manifest.read_text().strip()}; wanted: '
                f'{json.dumps(wanted)}): choose another folder or delete this one'
            )
    if done.exists():
        print(f'{out} holds this data set already, nothing drawn', file=sys.stderr)
        return False
    if not begun.exists() and out.exists() and any(out.iterdir()):
        raise ValueError(
            f'{out} is not empty and not drawn by this command: choose another folder or delete this one'
        )

    for split in ('train', 'val'):
        for label in range(len(SPECIES)):
            (out / 'imagenet' / split / _wnid(label)).mkdir(parents=True, exist_ok=True)
    (out / 'imagenet' / 'meta').mkdir(parents=True, exist_ok=True)
    for kind in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (out / 'ade20k' / kind / split).mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(wanted) + '\n')

    tasks = [
        (out, split, first, min(first + 200, count), seed, size, wrapped)
        for split, count in counts.items()
        for first in range(0, count, 200)
    ]
    total, drawn, start, told = sum(counts.values()), 0, time.monotonic(), -math.inf
    for number in _run(tasks, min(jobs, max(1, len(tasks)))):
        drawn += number
        now = time.monotonic()
        if now - told >= 2 or drawn == total:
            told, rate = now, drawn / max(now - start, 1e-9)
            print(
                f'{drawn}/{total} images, {rate:.0f}/s, ETA {(total - drawn) / rate:.0f} s',
                file=sys.stderr,
            )

    def listing(split: str, count: int) -> str:
        named = [(_name(split, i, i % len(SPECIES)), i % len(SPECIES)) for i in range(count)]
        return ''.join(
            f'{name} {label}\n' if split in ('train', 'val') else f'{name}\n'
            for name, label in named
        )

    meta = out / 'imagenet' / 'meta'
    (meta / 'classes.txt').write_text('\n'.join(SPECIES) + '\n')
    for split in ('train', 'val'):
        (meta / f'{split}.txt').write_text(listing(split, counts[split]))
    for number in labels:
        for path, split in (
            (meta / f'train_{number}.txt', 'train'),
            (out / f'ade20k/training_{number}.txt', 'training'),
        ):
            if number <= counts[split]:
                path.write_text(listing(split, number))
    os.replace(begun, done)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        'python tools/draw_shapes.py',
        description='Draw the data set Shapes in ImageNet and ADE20K layout.',
    )
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='folder to write: imagenet/ and ade20k/ in it'
    )
    parser.add_argument('--train', type=int, required=True, help='images to train on (imagenet)')
    parser.add_argument('--val', type=int, required=True, help='images to validate on (imagenet)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=64, help='pixels a side')
    parser.add_argument(
        '--segmentation-train',
        type=int,
        help='images to train on (ade20k); default: a tenth of --train',
    )
    parser.add_argument(
        '--segmentation-val',
        type=int,
        help='images to validate on (ade20k); default: half of --val',
    )
    parser.add_argument(
        '--labels',
        type=int,
        nargs='+',
        default=[],
        help='also lists of the first N training images',
    )
    parser.add_argument('--jobs', type=int, help='processes; default: one a core')
    parser.add_argument(
        '--wrapped', action='store_true', help='every second of the repeated things is a plain disc'
    )
    try:
        write(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0
