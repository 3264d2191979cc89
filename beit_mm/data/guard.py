"""The sample guard: in a data set that is built, the hosts' loaders are replaced by those of `reading`.

Configs keep the hosts' names, which their inferencers look for. `SeededDataset` guards what it wraps, and `CheckSamples`, which
`tools/train.py` and `tools/test.py` register, the data sets of a run that are not wrapped: validation and test.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mmcv.transforms
from mmcv.transforms import BaseTransform, TestTimeAug
from mmengine.dataset import BaseDataset
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..registry import HOOKS
from ..utils.config_tree import kind
from .class_numbers import difference
from .reading import (
    MAX_PIXELS,
    SUFFIXES,
    BadSample,
    decode_bands,
    decode_image,
    decode_labels,
    read_bytes,
    to_classes,
)

SHARED = 500  # iterations


class CheckLabel(BaseTransform):
    """First of a pipeline: a class label is 0 … classes − 1. Raises BadSample that names the image."""

    def __init__(self, classes: int | None):
        self.classes = classes

    def transform(self, results: dict) -> dict:
        label = results.get('gt_label')
        for one in label if isinstance(label, (list, tuple)) else () if label is None else (label,):
            if not 0 <= one < (self.classes or one + 1):
                end = '' if self.classes is None else f' to {self.classes - 1}'
                raise BadSample(
                    f'{results.get("img_path")} has the label {one}: classes are numbered 0{end}'
                )
        return results


DECODERS = dict(color=decode_image, unchanged=decode_bands)  # by LoadImageFromFile's color_type


class ReadImage(BaseTransform):
    """Replaces mmcv's LoadImageFromFile: adds `img`, `img_shape`, `ori_shape`, `exif_orientation`.

    `img` is uint8: with `color_type='color'` BGR [H, W, 3], with 'unchanged' the bands that are stored (`decode_bands`).
    """

    channels: int | None = (
        None  # of the data preprocessor's mean: hosts repeat a single channel without a word
    )

    def __init__(self, host: mmcv.transforms.LoadImageFromFile, max_pixels: int):
        self.host, self.max_pixels = host, max_pixels

    def transform(self, results: dict) -> dict:
        path = results['img_path']
        content = read_bytes(path, self.host.backend_args)
        image, results['exif_orientation'] = DECODERS[self.host.color_type](
            path, content, self.max_pixels
        )
        found = image.shape[2] if image.ndim == 3 else 1
        if self.channels not in (None, found):
            raise BadSample(
                f'{path} has {found} channels, expected {self.channels} as in mean and std of data_preprocessor'
            )
        results['img'] = image.astype('float32') if self.host.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class ReadLabels(BaseTransform):
    """In place of mmseg's LoadAnnotations: adds `gt_seg_map`, uint8 [H, W] of class ids and 255."""

    def __init__(self, host: BaseTransform, classes: int | None, max_pixels: int):
        self.host, self.classes, self.max_pixels = host, classes, max_pixels

    def transform(self, results: dict) -> dict:
        path, reduce = results['seg_map_path'], results['reduce_zero_label']
        if self.host.reduce_zero_label not in (None, reduce):
            raise ValueError(
                f'reduce_zero_label is {reduce} in the data set and {self.host.reduce_zero_label} in LoadAnnotations: make '
                'them equal'
            )
        ids = decode_labels(
            path,
            read_bytes(path, self.host.backend_args),
            results['ori_shape'],
            results.get('exif_orientation', 1),
            self.max_pixels,
        )
        results['gt_seg_map'] = to_classes(
            path, ids, self.classes, reduce, results.get('label_map')
        )
        results['seg_fields'].append('gt_seg_map')
        return results


def guard(
    dataset: Dataset, max_pixels: int = MAX_PIXELS, classes: int | None = None, skip: bool = False
) -> Dataset:
    """The same data set, whose files are read rightly or raise BadSample; again, or of another kind, nothing changes.

    Wrappers and test-time augmentation are entered. Loaders that are not the hosts' plain ones stay as they are.

    Args:
        max_pixels: more than these are not decoded.
        classes: how many there are; as many as the data set names unless told.
        skip: log broken links to images instead of raising BadSample.

    Raises ValueError for a folder of a class that holds no image, and BadSample for a broken link to an image.
    """
    for leaf in leaves(dataset):
        if not any(isinstance(step, CheckLabel) for step in leaf.pipeline.transforms):
            _refuse_what_listing_hides(leaf, skip)
            known = classes or len(leaf.metainfo.get('classes') or ()) or None
            replace_loaders(leaf.pipeline.transforms, known, max_pixels)
            leaf.pipeline.transforms.insert(0, CheckLabel(known))
    return dataset


def expect_channels(dataset: Dataset, mean: object) -> None:
    """Have a guarded data set refuse images with another number of channels than the `mean` of a data preprocessor."""
    if mean is None or len(mean) == 1:  # one mean for all channels
        return
    for leaf in leaves(dataset):
        steps = list(leaf.pipeline.transforms)
        steps += [
            inner
            for step in steps
            if isinstance(step, TestTimeAug)
            for b in step.subroutines
            for inner in b.transforms
        ]
        for step in steps:
            if isinstance(step, ReadImage):
                step.channels = len(mean)


def leaves(dataset: Dataset) -> Iterator[BaseDataset]:
    """The data sets inside all wrappers that have a pipeline."""
    if isinstance(dataset, BaseDataset):
        yield dataset
    else:
        for inner in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
            if inner is not None:
                yield from leaves(inner)


def read_only(leaf: BaseDataset, index: int) -> dict:
    """Of a guarded data set: a sample as its loaders read it, before it is resized, augmented and packed.

    Raises BadSample as training would.
    """
    results = leaf.get_data_info(index)
    steps = list(leaf.pipeline.transforms)
    steps += [
        inner
        for step in steps
        if isinstance(step, TestTimeAug)
        for inner in step.subroutines[0].transforms
    ]
    for step in steps:
        if isinstance(step, mmcv.transforms.LoadImageFromFile):
            try:
                results = step.transform(results)
            except Exception as error:  # of the decoder that the user chose
                raise BadSample(f'{results["img_path"]} cannot be read: {error}') from error
        if isinstance(step, (CheckLabel, ReadImage, ReadLabels)):
            results = step.transform(results)
    return results


def replace_loaders(steps: list, classes: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
    """Replace the hosts' plain loaders in a pipeline's steps, in place."""
    for place, step in enumerate(steps):
        if isinstance(step, TestTimeAug):
            for branch in step.subroutines:
                replace_loaders(branch.transforms, classes, max_pixels)
        elif type(step) is mmcv.transforms.LoadImageFromFile:
            own = (
                step.imdecode_backend != 'cv2'
                or step.file_client_args is not None
                or step.ignore_empty
            )
            if step.color_type in DECODERS and not own:  # what the user chose otherwise stays
                steps[place] = ReadImage(step, max_pixels)
        elif (
            f'{type(step).__module__}.{type(step).__name__}'
            == 'mmseg.datasets.transforms.loading.LoadAnnotations'
        ):
            steps[place] = ReadLabels(step, classes, max_pixels)


def list_readable(node: object) -> object:
    """Return a data set's config in which each CustomDataset (or ImageNet) of folders lists all files of `SUFFIXES`.

    mmpretrain's default leaves out `.webp`, `.tiff` and `.npy`. A config's own `extensions` stay.
    """
    if isinstance(node, (list, tuple)):
        return type(node)(map(list_readable, node))
    if not isinstance(node, dict):
        return node
    node = type(node)(
        {key: value if key == 'pipeline' else list_readable(value) for key, value in node.items()}
    )
    if kind(node) in ('CustomDataset', 'ImageNet', 'ImageNet21k') and not node.get('ann_file'):
        node.setdefault('extensions', SUFFIXES)
    return node


def words_of_unlisted(leaf: BaseDataset) -> str | None:
    """Say which images in its folder a data set does not list, and how to change that; None if it lists all."""
    return _say_unlisted(leaf, _walk(leaf)[0])


def _say_unlisted(leaf: BaseDataset, found: Counter[str]) -> str | None:
    if not found:
        return None
    numbers = ', '.join(f'{number} {suffix}' for suffix, number in sorted(found.items()))
    setting = 'extensions' if hasattr(leaf, 'extensions') else 'img_suffix'
    return (
        f'{leaf.data_prefix["img_path"]}: images that the data set does not list, by suffix: {numbers}. Convert or rename them, '
        f'or set `{setting}` in the data set'
    )


def _walk(leaf: BaseDataset) -> tuple[Counter[str], list[str]]:
    """Return (how many images the data set does not list, by suffix; the broken links) in the folder of a data set."""
    unlisted, broken = Counter(), []
    prefix = (leaf.data_prefix or {}).get('img_path')
    if leaf.ann_file or not prefix or not os.path.isdir(prefix):
        return unlisted, broken
    images = tuple({*Image.registered_extensions(), *SUFFIXES}) if _knows_suffixes(leaf) else ()
    for folder, _, names in os.walk(prefix, followlinks=True):
        if not names:
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith('.'):
                    continue
                if entry.is_symlink() and not os.path.exists(entry.path):
                    broken.append(entry.path)
                elif entry.name.lower().endswith(images) and not _is_image(leaf, entry.name):
                    unlisted[os.path.splitext(entry.name)[1]] += 1
    return unlisted, broken


def _refuse_what_listing_hides(leaf: BaseDataset, skip: bool) -> None:
    """Check what listing a folder hides: files of other suffixes, broken links, and classes without an image."""
    unlisted, broken = _walk(leaf)
    if words := _say_unlisted(leaf, unlisted):
        print_log(words, 'current', logging.WARNING)
    for path in broken:
        _judge_broken_link(leaf, path, skip)
    for name in (getattr(leaf, 'folder_to_idx', None) or ()) if not leaf.ann_file else ():
        folder = Path(leaf.data_prefix['img_path'], name)
        if not any(leaf.is_valid_file(str(file)) for file in folder.rglob('*')):
            raise ValueError(
                f'{folder} is the folder of a class and holds no image ({", ".join(leaf.extensions)}): put some there, or '
                'remove it in every split'
            )


def _knows_suffixes(leaf: BaseDataset) -> bool:
    return hasattr(leaf, 'is_valid_file') or hasattr(leaf, 'img_suffix')


def _judge_broken_link(leaf: BaseDataset, path: str, skip: bool) -> None:
    """Raise or log if the link is named like an image, log if it may have been a folder, else ignore it."""
    words = f'{path}, a link to {os.readlink(path)}: No such file; fix or remove the link'
    if _is_image(leaf, path):
        if not skip:
            raise BadSample(words)
        print_log(f'skipped: {words}', 'current', logging.WARNING)
    elif not os.path.splitext(path)[1]:
        print_log(
            f'{words}. If it was a folder, its images are missing', 'current', logging.WARNING
        )


def _is_image(leaf: BaseDataset, path: str) -> bool:
    """Whether the data set would list a file of this name."""
    if hasattr(leaf, 'is_valid_file'):
        return leaf.is_valid_file(path)
    return hasattr(leaf, 'img_suffix') and path.endswith(leaf.img_suffix)


def _mean_of(model: nn.Module) -> Tensor | None:
    model = getattr(model, 'module', model)  # of a wrapper
    return getattr(getattr(model, 'data_preprocessor', None), 'mean', None)


@HOOKS.register_module()
class CheckSamples(Hook):
    """Guards the data sets of a run before their first sample is read, also those that no SeededDataset wraps.

    On several ranks, every `SHARED` iterations, it adds up the bad samples that a SeededDataset has skipped. Testing a
    checkpoint on data whose classes have other numbers than those it was trained on raises ValueError.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        for loop in (
            runner._train_loop,
            runner._val_loop,
            runner._test_loop,
        ):  # a loop of no use here is still a dict
            if hasattr(loop, 'dataloader'):
                expect_channels(guard(loop.dataloader.dataset), _mean_of(runner.model))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if get_world_size() > 1 and self.every_n_train_iters(runner, SHARED):
            getattr(runner.train_dataloader.dataset, 'share_bad', lambda: None)()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        tested = getattr(getattr(runner._test_loop, 'dataloader', None), 'dataset', None)
        meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
        places = 'the checkpoint', 'test_dataloader'
        learned, own = (
            {name: number for number, name in enumerate(each.get('classes') or ())}
            for each in (meta, getattr(tested, 'metainfo', {}))
        )
        if not learned or not own:
            return
        shared = [
            {name: each[name] for name in each if name in learned and name in own}
            for each in (learned, own)
        ]
        if words := difference(places[0], shared[0], places[1], shared[1]):
            raise ValueError(
                f'{words}: test it on data with the classes in the order that it was trained with'
            )
        if words := difference(places[0], learned, places[1], own):
            runner.logger.warning(f'the classes differ: {words}')
