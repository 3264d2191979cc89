"""Check data loaders, palettes and transforms of the data sets."""

import os
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from ..utils.config_tree import get, kind, walk
from .finding import Finding
from .images import find_backbones, find_pipelines, size_after

# Heads of mmseg that pool to 1×1 before a norm.
POOLING_HEADS = ('UPerHead', 'PSPHead', 'ASPPHead', 'DepthwiseSeparableASPPHead')
RGB_TRANSFORMS = (
    'ColorJitter', 'PhotoMetricDistortion', 'RandAugment', 'AutoAugment', 'RandomGrayscale', 'Lighting',
)  # fmt: skip
SAMPLED_IMAGES = 50
LOADERS = ('train_dataloader', 'val_dataloader')


def check_workers(cfg: dict) -> Iterator[Finding]:
    for name in LOADERS:
        loader = cfg.get(name) or {}
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key) and not loader.get('num_workers'):
                effect = f'num_workers is 0. Set num_workers to at least 1, or remove {key}'
                yield Finding(f'{name}.{key}={loader[key]}', effect)


def check_palettes(cfg: dict) -> Iterator[Finding]:
    for name in LOADERS:
        for path, node in walk(get(cfg, name, 'dataset'), f'{name}.dataset'):
            classes, palette = (get(node, 'metainfo', key) for key in ('classes', 'palette'))
            if classes and palette and len(classes) != len(palette):
                effect = f'{len(classes)} classes and {len(palette)} colors in the palette'
                yield Finding(f'{path}.metainfo', f'{effect}: make the numbers equal')


def check_batch_norm(cfg: dict) -> Iterator[Finding]:
    """Yield a batch of one image for a head that normalizes 1×1 maps over the batch."""
    if get(cfg, 'train_dataloader', 'batch_size') != 1:
        return
    for path, head in walk(cfg.get('model'), 'model'):
        norm = kind(head.get('norm_cfg'))
        if kind(head) in POOLING_HEADS and 1 in head.get('pool_scales', (1,)) and norm[:2] == 'BN':
            effect = (
                f'{path} pools to 1×1, and {norm} needs more than one value per channel. Set '
                "batch_size=2, or norm_cfg=dict(type='GN', num_groups=32)"
            )
            yield Finding('train_dataloader.batch_size=1', effect)


def check_test_batch(cfg: dict) -> Iterator[Finding]:
    """Yield a validation batch of images of different sizes, which mmseg cannot stack."""
    batch = get(cfg, 'val_dataloader', 'batch_size') or 1
    if cfg.get('default_scope') != 'mmseg' or batch == 1:
        return
    for path, node in walk(get(cfg, 'val_dataloader', 'dataset'), 'val_dataloader.dataset'):
        pipeline, folder = node.get('pipeline'), get(node, 'data_prefix', 'img_path')
        if pipeline and folder and size_after(pipeline) is None:
            sizes = set(_image_sizes(os.path.join(node.get('data_root') or '', folder)))
            if len(sizes) > 1:
                words = ' and '.join(f'{height}×{width}' for height, width in sorted(sizes)[:2])
                effect = (
                    f'{path} has images of {words} pixels, which do not fit in one batch. Set '
                    'val_dataloader.batch_size=1'
                )
                yield Finding(f'val_dataloader.batch_size={batch}', effect)


def check_color_transforms(cfg: dict) -> Iterator[Finding]:
    """Yield transforms that need RGB images, and our ColorJitter without TwoViews."""
    channels = {backbone.get('in_channels', 3) for _, backbone in find_backbones(cfg)}
    ours = (
        'beit_mm.ColorJitter',
        *(['ColorJitter'] if cfg.get('default_scope') == 'beit_mm' else []),
    )
    for split in ('train', 'val'):
        for place, pipeline in find_pipelines(cfg, split):
            names = [kind(step) for step in pipeline]
            for i, step in enumerate(pipeline):
                if kind(step) in RGB_TRANSFORMS and channels - {3}:
                    effect = f'it is defined for RGB, and in_channels is {max(channels)}: remove it'
                    yield Finding(f'{place}.{i} {kind(step)}', effect)
                elif step.get('type') in ours and 'TwoViews' not in names[i:]:
                    effect = (
                        'TwoViews applies its colors, and none follows, so it has no effect. Use '
                        "type='mmpretrain.ColorJitter'"
                    )
                    yield Finding(f'{place}.{i} {step["type"]}', effect)


def check_pretrained(cfg: dict) -> Iterator[Finding]:
    """Yield `init_cfg` without a checkpoint where mmengine needs one."""
    for path, node in walk(cfg.get('model'), 'model'):
        init = node.get('init_cfg')
        takes_none = kind(node) in ('BEiT', 'DiscreteVAE')
        if kind(init) == 'Pretrained' and not init.get('checkpoint') and not takes_none:
            effect = 'checkpoint is missing. Remove init_cfg to start from scratch'
            yield Finding(f'{path}.init_cfg', effect)


def _image_sizes(folder: str) -> Iterator[tuple[int, int]]:
    """Yield (height, width) of some images of a folder, from their headers."""
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        paths = [entry.path for entry in islice(entries, SAMPLED_IMAGES) if entry.is_file()]
    for path in paths:
        try:
            with Image.open(path) as image:
                yield image.size[::-1]
        except OSError:  # not an image, or one that training names
            continue
