"""The pipeline of every config as a table: transforms, sizes, interpolation, mean and std."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small import CONFIGS, find_dataset, load

from beit_mm.registry import MODELS, TRANSFORMS

SETTINGS = (
    'imdecode_backend', 'edge', 'scale', 'crop_size', 'prob', 'policies', 'fill_color', 'fill_std',
)  # fmt: skip


def size(value) -> str:
    return '×'.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def describe(step: dict) -> str:
    """Return a transform in a few words, as it is built, with the defaults of its library."""
    built = TRANSFORMS.build(step)
    words = [type(built).__name__]
    if words == ['TwoViews']:
        words += ['torch'] if built.backend == 'torch' else []
        words.append('crop' if built.scale else 'whole')
        words += [f'{side} {interpolation}' for _, side, interpolation in built.views]
        return ' '.join(words)
    if words == ['TestTimeAug']:
        resizes, flips, *rest = step['transforms']
        words += [size(resize['scale']) for resize in resizes]
        words += [f'flip {flip["prob"]}' for flip in flips]
        words.append(describe(resizes[0]).split(' ', 2)[2])
        return ' '.join(words + [describe(only) for (only,) in rest])
    for name in SETTINGS:
        value = getattr(built, name, None)
        if name == 'policies' and value:
            words += sorted({each['interpolation'] for each in value if 'interpolation' in each})
            words += sorted({f'pad {size(each["pad_val"])}' for each in value if 'pad_val' in each})
        elif value is not None:
            words.append(size(value))
    for owner in (built, getattr(built, 'resize', None)):
        words += [getattr(owner, key, '') for key in ('backend', 'interpolation')]
    return ' '.join(filter(None, words))


def pipeline(cfg: Config, split: str) -> list[str]:
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        return ['']
    return [describe(step) for step in find_dataset(loader).pipeline]


def normalization(cfg: Config) -> tuple[list[float], list[float]]:
    """Return mean and std of the data preprocessor as it is built, also if it is a default."""
    init_default_scope(cfg.default_scope)
    model = cfg.model
    kind = 'MIM' if cfg.default_scope == 'beit_mm' else 'Cls'
    settings = dict(cfg.get('data_preprocessor') or model.get('data_preprocessor') or {})
    settings.setdefault('type', f'{cfg.default_scope}.{kind}DataPreprocessor')
    assert 'MIM' in settings['type'] or settings.get('to_rgb') or settings.get('bgr_to_rgb')
    built = MODELS.build(settings)
    mean, std = (values.flatten().tolist() for values in (built.mean, built.std))
    return [round(value, 3) for value in mean], [round(value, 3) for value in std]


# -- the table

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
HALF = ([127.5] * 3, [127.5] * 3)
UNIT = ([0] * 3, [255] * 3)

READ = 'LoadImageFromFile cv2 |'
READ_BOTH = f'{READ} LoadAnnotations pillow |'
VIEW = 'ResizeEdge short 256 pillow bicubic | CenterCrop 224×224 |'
JITTER = 'ColorJitter | RandomFlip 0.5 |'
BOTH = '224 bicubic 112 lanczos |'
BOTH_V2 = '224 bicubic 224 bicubic |'
GREY = 'RandAugment bicubic pad 128×128×128 | RandomErasing 127.5×127.5×127.5 127.5×127.5×127.5 | PackInputs'
MEAN = 'RandAugment bicubic pad 104×116×124 | RandomErasing 103.53×116.28×123.675 57.375×57.12×58.395 | PackInputs'  # BGR
END = 'RandomFlip 0.5 | PhotoMetricDistortion | PackSegInputs'
SCALES = {
    512: '2048×512 2048×512 2048×512 2560×640 3072×768 3584×896',
    640: '2560×640 2560×640 2560×640 3200×800 3840×960 4480×1120',
}


def two_views(views: str, mask: str = '') -> tuple[str, str]:
    return (
        f'{READ} {JITTER} TwoViews torch crop {views} {mask}PackViews',
        f'{READ} {VIEW} TwoViews whole {views} {mask}PackViews',
    )


def imagenet(side: int, augment: str, short: int = 256) -> tuple[str, str]:
    return (
        f'{READ} RandomResizedCrop {side}×{side} pillow bicubic | RandomFlip 0.5 | {augment}',
        f'{READ} ResizeEdge short {short} pillow bicubic | CenterCrop {side}×{side} | PackInputs',
    )


def ade20k(side: int) -> tuple[str, str]:
    resize = f'{4 * side}×{side} cv2 bilinear'
    return (
        f'{READ_BOTH} RandomResize {resize} | RandomCrop {side}×{side} | {END}',
        f'{READ} Resize {resize} | LoadAnnotations pillow | PackSegInputs',
    )


def quick_views(side: int) -> tuple[str, str]:
    views = f'{side} bicubic {side // 2} lanczos | BlockwiseMask | PackViews'
    return f'{READ} RandomFlip 0.5 | TwoViews crop {views}', f'{READ} TwoViews whole {views}'


def quick_tokens(side: int, interpolation: str = 'lanczos') -> tuple[str, str]:
    how = f'{side}×{side} pillow {interpolation} |'
    train = f'{READ} RandomResizedCrop {how} RandomFlip 0.5 | PackInputs'
    return train, f'{READ} Resize {how} PackInputs'


# pattern of config names: mean and std, training pipeline, test pipeline
BLOCKS, RANDOM = 'BlockwiseMask | ', 'RandomMask | '
PLAIN_224 = 'classification/(vit|beit)-(base|large)-p16(_layer-scale)?_8xb128-.*'
TABLE = {
    'tokenizer/vqkd_.*': (UNIT, *imagenet(224, 'PackInputs')),
    'tokenizer/dvae_.*': (
        UNIT,
        f'{READ} RandomResize 4096×256 cv2 area | RandomCrop 256×256 | RandomFlip 0.5 | PackInputs',
        f'{READ} ResizeEdge short 256 cv2 area | CenterCrop 256×256 | PackInputs',
    ),
    'pretrain/.*_in22k': (HALF, *two_views(BOTH, BLOCKS)),
    'pretrain/beitv2_.*': (IMAGENET, *two_views(BOTH_V2, BLOCKS)),
    'pretrain/beit_.*_in1k|ablations/.*p16_(recover-all|layer-scale)_.*': (IMAGENET, *two_views(BOTH, BLOCKS)),
    'ablations/.*p16_random-mask_.*': (IMAGENET, *two_views(BOTH, RANDOM)),
    'ablations/.*p16_no-mask_recover-all_.*': (IMAGENET, *two_views(BOTH)),
    'ablations/.*p16_pixels_8xb.*': (IMAGENET, *two_views('224 bicubic |', BLOCKS)),
    'ablations/.*p16_pixels_random-mask_.*': (IMAGENET, *two_views('224 bicubic |', RANDOM)),
    PLAIN_224: (IMAGENET, *imagenet(224, MEAN)),
    'classification/beitv2-.*': (IMAGENET, *imagenet(224, MEAN)),
    'classification/vit-.*-384px': (IMAGENET, *imagenet(384, MEAN, 384)),
    'classification/.*_linear-probe_.*': (
        IMAGENET,
        f'{READ} RandomResizedCrop 224×224 pillow bilinear | RandomFlip 0.5 | PackInputs',
        f'{READ} {VIEW} PackInputs',
    ),
    'classification/beit-.*_in22k-(pre|ft)_.*_in1k': (HALF, *imagenet(224, GREY)),
    'classification/.*_in22k-ft_.*-384px': (HALF, *imagenet(384, GREY, 384)),
    'classification/.*_in22k-ft_.*-512px': (HALF, *imagenet(512, GREY, 512)),
    'classification/.*_in22k': (HALF, *imagenet(224, GREY)),  # tests what the user held back
    'segmentation/(?!.*_in22k-ft).*-512x512': (IMAGENET, *ade20k(512)),
    'segmentation/.*_in22k-ft_setr-pup_.*-512x512': (HALF, *ade20k(512)),
    'segmentation/.*_in22k-ft_upernet_.*-640x640': (IMAGENET, *ade20k(640)),
    'quickstart/tokenizer': (UNIT, *quick_tokens(32)),
    'quickstart/tokenizer_112': (UNIT, *quick_tokens(56)),
    'quickstart/pretrain': (IMAGENET, *quick_views(64)),
    'quickstart/pretrain_112': (IMAGENET, *quick_views(112)),
    'quickstart_v2/tokenizer': (UNIT, *quick_tokens(64, 'bicubic')),
    'quickstart/classification(_112)?|quickstart_v2/teacher': (IMAGENET, f'{READ} RandomFlip 0.5 | PackInputs', f'{READ} PackInputs'),
    'quickstart/segmentation(_112)?': (
        IMAGENET, f'{READ_BOTH} RandomFlip 0.5 | PackSegInputs', f'{READ_BOTH} PackSegInputs'),
}  # fmt: skip


@pytest.mark.parametrize('name', CONFIGS)
def test_transforms_sizes_interpolation_mean_and_std_are_those_of_the_table(name):
    cfg = load(name)
    rows = [row for pattern, row in TABLE.items() if re.fullmatch(pattern, name)]
    ((expected, train, test),) = rows  # each config has one row
    assert normalization(cfg) == expected
    assert pipeline(cfg, 'train') == train.split(' | ')
    assert pipeline(cfg, 'test') == test.split(' | ')
    assert pipeline(cfg, 'val') in (pipeline(cfg, 'test'), [''])


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('segmentation/')])
def test_several_scales_are_those_of_the_official_code(name):
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    steps = f'{READ} TestTimeAug {SCALES[cfg.crop_size[0]]} flip 0.0 flip 1.0 cv2 bilinear'
    expected = f'{steps} LoadAnnotations pillow PackSegInputs'.split(' | ')
    assert [describe(step) for step in cfg.tta_pipeline] == expected
