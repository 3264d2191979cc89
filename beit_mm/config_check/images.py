"""Check sizes, channels and colors of the images, from the pipeline to the backbone."""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from PIL import Image

from ..utils.config_tree import get, kind, nodes, walk
from .finding import IMAGENET, Finding

# Argument that holds the size of the images after a step.
SIZE_ARGUMENTS = dict(
    TwoViews='size', RandomCrop='crop_size', CenterCrop='crop_size', RandomResizedCrop='scale',
    EfficientNetRandomCrop='scale', EfficientNetCenterCrop='crop_size',
)  # fmt: skip
# Other steps keep the size of an image, unless one of these words is in their name.
RESIZING = (
    'Crop', 'Resize', 'Pad', 'Choice', 'Apply', 'Albumentations', 'Affine', 'Mosaic', 'Expand',
    'torchvision',
)  # fmt: skip
CHANNELS = dict(color=3, grayscale=1)  # by LoadImageFromFile.color_type
RGB_TRANSFORMS = (
    'ColorJitter', 'PhotoMetricDistortion', 'RandAugment', 'AutoAugment', 'RandomGrayscale',
    'Lighting',
)  # fmt: skip
SAMPLED_IMAGES = 50
Size = tuple[int, int]


def size_after(pipeline: object) -> Size | None:
    """Return (height, width) of the images that a pipeline returns; None if it is not fixed."""
    size = None
    for step in pipeline if isinstance(pipeline, list | tuple) else ():
        name = kind(step)
        if name in SIZE_ARGUMENTS:
            size = _as_size(step.get(SIZE_ARGUMENTS[name], 224 if name == 'TwoViews' else None))
        elif name == 'Resize':
            size = _as_size(step.get('scale'))
            size = None if step.get('keep_ratio') or not size else size[::-1]  # (width, height)
        elif name == 'ResizeEdge' and size and size[0] == size[1]:
            size = _as_size(step.get('scale'))
        elif any(word in name for word in RESIZING):
            size = None
    return size


def check_image_sizes(cfg: dict) -> Iterator[Finding]:
    """Yield sizes that are no multiple of the patch, and an `img_size` other than the images'."""
    for path, backbone in find_backbones(cfg):
        patch, img_size = backbone.get('patch_size', 16), backbone.get('img_size', 224)
        what, expected = f'{path}.img_size={img_size}', _as_size(img_size)
        for place, size, is_padded in [(what, expected, False), *_fed_sizes(cfg)]:
            if size and any(side % patch for side in size):
                near = tuple(max(side // patch, 1) * patch for side in size)
                effect = f'{size[0]}×{size[1]} pixels are no multiple of patch_size={patch}'
                if not is_padded:
                    yield Finding(place, f'{effect}: set {_as_setting(near)}')
                if place == what:
                    break
            elif size and expected and size != expected:
                here, grid = (f'{high // patch}×{wide // patch}' for high, wide in (size, expected))
                effect = (
                    f'{place} gives {size[0]}×{size[1]} pixels, so positions are interpolated from '
                    f'{grid} to {here} patches. Set img_size={_as_setting(size)}'
                )
                yield Finding(what, effect, stops=False)


def check_test_sizes(cfg: dict) -> Iterator[Finding]:
    """Yield test images that mmseg does not pad: it pads them by `test_cfg` alone."""
    slides = get(cfg, 'model', 'test_cfg', 'mode') == 'slide'
    if cfg.get('default_scope') != 'mmseg' or slides or _get_preprocessor(cfg).get('test_cfg'):
        return
    for _, backbone in find_backbones(cfg):
        patch = backbone.get('patch_size', 16)
        for place, pipeline in find_pipelines(cfg, 'val'):
            if any(kind(step) == 'Resize' and step.get('keep_ratio') for step in pipeline):
                effect = (
                    f'sides may be no multiples of patch_size={patch}. '
                    f'Set data_preprocessor.test_cfg=dict(size_divisor={patch}); '
                    'size_divisor itself is for training alone'
                )
                yield Finding(f'{place} resizes with keep_ratio=True', effect, stops=False)


def check_test_batch(cfg: dict) -> Iterator[Finding]:
    """Yield a validation batch of images of different sizes, which mmseg cannot stack."""
    batch, dataset = (get(cfg, 'val_dataloader', key) for key in ('batch_size', 'dataset'))
    if cfg.get('default_scope') != 'mmseg' or batch in (None, 1):
        return
    for path, node in walk(dataset, 'val_dataloader.dataset'):
        pipeline, folder = node.get('pipeline'), get(node, 'data_prefix', 'img_path')
        if pipeline and folder and size_after(pipeline) is None:
            sizes = set(_image_sizes(os.path.join(node.get('data_root') or '', folder)))
            if len(sizes) > 1:
                two = ' and '.join(f'{height}×{width}' for height, width in sorted(sizes)[:2])
                effect = f'{path} has images of {two} pixels, which do not fit in one batch. Set 1'
                yield Finding(f'val_dataloader.batch_size={batch}', effect)


def _image_sizes(folder: str) -> Iterator[Size]:
    """Yield (height, width) of some images of a folder, from their headers."""
    for path in islice(Path(folder).glob('*'), SAMPLED_IMAGES):
        with suppress(OSError), Image.open(path) as image:  # not an image, or named in training
            yield image.size[::-1]


def check_channels(cfg: dict) -> Iterator[Finding]:
    """Yield images and a preprocessor with another number of channels than the backbone."""
    mean = _get_preprocessor(cfg).get('mean')
    for path, backbone in find_backbones(cfg, 'BEiT', 'DiscreteVAE'):
        channels = backbone.get('in_channels', 3)
        what = f'{path}.in_channels={channels}'
        for place, pipeline in find_pipelines(cfg, 'train', 'val'):
            first = next(iter(pipeline), {})
            given = CHANNELS.get(get(first, 'color_type') or 'color')
            if kind(first) == 'LoadImageFromFile' and given and given != channels:
                fix = f'set in_channels={given} or color_type'
                yield Finding(what, f'{place}.0 gives {given} channel(s): {fix}')
        if isinstance(mean, list | tuple) and len(mean) not in (1, channels):
            effect = f'data_preprocessor.mean has {len(mean)} values: expected {channels}'
            yield Finding(what, effect)


def check_channel_order(cfg: dict) -> Iterator[Finding]:
    """Yield a preprocessor that keeps images BGR, though its mean is for RGB.

    `ConvertCheckpoint` compares the order with that of the weights when it loads them.
    """
    preprocessor = _get_preprocessor(cfg)
    converts = any(preprocessor.get(key) for key in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'))
    has_views = kind(cfg.get('model')) == 'BEiTPretrainer'  # TwoViews returns RGB
    is_rgb = tuple(preprocessor.get('mean') or ()) == IMAGENET[0]
    if is_rgb and not converts and not has_views and any(find_backbones(cfg)):
        setting = 'bgr_to_rgb' if cfg.get('default_scope') == 'mmseg' else 'to_rgb'
        effect = f'images stay BGR, but its mean is for red, green, blue: set {setting}=True'
        yield Finding('data_preprocessor', effect, stops=False)


def check_color_transforms(cfg: dict) -> Iterator[Finding]:
    """Yield transforms that need RGB images, and our ColorJitter without TwoViews."""
    others = {backbone.get('in_channels', 3) for _, backbone in find_backbones(cfg)} - {3}
    ours = ['beit_mm.ColorJitter']
    if cfg.get('default_scope') == 'beit_mm':
        ours.append('ColorJitter')
    for place, pipeline in find_pipelines(cfg, 'train', 'val'):
        names = [kind(step) for step in pipeline]
        for i, (name, step) in enumerate(zip(names, pipeline, strict=True)):
            effect = None
            if name in RGB_TRANSFORMS and others:
                effect = f'it is defined for RGB, and in_channels is {max(others)}: remove it'
            elif step.get('type') in ours and 'TwoViews' not in names[i:]:
                effect = "it has no effect without TwoViews: use type='mmpretrain.ColorJitter'"
            if effect:
                yield Finding(f'{place}.{i} {name}', effect)


# -- parts of a config -----------------------------------------------------------------------------


def find_backbones(cfg: dict, *names: str) -> Iterator[tuple[str, dict]]:
    """Yield (path, config) of each BEiT of this package, or of other classes of it."""
    for path, node in walk(cfg.get('model'), 'model'):
        if kind(node) in (names or ('BEiT',)):
            name = node['type'] if isinstance(node['type'], str) else f'{node["type"].__module__}.'
            home, dot, _ = name.partition('.')
            if (home if dot else cfg.get('default_scope')) == 'beit_mm':
                yield path, node


def find_pipelines(cfg: dict, *splits: str) -> Iterator[tuple[str, list]]:
    for split in splits:
        loader = f'{split}_dataloader'
        for path, node in walk(get(cfg, loader, 'dataset'), f'{loader}.dataset'):
            if isinstance(node.get('pipeline'), list | tuple):
                yield f'{path}.pipeline', node['pipeline']


def _fed_sizes(cfg: dict) -> Iterator[tuple[str, Size | None, bool]]:
    """Yield (place, size of its images, whether they are padded) of all that feeds the backbone."""
    preprocessor, test_cfg = _get_preprocessor(cfg), get(cfg, 'model', 'test_cfg')
    pads, fixed = preprocessor.get('pad_size_divisor', 1) > 1, _as_size(preprocessor.get('size'))
    pads_training = pads or bool(fixed or preprocessor.get('size_divisor'))
    pads_tests = pads or bool(preprocessor.get('test_cfg'))
    for place, pipeline in find_pipelines(cfg, 'train'):
        yield place, size_after(pipeline), pads_training
    yield 'data_preprocessor.size', fixed, False
    if get(test_cfg, 'mode') == 'slide':
        yield 'model.test_cfg.crop_size', _as_size(test_cfg.get('crop_size')), pads_tests
        return
    for place, pipeline in find_pipelines(cfg, 'val'):
        yield place, size_after(pipeline), pads_tests


def _get_preprocessor(cfg: dict) -> dict:
    given = (node.get('data_preprocessor') for node in nodes(cfg.get('model')))
    return (cfg.get('data_preprocessor') or {}) | next(filter(None, given), {})


def _as_size(value: object) -> Size | None:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    return tuple(pair) if all(isinstance(side, int) for side in pair) else None


def _as_setting(size: Size) -> int | Size:
    return size[0] if size[0] == size[1] else size
