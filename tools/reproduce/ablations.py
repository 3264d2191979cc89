"""The paper's ablations, and the claims that the paper makes with them."""

from dataclasses import dataclass
from math import nan

_PRETRAIN = 'configs/pretrain/beit_{}-base-p16_8xb256-amp-coslr-{}_in1k.py'
_ABLATION = 'configs/ablations/beit_vit-base-p16_{}_8xb256-amp-coslr-300e_in1k.py'
TASKS = dict(classification='top1', segmentation='mIoU')  # task → metric
BEIT = _PRETRAIN.format('vit', '300e')


@dataclass(frozen=True)
class Ablation:
    """One row of the paper's tables.

    Args:
        title: name of the row.
        config: config of the pre-training, None for none.
        paper: metric → the paper's value.
        length: length of the pre-training in runs of 300 epochs.
        tokenizer: name of a tokenizer of the scale.
        start: ablation whose pre-training is shared, None for an own one.
        through: task that is learned between pre-training and this ablation's tasks.
        kind: kind of the fine-tuning, for which a scale has the settings.
        tasks: tasks that the ablation is fine-tuned for.
    """

    title: str
    config: str | None
    paper: dict[str, float]
    length: float = 1.0
    tokenizer: str = 'tokenizer'
    start: str | None = None
    through: str | None = None
    kind: str = 'pretrained'
    tasks: tuple[str, ...] = tuple(TASKS)


def _variant(title: str, name: str, **paper: float) -> Ablation:
    return Ablation(title, _ABLATION.format(name), paper)


# Top-1 from scratch: DeiT-B, table 1. 300 epochs: table 4. Intermediate fine-tuning: table 3, after
# 800 epochs; table 5 has its mIoU with UPerNet.
ABLATIONS = {
    'scratch': Ablation('from scratch', None, dict(top1=81.8), kind='scratch'),
    'beit': Ablation('BEiT', BEIT, dict(top1=82.86, mIoU=44.65)),
    'random-mask': _variant('− blockwise masking', 'random-mask', top1=82.77, mIoU=42.93),
    'pixels': _variant('− visual tokens: pixels', 'pixels', top1=81.04, mIoU=41.38),
    'pixels-random-mask': _variant(
        '− visual tokens − blockwise masking', 'pixels_random-mask', top1=80.50, mIoU=37.09
    ),
    'recover-all': _variant('+ recover 100 % of the tokens', 'recover-all', top1=82.59, mIoU=40.93),
    'no-mask': _variant(
        '− masking + recover 100 % of the tokens', 'no-mask_recover-all', top1=81.67, mIoU=36.73
    ),
    'longer': Ablation(
        'pre-training 8/3 as long',
        _PRETRAIN.format('vit', '800e'),
        dict(top1=83.19, mIoU=45.58),
        length=8 / 3,
    ),
    'intermediate': Ablation(
        '+ intermediate fine-tuning',
        BEIT,
        dict(mIoU=47.7),
        start='beit',
        through='classification',
        tasks=('segmentation',),
    ),
    'other-tokenizer': Ablation('tokenizer of another size', BEIT, {}, tokenizer='other-tokenizer'),
    'layer-scale': _variant('+ LayerScale', 'layer-scale', top1=83.00),
    'relative': Ablation(
        '+ LayerScale + relative bias', _PRETRAIN.format('beit', '300e'), dict(top1=83.22)
    ),
    'quarter': Ablation('pre-training 1/4 as long', BEIT, {}, length=1 / 4),
    'sixteenth': Ablation('pre-training 1/16 as long', BEIT, {}, length=1 / 16),
    'ceiling': Ablation(
        'pre-trained, all labels, many steps', BEIT, {}, start='beit', kind='ceiling'
    ),
    'floor': Ablation(
        'all labels, many steps, no attention between patches', None, {}, kind='floor'
    ),
}


@dataclass(frozen=True)
class Claim:
    """The paper's claim that one ablation is better than another, by `gap` (metric → points)."""

    sentence: str
    better: str
    worse: str
    gap: dict[str, float]


def _claim(sentence: str, better: str, worse: str, **gap: float) -> Claim:
    high, low = ABLATIONS[better].paper, ABLATIONS[worse].paper
    gaps = {metric: round(high[metric] - low[metric], 2) for metric in low if metric in high}
    return Claim(sentence, better, worse, gaps | gap)


# Gaps are given where the paper compares other pairs: SETR-PUP in table 3, UPerNet in table 5.
CLAIMS = [
    _claim('Pre-training beats training from scratch', 'beit', 'scratch', top1=1.4, mIoU=nan),
    _claim('Blockwise masking beats random masking', 'beit', 'random-mask'),
    _claim('Visual tokens beat pixels', 'beit', 'pixels'),
    _claim('Tokens with blockwise masking beat pixels without', 'beit', 'pixels-random-mask'),
    _claim('Predicting the masked tokens beats predicting all', 'beit', 'recover-all'),
    _claim('Masking beats no masking', 'beit', 'no-mask'),
    _claim('Longer pre-training is better', 'longer', 'beit'),
    _claim('Intermediate fine-tuning helps segmentation', 'intermediate', 'beit', mIoU=47.7 - 45.6),
    _claim('LayerScale helps', 'layer-scale', 'beit', mIoU=45.43 - 44.86),
    _claim('Relative positions help', 'relative', 'layer-scale', mIoU=45.70 - 45.43),
]
