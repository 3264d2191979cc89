"""The recipes of the paper and of its official code as data: a row a recipe.

Sources: the paper (https://arxiv.org/abs/2106.08254), tables 1, 3, 4, 5 and the hyperparameters in its appendix; the official code
(https://github.com/microsoft/unilm/tree/master/beit) for ImageNet-22k and UPerNet; DALL-E's paper
(https://arxiv.org/abs/2102.12092), app. A.2, for the tokenizer.
"""

import math
from dataclasses import dataclass, field

from ..utils.config_tree import OFF
from .summary import HALF, IMAGENET, Facts


@dataclass(frozen=True)
class Row:
    """`identity`: fact → the values that this recipe is for; `values`: fact → the recipe's; what is silent is missing.

    `slips`: fact → why published figures were made with another value than the one above; it is no mistake then.
    """

    title: str
    identity: dict[str, tuple]
    values: dict[str, object]
    slips: dict[str, str] = field(default_factory=dict)


DECAYED = (
    'relative position tables',
    'mask_token',
)  # all other special tensors, biases and vectors are not
ADAMW = dict(optimizer='AdamW', betas=(0.9, 0.999), eps=1e-8)
SELF, AFTER_IN1K, AFTER_IN22K = ('self-supervised',), ('IN1k',), ('IN22k',)


def _variants(arch: str) -> tuple[str, ...]:
    """Table 5 has the base with LayerScale alone as well."""
    return ('vanilla', 'LayerScale', 'BEiT+') if arch == 'base' else ('vanilla', 'BEiT+')


def _pretrain(arch: str, epochs: int) -> Row:
    return Row(
        f'pre-training on ImageNet-1k, {arch}, {epochs} epochs' + (' (ablations)' if epochs == 300 else ''),
        dict(task=('pretrain',), arch=(arch,), variant=_variants(arch), data=('IN1k',)),
        ADAMW
        | dict(
            batch=2048, lr=1.5e-3, min_lr=1e-5, unit='epochs', length=epochs, warmup=10, weight_decay=0.05,
            layer_decay=OFF, clip=3.0 if arch == 'base' else 1.0, drop_path=0.1, px=224, mean_std=IMAGENET,
            jitter=(0.4, 0.4, 0.4), flip=0.5, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3),
            interpolation='bicubic', target='tokens', recover='masked', vocabulary=8192, token_px=112,
            mask='blockwise', budget=75, min_block=16, mask_grid=14,
        ),
    )  # fmt: skip


def _pretrain_public(arch: str) -> Row:
    """The public weights' (official code): 10 000 steps of warm-up, of 6 932 an epoch."""
    row = _pretrain(arch, 150)
    title = f'pre-training on ImageNet-22k, {arch}, 150 epochs (public weights)'
    identity = row.identity | dict(variant=('BEiT+',), data=('IN22k',))
    return Row(title, identity, row.values | dict(warmup=10_000 / 6_932, mean_std=HALF))


_IMAGENET = ADAMW | dict(
    unit='epochs', min_lr=1e-6, label_smoothing=0.1, rand_augment=(9, 0.5), erasing=0.25, flip=0.5, jitter=OFF,
    crop_scale=(0.08, 1.0), interpolation='bicubic', head_std=2e-5, clip=OFF,
)  # fmt: skip
_MIXED, _PLAIN = dict(mixup=0.8, cutmix=1.0), dict(mixup=OFF, cutmix=OFF)


def _classify(
    title: str, arch: str, start: tuple, px: int, data: str = 'IN1k', **values: object
) -> Row:
    identity = dict(
        task=('classification',),
        arch=(arch,),
        variant=_variants(arch),
        frozen=(False,),
        start=start,
        px=(px,),
    )
    test_crop = {} if data == 'IN22k' else dict(test_crop=224 / 256 if px == 224 else 1.0)
    return Row(title, identity | dict(data=(data,)), _IMAGENET | test_crop | values)


def _finetune(arch: str, px: int, start: tuple) -> Row:
    base = arch == 'base'
    if start == SELF:
        return _classify(
            f'ImageNet-1k fine-tuning, {arch}, after self-supervision, {px} px', arch, start, px, batch=1024,
            lr=4e-3 if base else 1e-3, layer_decay=0.65 if base else 0.75, length=100 if base else 50,
            warmup=20 if base else 5, weight_decay=0.05, drop_path=0.1 if base else 0.2, mean_std=IMAGENET, **_MIXED,
        )  # fmt: skip
    return _classify(
        f'ImageNet-1k fine-tuning, {arch}, after intermediate fine-tuning on ImageNet-22k, {px} px', arch, start, px,
        batch=512, lr=2e-5, layer_decay=0.85 if base else 0.9, length=30, warmup=5, weight_decay=1e-8,
        drop_path=0.1 if base else 0.4, mean_std=HALF, **_PLAIN,
    )  # fmt: skip


def _intermediate(arch: str) -> Row:
    base = arch == 'base'
    return _classify(
        f'intermediate fine-tuning on ImageNet-22k, {arch}', arch, SELF, 224, 'IN22k', batch=4096 if base else 2048,
        lr=3e-3 if base else 2e-3, layer_decay=0.65 if base else 0.75, length=90, warmup=5, weight_decay=0.05,
        drop_path=0.2, mean_std=HALF, clip=3.0 if base else 1.0, **_PLAIN,
    )  # fmt: skip


def _further(arch: str) -> Row:
    """The paper gives the epochs and nothing else."""
    title = f'ImageNet-1k at 384 px, {arch}, 10 further epochs after 224 px (rate, decay and batch are not stated)'
    row = _classify(title, arch, AFTER_IN1K, 384, length=10, mean_std=IMAGENET)
    silent = ('head_std', 'min_lr', 'clip', 'test_crop')
    return Row(
        title,
        row.identity,
        {fact: value for fact, value in row.values.items() if fact not in silent},
    )


def _probe(arch: str) -> Row:
    title = f'linear probe on ImageNet-1k, {arch} (app. D)'
    identity = _finetune(arch, 224, SELF).identity | dict(frozen=(True,))
    values = dict(
        batch=1024, lr=4e-3, unit='epochs', length=50, weight_decay=1e-4, optimizer='AdamW'
    )
    return Row(
        title,
        identity,
        values | dict(taps=8 if arch == 'base' else 13, mean_std=IMAGENET, layer_decay=OFF),
    )


def _segment(
    head: str, arch: str, start: tuple, variant: tuple, title: str, **values: object
) -> Row:
    shared = ADAMW | dict(
        batch=16, unit='iterations', length=160000, warmup=1500, min_lr=0.0, weight_decay=0.05, clip=OFF, flip=0.5,
        drop_path=0.1, mean_std=IMAGENET, resize_range=(0.5, 2.0), cat_max_ratio=0.75,
    )  # fmt: skip
    identity = dict(
        task=('segmentation',),
        head=(head,),
        arch=(arch,),
        variant=variant,
        start=start,
        data=('ADE20K',),
    )
    slips = {}
    if head == 'UPerNet':
        slips['cls_token'] = (
            'a slip of the official segmentation code, with which the published figures were made'
        )
        slips['mean_std'] = (
            'as in the official segmentation code, with which the published figures were made'
        )
    return Row(f'ADE20K with {head}, {arch}, {title}', identity, shared | values, slips)


_PLUS, _TAPS = ('BEiT+',), (3, 5, 7, 11)

ROWS = [
    Row(
        "DALL-E's tokenizer (app. A.2), on ImageNet-1k",
        dict(task=('tokenizer',), data=('IN1k',)),
        ADAMW
        | dict(
            batch=512, lr=1e-4, min_lr=1.25e-6, unit='iterations', length=3_000_000, end=1_200_000, warmup=0,
            weight_decay=1e-4, vocabulary=8192, likelihood='logit_laplace', kl=(6.6, 5_000),
            temperature=(1 / 16, 150_000), ema=0.999,
        ),
    ),
    *(_pretrain(arch, epochs) for arch in ('base', 'large') for epochs in (800, 300)),
    *(_pretrain_public(arch) for arch in ('base', 'large')),
    *(_finetune(arch, 224, SELF) for arch in ('base', 'large')),
    *(_further(arch) for arch in ('base', 'large')),
    *(_intermediate(arch) for arch in ('base', 'large')),
    *(_finetune(arch, px, AFTER_IN22K) for arch in ('base', 'large') for px in (224, 384)),
    _finetune('large', 512, AFTER_IN22K),  # the official code gives the result, and no other values than at 384 px
    *(_probe(arch) for arch in ('base', 'large')),
    _segment('SETR-PUP', 'base', SELF, ('vanilla',), 'after self-supervision', lr=1e-3, layer_decay=0.65, px=512),
    _segment(
        'SETR-PUP', 'base', AFTER_IN1K, ('vanilla',), 'after intermediate fine-tuning on ImageNet-1k', lr=1e-3,
        layer_decay=0.65, px=512,
    ),
    _segment(
        'UPerNet', 'base', SELF, _variants('base'), 'after self-supervision', lr=7e-4, layer_decay=0.65, px=512, stride=341,
        taps=_TAPS,
    ),
    _segment(
        'UPerNet', 'base', AFTER_IN22K, _PLUS, 'after intermediate fine-tuning on ImageNet-22k', lr=3e-5,
        layer_decay=0.9, px=640, stride=426, taps=_TAPS,
    ),
    _segment(
        'UPerNet', 'large', AFTER_IN22K, _PLUS, 'after intermediate fine-tuning on ImageNet-22k', lr=2e-5,
        layer_decay=0.95, px=640, stride=426, taps=(7, 11, 15, 23), length=320000, warmup=3000, drop_path=0.2,
        accumulation=2,
    ),
]  # fmt: skip


_WEIGHT = dict(head=3, frozen=3)  # what makes a config another thing altogether


def nearest(facts: Facts) -> tuple[Row, list[str]]:
    """The row that a config is, and []; or the nearest row, and the facts that keep it from being that one."""

    def misses(row: Row) -> list[str]:
        known = {fact: getattr(facts, fact) for fact in row.identity}
        return [
            fact
            for fact, value in known.items()
            if value is not None and value not in row.identity[fact]
        ]

    def agreement(row: Row) -> int:
        return sum(agrees(facts, row, fact) for fact in row.values)

    rows = [row for row in ROWS if facts.task in row.identity['task']]
    row = min(
        rows, key=lambda row: (sum(_WEIGHT.get(fact, 1) for fact in misses(row)), -agreement(row))
    )
    return row, misses(row)


def agrees(facts: Facts, row: Row, fact: str) -> bool:
    """A fact is the row's; what is counted has to be counted in the same unit."""
    counted = fact in ('length', 'warmup', 'end') and facts.unit != row.values['unit']
    return same(getattr(facts, fact), row.values[fact]) and not counted


def same(a: object, b: object) -> bool:
    """Equal, numbers to a thousandth."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-3)
    return a == b
