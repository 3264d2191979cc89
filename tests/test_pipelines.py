"""The pipeline of every config as a table: transforms, sizes, interpolation, mean and std."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small import CONFIGS, TRAINED, load, nodes

from beit_mm.registry import MODELS, TRANSFORMS

SETTINGS = (
    'imdecode_backend', 'edge', 'scale', 'crop_size', 'prob', 'policies', 'fill_color', 'fill_std',
)  # fmt: skip


def size(value) -> str:
    return '×'.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


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
        if owner is built or hasattr(owner, 'backend'):
            names = (name for name in ('backend', 'interpolation') if hasattr(owner, name))
            words += [getattr(owner, name) for name in names]
    return ' '.join(words)


def pipeline(cfg: Config, split: str) -> list[str]:
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        return ['']
    dataset = next(node for node in nodes(loader.dataset) if 'pipeline' in node)
    return [describe(step) for step in dataset.pipeline]


def normalization(cfg: Config) -> tuple[list[float], list[float]]:
    """Return mean and std of the data preprocessor as it is built, also if it is a default."""
    init_default_scope(cfg.default_scope)
    model = cfg.model.get('module', cfg.model)
    default = dict(
        beit_mm='beit_mm.MIMDataPreprocessor', mmpretrain='mmpretrain.ClsDataPreprocessor'
    )
    settings = dict(cfg.get('data_preprocessor') or model.get('data_preprocessor') or {})
    settings.setdefault('type', default.get(cfg.default_scope))
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


def ade20k(side: int, several: bool) -> tuple[str, str]:
    resize = f'{4 * side}×{side} cv2 bilinear'
    single = f'{READ} Resize {resize} | LoadAnnotations pillow | PackSegInputs'
    votes = f'TestTimeAug {SCALES[side]} flip 0.0 flip 1.0 cv2 bilinear LoadAnnotations pillow PackSegInputs'
    return (
        f'{READ_BOTH} RandomResize {resize} | RandomCrop {side}×{side} | {END}',
        f'{READ} {votes}' if several else single,
    )


def quick_views(side: int) -> tuple[str, str]:
    views = f'{side} bicubic {side // 2} lanczos | BlockwiseMask | PackViews'
    return f'{READ} RandomFlip 0.5 | TwoViews crop {views}', f'{READ} TwoViews whole {views}'


def quick_tokens(side: int) -> tuple[str, str]:
    how = f'{side}×{side} pillow lanczos |'
    return (
        f'{READ} RandomResizedCrop {how} RandomFlip 0.5 | PackInputs',
        f'{READ} Resize {how} PackInputs',
    )


# pattern of config names: mean and std, training pipeline, test pipeline
TABLE = {
    r'tokenizer/.*': (
        UNIT,
        f'{READ} RandomResize 4096×256 cv2 area | RandomCrop 256×256 | RandomFlip 0.5 | PackInputs',
        f'{READ} ResizeEdge short 256 cv2 area | CenterCrop 256×256 | PackInputs',
    ),
    r'pretrain/.*_in22k': (HALF, *two_views(BOTH, 'BlockwiseMask | ')),
    r'pretrain/.*_in1k|ablations/.*p16_(recover-all|layer-scale)_.*': (
        IMAGENET,
        *two_views(BOTH, 'BlockwiseMask | '),
    ),
    r'ablations/.*p16_random-mask_.*': (IMAGENET, *two_views(BOTH, 'RandomMask | ')),
    r'ablations/.*p16_no-mask_recover-all_.*': (IMAGENET, *two_views(BOTH)),
    r'ablations/.*p16_pixels_8xb.*': (IMAGENET, *two_views('224 bicubic |', 'BlockwiseMask | ')),
    r'ablations/.*p16_pixels_random-mask_.*': (
        IMAGENET,
        *two_views('224 bicubic |', 'RandomMask | '),
    ),
    r'classification/(vit|beit)-(base|large)-p16(_layer-scale)?_8xb128-.*': (
        IMAGENET,
        *imagenet(224, MEAN),
    ),
    r'classification/vit-.*-384px': (IMAGENET, *imagenet(384, MEAN, 384)),
    r'classification/.*_linear-probe_.*': (
        IMAGENET,
        f'{READ} RandomResizedCrop 224×224 pillow bilinear | RandomFlip 0.5 | PackInputs',
        f'{READ} {VIEW} PackInputs',
    ),
    r'classification/.*_in22k-(pre|ft)_.*_in1k': (HALF, *imagenet(224, GREY)),
    r'classification/.*_in22k-ft_.*-384px': (HALF, *imagenet(384, GREY, 384)),
    r'classification/.*_in22k-ft_.*-512px': (HALF, *imagenet(512, GREY, 512)),
    r'classification/.*_in22k': (
        HALF,
        *imagenet(224, GREY),
    ),  # no validation, but a test of what the user held back
    r'segmentation/(?!.*_in22k-ft).*-512x512': (IMAGENET, *ade20k(512, False)),
    r'segmentation/(?!.*_in22k-ft).*-512x512_ms': (IMAGENET, *ade20k(512, True)),
    r'segmentation/.*_in22k-ft_setr-pup_.*-512x512': (HALF, *ade20k(512, False)),
    r'segmentation/.*_in22k-ft_setr-pup_.*-512x512_ms': (HALF, *ade20k(512, True)),
    r'segmentation/.*_in22k-ft_upernet_.*-640x640': (IMAGENET, *ade20k(640, False)),
    r'segmentation/.*_in22k-ft_upernet_.*-640x640_ms': (IMAGENET, *ade20k(640, True)),
    r'quickstart/tokenizer': (UNIT, *quick_tokens(32)),
    r'quickstart/tokenizer_112': (UNIT, *quick_tokens(56)),
    r'quickstart/pretrain': (IMAGENET, *quick_views(64)),
    r'quickstart/pretrain_112': (IMAGENET, *quick_views(112)),
    r'quickstart/classification(_112)?': (
        IMAGENET,
        f'{READ} RandomFlip 0.5 | PackInputs',
        f'{READ} PackInputs',
    ),
    r'quickstart/segmentation(_112)?': (
        IMAGENET,
        f'{READ_BOTH} RandomFlip 0.5 | PackSegInputs',
        f'{READ_BOTH} PackSegInputs',
    ),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_transforms_sizes_interpolation_mean_and_std_are_those_of_the_table(name):
    cfg = load(name)
    rows = [row for pattern, row in TABLE.items() if re.fullmatch(pattern, name)]
    ((expected, train, test),) = rows  # each config has one row
    assert normalization(cfg) == expected
    assert pipeline(cfg, 'train') == train.split(' | ')
    assert pipeline(cfg, 'test') == test.split(' | ')
    assert pipeline(cfg, 'val') in (pipeline(cfg, 'test'), ['']) or name.endswith('_ms')


# -- from one stage to the next

# The official segmentation code normalizes with ImageNet's mean and std although these weights were
# trained with 0.5. These configs do the same, since its results were measured so.
OFFICIAL_EXCEPTIONS = re.compile(r'segmentation/beit-(base|large)_in22k-ft_upernet_.*')


@pytest.mark.parametrize('name', TRAINED)
def test_fine_tuning_has_the_mean_and_std_of_the_weights_that_it_starts_from(name):
    cfg = load(name)
    if '_pt22k' in cfg.pretrained:
        expected = HALF  # official README, on `--imagenet_default_mean_and_std`
    else:
        run = cfg.pretrained.split('/')[1]
        expected = normalization(load(next(n for n in CONFIGS if n.endswith(f'/{run}'))))
    is_exception = bool(OFFICIAL_EXCEPTIONS.fullmatch(name))
    assert (normalization(cfg) == expected) is not is_exception


@pytest.mark.parametrize(
    'name', ['tokenizer/dvae_64xb8-coslr-3000k_in1k-256px', 'quickstart/tokenizer']
)
def test_the_tokenizer_is_trained_on_images_in_0_to_1_like_the_token_view(name):
    cfg = load(name)
    assert normalization(cfg) == UNIT and cfg.model.data_preprocessor.bgr_to_rgb
