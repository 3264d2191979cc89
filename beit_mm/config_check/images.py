"""Sizes and channels of a config's images, from the pipeline to the backbone."""

from collections.abc import Iterator
from contextlib import suppress

from PIL import Image

from ..utils.config_tree import get, kind, nodes
from .names import Problem, walk
from .run import image_paths
from .summary import IMAGENET, PUBLIC

EXIF_ORIENTATION = 0x0112
SPLITS = 'train', 'val'
# Steps with other names keep the size of an image unless one of these words is in the name.
RESIZES = (
    'Crop',
    'Resize',
    'Pad',
    'Choice',
    'Apply',
    'Albumentations',
    'Affine',
    'Mosaic',
    'Expand',
    'torchvision',
)
SIZE_KEYS = dict(
    TwoViews='size', RandomCrop='crop_size', CenterCrop='crop_size', RandomResizedCrop='scale',
    EfficientNetRandomCrop='scale', EfficientNetCenterCrop='crop_size',
)  # fmt: skip
CHANNELS = dict(color=3, grayscale=1)
OF_COLORS = {
    'ColorJitter',
    'PhotoMetricDistortion',
    'RandAugment',
    'AutoAugment',
    'RandomGrayscale',
    'Lighting',
}
Size = tuple[int, int]


def _pair(size: object, wide_first: bool = False) -> Size | None:
    """(height, width) of a size as a config writes it."""
    pair = (
        (size, size)
        if isinstance(size, int)
        else tuple(size)
        if isinstance(size, list | tuple)
        else ()
    )
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        return None
    return pair[::-1] if wide_first else pair


def size_after(pipeline: object, size: Size | None = None) -> Size | None:
    """Return (height, width) of the images that a pipeline gives to images of this size; None if it cannot be told."""
    for step in pipeline if isinstance(pipeline, list | tuple) else ():
        name = kind(step)
        if name in SIZE_KEYS:
            size = _pair(step.get(SIZE_KEYS[name], 224 if name == 'TwoViews' else None))
        elif name == 'Resize':
            size = None if step.get('keep_ratio') else _pair(step.get('scale'), wide_first=True)
        elif name == 'ResizeEdge' and size and size[0] == size[1]:
            size = _pair(step.get('scale'))
        elif any(word in name for word in RESIZES):
            size = None
    return size


def _first_image(node: dict) -> Size | None:
    """Return (height, width) of the first image of a data set, from the file's header."""
    with suppress(OSError, ValueError), Image.open(next(image_paths(node), '')) as image:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) > 4
        return image.size if turned else image.size[::-1]
    return None


def _preprocessor(cfg: dict) -> dict:
    model = cfg.get('model') or {}
    inner = next(
        (node['data_preprocessor'] for node in nodes(model) if node.get('data_preprocessor')), {}
    )
    return (cfg.get('data_preprocessor') or {}) | inner


def _pipelines(cfg: dict) -> Iterator[tuple[str, str, dict]]:
    """(split, place of its pipeline, data set) of each data set for training and validation."""
    for split in SPLITS:
        place = f'{split}_dataloader.dataset'
        for path, node in walk(get(cfg, f'{split}_dataloader', 'dataset'), place):
            if isinstance(node.get('pipeline'), list | tuple):
                yield split, f'{path}.pipeline', node


def _backbones(cfg: dict) -> Iterator[tuple[str, dict]]:
    """Our backbones: (place in the config, node)."""
    for path, node in walk(cfg.get('model'), 'model'):
        given = node.get('type')
        scoped = (
            given
            if isinstance(given, str)
            else f'{given.__module__.split(".")[0]}.{given.__name__}'
            if given
            else ''
        )
        if scoped == 'beit_mm.BEiT' or (scoped == 'BEiT' and cfg.get('default_scope') == 'beit_mm'):
            yield path, node


def image_sizes(cfg: dict) -> Iterator[Problem]:
    """Yield images that are no multiple of the patch, and an `img_size` other than that of the images."""
    preprocessor = _preprocessor(cfg)
    for path, backbone in _backbones(cfg):
        patch, expected = backbone.get('patch_size', 16), _pair(backbone.get('img_size', 224))
        if expected and any(side % patch for side in expected):
            yield _no_multiple(f'{path}.img_size={backbone.get("img_size", 224)}', expected, patch)
            continue
        given = [
            (place, size_after(node['pipeline'], _first_image(node)), split)
            for split, place, node in _pipelines(cfg)
        ]
        given += [('data_preprocessor.size', _pair(preprocessor.get('size')), 'train')]
        padded = _pair(preprocessor.get('size')) or preprocessor.get('size_divisor')
        windows = get(cfg, 'model', 'test_cfg')
        if get(windows, 'mode') == 'slide':
            given = [each for each in given if each[2] == 'train']
            given.append(('model.test_cfg.crop_size', _pair(windows.get('crop_size')), 'val'))
        for place, size, split in given:
            pads = preprocessor.get('pad_size_divisor', 1) > 1 or (
                padded if split == 'train' else get(preprocessor, 'test_cfg')
            )
            if size and any(side % patch for side in size):
                if not pads or place == 'data_preprocessor.size':
                    yield _no_multiple(place, size, patch)
            elif size and expected and size != expected:
                grids = [
                    f'{height // patch}×{width // patch}' for height, width in (size, expected)
                ]
                yield Problem(
                    f'{path}.img_size={backbone.get("img_size", 224)}, but {place} gives {_words(size)} pixels: positions are '
                    f'interpolated from {grids[1]} to {grids[0]} patches. Set img_size={_setting(size)}',
                    stops=False,
                )


def _words(size: Size) -> str:
    return '×'.join(map(str, size))


def _setting(size: Size) -> int | Size:
    return size[0] if size[0] == size[1] else size


def _no_multiple(place: str, size: Size, patch: int) -> Problem:
    near = tuple(max(side // patch, 1) * patch for side in size)
    return Problem(
        f'{place}: {_words(size)} pixels are no multiple of patch_size={patch}: set {_setting(near)}'
    )


def sizes_when_testing(cfg: dict) -> Iterator[Problem]:
    """mmseg stacks the images of a test batch before it pads them, and pads them by `test_cfg` of the preprocessor alone."""
    batch = get(cfg, 'val_dataloader', 'batch_size') or 1
    backbone = next(_backbones(cfg), None)
    if cfg.get('default_scope') != 'mmseg' or not backbone:
        return
    for split, place, node in _pipelines(cfg):
        if split != 'val' or not any(
            kind(step) == 'Resize' and step.get('keep_ratio') for step in node['pipeline']
        ):
            continue
        if batch > 1:
            yield Problem(
                f'val_dataloader.batch_size={batch}, but {place} resizes with keep_ratio=True: images of different sizes '
                'do not fit in one batch. Set val_dataloader.batch_size=1',
                stops=False,
            )
        if get(cfg, 'model', 'test_cfg', 'mode') != 'slide' and not _preprocessor(cfg).get(
            'test_cfg'
        ):
            patch = backbone[1].get('patch_size', 16)
            yield Problem(
                f'{place} resizes with keep_ratio=True: the sides need not be multiples of patch_size={patch}. Set '
                f'data_preprocessor.test_cfg=dict(size_divisor={patch}); size_divisor itself is for training alone',
                stops=False,
            )


def channels(cfg: dict) -> Iterator[Problem]:
    """Yield loaders and preprocessors that give another number of channels than the backbone reads."""
    preprocessor = _preprocessor(cfg)
    mean = preprocessor.get('mean')
    for path, backbone in _backbones(cfg):
        wanted = backbone.get('in_channels', 3)
        for _, place, node in _pipelines(cfg):
            if wanted != 3:
                for index in (
                    i for i, step in enumerate(node['pipeline']) if kind(step) in OF_COLORS
                ):
                    words = f'{kind(node["pipeline"][index])} is defined for RGB, and {path}.in_channels={wanted}'
                    yield Problem(f'{place}.{index}: {words}: remove it')
            first = next(iter(node['pipeline']), {})
            given = (
                CHANNELS.get(first.get('color_type', 'color'))
                if kind(first) == 'LoadImageFromFile'
                else None
            )
            if given and given != wanted:
                yield Problem(
                    f'{path}.in_channels={wanted}, but {place}.0 gives images of {given} channel{"s" * (given > 1)}: '
                    f"set in_channels={given}, or LoadImageFromFile's color_type"
                )
        if isinstance(mean, list | tuple) and len(mean) not in (1, wanted):
            yield Problem(
                f'{path}.in_channels={wanted}, but data_preprocessor.mean has {len(mean)} values: expected {wanted}'
            )


def channel_order(cfg: dict) -> Iterator[Problem]:
    """Yield a preprocessor that leaves images BGR though mean or weights are in the order red, green, blue."""
    preprocessor, backbone = _preprocessor(cfg), next(_backbones(cfg), None)
    mean, views = (
        preprocessor.get('mean'),
        kind(cfg.get('model')) == 'BEiTPretrainer',
    )  # its views are RGB
    converts = any(preprocessor.get(key) for key in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'))
    if not backbone or views or converts or not isinstance(mean, list | tuple) or len(mean) != 3:
        return
    start = str(get(backbone[1], 'init_cfg', 'checkpoint') or cfg.get('load_from') or '')
    red_first = tuple(mean) == IMAGENET[0]
    if red_first or PUBLIC.search(start):
        setting = 'bgr_to_rgb' if cfg.get('default_scope') == 'mmseg' else 'to_rgb'
        why = (
            'its mean is in the order red, green, blue'
            if red_first
            else f'{start} was trained on RGB'
        )
        yield Problem(
            f'data_preprocessor feeds BGR images, but {why}: set {setting}=True', stops=False
        )
