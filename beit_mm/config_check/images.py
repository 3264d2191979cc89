"""Check sizes and channels of the images, from the pipeline to the backbone."""

from collections.abc import Iterator

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
    preprocessor = _get_preprocessor(cfg)
    for path, backbone in find_backbones(cfg):
        patch, img_size = backbone.get('patch_size', 16), backbone.get('img_size', 224)
        expected = _as_size(img_size)
        if expected and any(side % patch for side in expected):
            yield _not_a_multiple(f'{path}.img_size={img_size}', expected, patch)
            continue
        for place, size, is_padded in _fed_sizes(cfg, preprocessor):
            if size and any(side % patch for side in size):
                if not is_padded:
                    yield _not_a_multiple(place, size, patch)
            elif size and expected and size != expected:
                grids = [
                    f'{height // patch}×{width // patch}' for height, width in (size, expected)
                ]
                effect = (
                    f'{place} gives {size[0]}×{size[1]} pixels, so positions are interpolated from '
                    f'{grids[1]} to {grids[0]} patches. Set img_size={_as_setting(size)}'
                )
                yield Finding(f'{path}.img_size={img_size}', effect, stops=False)


def check_test_sizes(cfg: dict) -> Iterator[Finding]:
    """Yield test images that mmseg does not pad: it pads them by `test_cfg` alone."""
    backbone = next(find_backbones(cfg), None)
    slides = get(cfg, 'model', 'test_cfg', 'mode') == 'slide'
    if cfg.get('default_scope') != 'mmseg' or not backbone or slides:
        return
    patch = backbone[1].get('patch_size', 16)
    for place, pipeline in find_pipelines(cfg, 'val'):
        keeps_ratio = any(kind(step) == 'Resize' and step.get('keep_ratio') for step in pipeline)
        if keeps_ratio and not _get_preprocessor(cfg).get('test_cfg'):
            effect = (
                f'sides may be no multiples of patch_size={patch}. Set data_preprocessor.test_cfg='
                f'dict(size_divisor={patch}); size_divisor itself is for training alone'
            )
            yield Finding(f'{place} resizes with keep_ratio=True', effect, stops=False)


def check_channels(cfg: dict) -> Iterator[Finding]:
    """Yield images and a preprocessor with another number of channels than the backbone."""
    mean = _get_preprocessor(cfg).get('mean')
    for path, backbone in find_backbones(cfg, ('BEiT', 'DiscreteVAE')):
        channels = backbone.get('in_channels', 3)
        what = f'{path}.in_channels={channels}'
        for place, pipeline in [*find_pipelines(cfg, 'train'), *find_pipelines(cfg, 'val')]:
            first = next(iter(pipeline), {})
            given = CHANNELS.get(get(first, 'color_type') or 'color')
            if kind(first) == 'LoadImageFromFile' and given and given != channels:
                effect = (
                    f'{place}.0 gives images of {given} channel{"s" * (given > 1)}: set '
                    f"in_channels={given}, or LoadImageFromFile's color_type"
                )
                yield Finding(what, effect)
        if isinstance(mean, list | tuple) and len(mean) not in (1, channels):
            effect = f'data_preprocessor.mean has {len(mean)} values: expected {channels}'
            yield Finding(what, effect)


def check_channel_order(cfg: dict) -> Iterator[Finding]:
    """Yield a preprocessor that keeps images BGR, though its mean is for RGB.

    `ConvertCheckpoint` compares the order with that of the weights when it loads them.
    """
    preprocessor, backbone = _get_preprocessor(cfg), next(find_backbones(cfg), None)
    converts = any(preprocessor.get(key) for key in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'))
    has_views = kind(cfg.get('model')) == 'BEiTPretrainer'  # TwoViews returns RGB
    if not backbone or has_views or converts:
        return
    if tuple(preprocessor.get('mean') or ()) == IMAGENET[0]:
        setting = 'bgr_to_rgb' if cfg.get('default_scope') == 'mmseg' else 'to_rgb'
        effect = (
            f'images stay BGR, but its mean is in the order red, green, blue: set {setting}=True'
        )
        yield Finding('data_preprocessor', effect, stops=False)


def _fed_sizes(cfg: dict, preprocessor: dict) -> Iterator[tuple[str, Size | None, bool]]:
    """Yield (place, size of its images, whether they are padded) of all that feeds the backbone."""
    pads = preprocessor.get('pad_size_divisor', 1) > 1
    fixed = _as_size(preprocessor.get('size'))
    pads_training = pads or bool(fixed or preprocessor.get('size_divisor'))
    for place, pipeline in find_pipelines(cfg, 'train'):
        yield place, size_after(pipeline), pads_training
    yield 'data_preprocessor.size', fixed, False
    windows, pads_tests = get(cfg, 'model', 'test_cfg'), pads or bool(preprocessor.get('test_cfg'))
    if get(windows, 'mode') == 'slide':
        yield 'model.test_cfg.crop_size', _as_size(windows.get('crop_size')), pads_tests
        return
    for place, pipeline in find_pipelines(cfg, 'val'):
        yield place, size_after(pipeline), pads_tests


def find_pipelines(cfg: dict, split: str) -> Iterator[tuple[str, list]]:
    loader = f'{split}_dataloader'
    for path, node in walk(get(cfg, loader, 'dataset'), f'{loader}.dataset'):
        if isinstance(node.get('pipeline'), list | tuple):
            yield f'{path}.pipeline', node['pipeline']


def find_backbones(cfg: dict, names: tuple[str, ...] = ('BEiT',)) -> Iterator[tuple[str, dict]]:
    """Yield (path, config) of each BEiT of this package, or of other classes of it."""
    known = {f'beit_mm.{name}' for name in names}
    if cfg.get('default_scope') == 'beit_mm':
        known |= set(names)
    for path, node in walk(cfg.get('model'), 'model'):
        name = node.get('type')
        if name and not isinstance(name, str):
            name = f'{name.__module__.split(".")[0]}.{name.__name__}'
        if name in known:
            yield path, node


def _get_preprocessor(cfg: dict) -> dict:
    inner = [
        node['data_preprocessor']
        for node in nodes(cfg.get('model'))
        if node.get('data_preprocessor')
    ]
    return (cfg.get('data_preprocessor') or {}) | (inner[0] if inner else {})


def _as_size(value: object) -> Size | None:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    return tuple(pair) if all(isinstance(side, int) for side in pair) else None


def _as_setting(size: Size) -> int | Size:
    return size[0] if size[0] == size[1] else size


def _not_a_multiple(what: str, size: Size, patch: int) -> Finding:
    near = tuple(max(side // patch, 1) * patch for side in size)
    effect = f'{size[0]}×{size[1]} pixels are no multiple of patch_size={patch}'
    return Finding(what, f'{effect}: set {_as_setting(near)}')
