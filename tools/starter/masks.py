"""Images with masks: which belong together, what the values mean, and colors as class numbers."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from image_folders.listing import list_images
from PIL import Image

from beit_mm.data.image_files import SUFFIXES
from beit_mm.data.label_maps import IGNORE, group_messages, read_label_maps
from beit_mm.utils.arguments import join_names

from .images import TRAIN, VAL, Split, find_splits, hold_out

IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'JPEGImages')
MASK_FOLDERS = ('annotations', 'masks', 'mask', 'labels', 'label', 'SegmentationClass')
SAMPLE_SIZE, READ_SECONDS = 500, 20
HINT = (
    'Write a table with lines such as `background 0` and `object 255`, or `road 128 64 128`, and '
    'pass it as --colors FILE'
)


@dataclass
class Pairs(Split):
    """Images and masks of one split.

    An entry is a stem: the mask of `stem + img_suffix` in `folder` is `stem + seg_map_suffix` in
    `masks`.
    """

    masks: Path = Path()
    img_suffix: str = ''
    seg_map_suffix: str = ''

    @property
    def names(self) -> list[str]:
        return [f'{stem}{self.img_suffix}' for stem in self.entries]

    def paths(self) -> Iterator[tuple[Path, Path]]:
        for stem, name in zip(self.entries, self.names, strict=True):
            yield self.folder / name, self.masks / f'{stem}{self.seg_map_suffix}'


def find_pairs(folder: Path, masks: Path | None, out: Path) -> dict[str, Pairs]:
    """Find the images and masks of both splits.

    `folder` holds images and masks in sub-folders, or is the folder of the images if `masks` is
    given. Without split folders, a tenth of the images is held out.
    """
    if not masks and (splits := find_splits(folder)):  # train/images, train/masks
        folders = {name: _find_folders(path) for name, path in splits.items()}
    else:
        images, masks = (folder, masks) if masks else _find_folders(folder)
        in_images, in_masks = find_splits(images), find_splits(masks)
        if bool(in_images) != bool(in_masks):
            raise ValueError(
                f'{images} and {masks}: expected sub-folders {TRAIN[0]} and {VAL[0]} in both or in '
                'none'
            )
        if not in_images:
            return _hold_out(match(images, masks), out)
        folders = {name: (in_images[name], in_masks[name]) for name in in_images}
    pairs = {name: match(*both) for name, both in folders.items()}
    for name, split in pairs.items():
        if split.list_file:
            split.list_file = out.with_name(f'{out.stem}_{name}.txt')
    return pairs


def match(images: Path, masks: Path) -> Pairs:
    """Match images and masks by name; a mask may have a further suffix, as in `1_mask.png`.

    Raises ValueError if no mask fits, or the suffixes differ.
    """
    names, mask_names = list_images(images, SUFFIXES), list_images(masks, SUFFIXES)
    stems = {str(Path(name).with_suffix('')): Path(name).suffix for name in names}
    mask_stems = {str(Path(name).with_suffix('')): Path(name).suffix for name in mask_names}
    tails = Counter({'': len(stems.keys() & mask_stems.keys())})
    if not tails['']:
        for mask in mask_stems:
            tails.update(mask[len(stem) :] for stem in stems if mask.startswith(stem))
    tail, count = tails.most_common(1)[0]
    if not count:
        raise ValueError(
            f'no mask in {masks} has the name of an image in {images}: expected 1.png, or '
            '1_mask.png, for 1.jpg'
        )
    both = sorted(stem for stem in stems if stem + tail in mask_stems)
    suffixes = Counter(stems[stem] for stem in both)
    mask_suffixes = Counter(tail + mask_stems[stem + tail] for stem in both)
    for place, found in ((images, suffixes), (masks, mask_suffixes)):
        if len(found) > 1:
            counts = ', '.join(f'{number} {suffix}' for suffix, number in found.items())
            raise ValueError(
                f'{place} has files with several suffixes ({counts}): expected one, because data '
                'sets of mmseg list one suffix. Convert the others'
            )
    pairs = Pairs(
        images,
        both,
        masks=masks,
        img_suffix=next(iter(suffixes)),
        seg_map_suffix=next(iter(mask_suffixes)),
    )
    if len(both) < max(len(names), len(mask_names)):
        print(f'remark: {len(both)} of {len(names)} images in {images} have a mask in {masks}')
        pairs.list_file = Path('list')  # `find_pairs` names it
    return pairs


def convert_colors(pairs: dict[str, Pairs], table: Path, out: Path) -> list[str]:
    """Write the masks again with class numbers beside `out`; return the names of the classes.

    Raises ValueError for a color that the table does not have.
    """
    names, numbers, has_colors = read_table(table)
    for split_name, split in pairs.items():
        target = out.with_name(f'{out.stem}_masks') / split_name
        convert = partial(
            _convert,
            source=split,
            target=target,
            table=table,
            numbers=numbers,
            has_colors=has_colors,
        )
        with ProcessPoolExecutor() as pool:
            faults = [text for text in pool.map(convert, split.entries, chunksize=16) if text]
        if faults:
            raise ValueError('\n'.join(group_messages({text: text for text in faults})))
        split.masks, split.seg_map_suffix = target, '.png'
    return names


def read_table(path: Path) -> tuple[list[str], dict[int, int], bool]:
    """Read lines `name R G B` or `name VALUE`. Pixels of the name `ignore` are ignored.

    Returns the names of the classes, color code or value → number, and whether there are colors.
    """
    names, numbers, has_colors = [], {}, False
    for line in filter(None, map(str.strip, path.read_text(encoding='utf-8').splitlines())):
        parts = re.fullmatch(r'(.+?)\s+(\d{1,3})(?:\s+(\d{1,3})\s+(\d{1,3}))?', line)
        if not parts:
            raise ValueError(f'{path}: {line!r} is not a name with one value or three. {HINT}')
        name, *values = parts.groups()
        values = [int(value) for value in values if value]
        if name != 'ignore' and name not in names:
            names.append(name)
        code = sum(value << 8 * place for place, value in enumerate(reversed(values)))
        numbers[code] = IGNORE if name == 'ignore' else names.index(name)
        has_colors |= len(values) == 3
    if len(names) < 2:
        raise ValueError(f'{path} names {len(names)} classes: expected at least 2. {HINT}')
    return names, numbers, has_colors


def _convert(
    stem: str, source: Pairs, target: Path, table: Path, numbers: dict[int, int], has_colors: bool
) -> str | None:
    """Write one mask; return why it is not possible, or None."""
    path = source.masks / f'{stem}{source.seg_map_suffix}'
    with Image.open(path) as mask:
        codes = np.asarray(mask.convert('RGB') if has_colors else mask, np.int32)
    if has_colors:
        codes = codes @ np.array([1 << 16, 1 << 8, 1])
    if codes.ndim != 2:
        return f'{path} has colors, and {table} has one value per class. {HINT}'
    values, places = np.unique(codes, return_inverse=True)
    if unknown := [code for code in values.tolist() if code not in numbers]:
        color = unknown[0]
        shown = f'{color >> 16} {color >> 8 & 255} {color & 255}' if has_colors else str(color)
        return f'{path} has the value {shown}, which {table} does not have'
    classes = np.array([numbers[value] for value in values.tolist()], np.uint8)
    out = target / f'{stem}.png'
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes[places.reshape(codes.shape)]).save(out)
    return None


@dataclass
class Values:
    """Values of the masks: numbers of classes, whether 0 is a class, and shares of pixels."""

    count: int  # classes
    zero_is_class: bool
    shares: list[float]  # of the pixels, per class


def read_values(split: Pairs, ask_zero: Callable[[str], str]) -> Values:
    """Read a sample of the masks.

    If 0 occurs, `ask_zero` gets the values as text and returns 'background' or 'ignore'.
    Raises ValueError if masks cannot be read, have colors, or have one class only.
    """
    pairs = list(split.paths())
    sample = random.Random(0).sample(pairs, min(SAMPLE_SIZE, len(pairs)))
    maps = read_label_maps(sample, len(pairs), READ_SECONDS)
    if maps.faults:
        text = '\n'.join(group_messages(maps.faults))
        raise ValueError(f'{text}\nIf colors or values stand for classes: {HINT}')
    counts = sum(maps.counts.values())
    found = np.flatnonzero(counts).tolist()
    values = [value for value in found if value != IGNORE]
    shown = join_names(list(map(str, found)))
    shown = f'{maps} of {split.masks} have the values {shown}'
    only_one = f'{shown}, of which {IGNORE} means ignored, so there is only one class'
    if len(values) < 2:
        raise ValueError(f'{only_one}: expected at least two. {HINT}')
    zero = ask_zero(shown) if 0 in values else None
    if zero == 'ignore' and len(values) == 2:
        raise ValueError(f'{shown}. Without 0 only one class remains: pass --zero background')
    zero_is_class = zero == 'background'
    first = 0 if zero_is_class else 1
    pixels = counts[first:IGNORE]
    count = max(values) + 1 - first
    shares = (pixels[:count] / counts[:IGNORE].sum()).tolist()
    return Values(count, zero_is_class, shares)


def _find_folders(folder: Path) -> tuple[Path, Path]:
    found = []
    for names in (IMAGE_FOLDERS, MASK_FOLDERS):
        existing = next((folder / name for name in names if (folder / name).is_dir()), None)
        if existing is None:
            raise ValueError(
                f'{folder} has none of the folders {join_names(list(names))}. Pass the folder of '
                'the images, and --masks FOLDER'
            )
        found.append(existing)
    return found[0], found[1]


def _hold_out(pairs: Pairs, out: Path) -> dict[str, Pairs]:
    held_out = set(hold_out(pairs.entries))
    splits = {}
    for name in ('train', 'val'):
        stems = [stem for stem in pairs.entries if (stem in held_out) == (name == 'val')]
        list_file = out.with_name(f'{out.stem}_{name}.txt')
        splits[name] = replace(pairs, entries=stems, list_file=list_file)
    return splits
