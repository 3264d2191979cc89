"""What is compared: the rows of the paper's tables, and the claims that it makes with them."""

from dataclasses import dataclass

_PRETRAIN = 'configs/pretrain/beit_{}-base-p16_8xb256-amp-coslr-{}_in1k.py'
_ABLATION = 'configs/ablations/beit_vit-base-p16_{}_8xb256-amp-coslr-300e_in1k.py'
TASKS = dict(classification='top1', segmentation='mIoU')  # task → metric


@dataclass(frozen=True)
class Row:
    """`config`: of the pre-training, None for none; `length`: of its run, in runs of 300 epochs; `tokenizer`: which of the
    scale's; `start`: the row whose pre-training it shares, None for its own; `through`: the task that is learned in
    between; `paper`: metric → the paper's figure; `kind`: of the fine-tuning, whose settings the scale has; `tasks`: it
    is judged by."""

    title: str
    config: str | None
    paper: dict[str, float]
    length: float = 1.0
    tokenizer: str = 'tokenizer'
    start: str | None = None
    through: str | None = None
    kind: str = 'pretrained'
    tasks: tuple[str, ...] = tuple(TASKS)


BEIT = _PRETRAIN.format('vit', '300e')
# Top-1 from scratch: DeiT-B, table 1. Table 4: 300 epochs. Intermediate: table 3, after 800 epochs. Table 5 has its mIoU
# with UPerNet.
ROWS = {
    'scratch': Row('from scratch', None, dict(top1=81.8), kind='scratch'),
    'beit': Row('BEiT', BEIT, dict(top1=82.86, mIoU=44.65)),
    'random-mask': Row(
        '− blockwise masking', _ABLATION.format('random-mask'), dict(top1=82.77, mIoU=42.93)
    ),
    'pixels': Row(
        '− visual tokens: pixels', _ABLATION.format('pixels'), dict(top1=81.04, mIoU=41.38)
    ),
    'pixels-random-mask': Row(
        '− visual tokens − blockwise masking',
        _ABLATION.format('pixels_random-mask'),
        dict(top1=80.50, mIoU=37.09),
    ),
    'recover-all': Row(
        '+ recover 100 % of the tokens',
        _ABLATION.format('recover-all'),
        dict(top1=82.59, mIoU=40.93),
    ),
    'no-mask': Row(
        '− masking + recover 100 % of the tokens',
        _ABLATION.format('no-mask_recover-all'),
        dict(top1=81.67, mIoU=36.73),
    ),
    'longer': Row(
        'pre-training 8/3 as long',
        _PRETRAIN.format('vit', '800e'),
        dict(top1=83.19, mIoU=45.58),
        8 / 3,
    ),
    'intermediate': Row(
        '+ intermediate fine-tuning',
        BEIT,
        dict(mIoU=47.7),
        start='beit',
        through='classification',
        tasks=('segmentation',),
    ),
    'other-tokenizer': Row('tokenizer of another size', BEIT, {}, tokenizer='other-tokenizer'),
    'layer-scale': Row('+ LayerScale', _ABLATION.format('layer-scale'), dict(top1=83.00)),
    'relative': Row(
        '+ LayerScale + relative bias', _PRETRAIN.format('beit', '300e'), dict(top1=83.22)
    ),
    'quarter': Row('pre-training 1/4 as long', BEIT, {}, 1 / 4),
    'sixteenth': Row('pre-training 1/16 as long', BEIT, {}, 1 / 16),
    'ceiling': Row('pre-trained, all labels, many steps', BEIT, {}, start='beit', kind='ceiling'),
    'floor': Row(
        'all labels, many steps, but patches never see each other', None, {}, kind='floor'
    ),
}


@dataclass(frozen=True)
class Claim:
    """That the row `better` beats `worse`; `words` say it; `gap`: metric → by how many points in the paper."""

    words: str
    better: str
    worse: str
    gap: dict[str, float]


def _claim(words: str, better: str, worse: str, **gap: float) -> Claim:
    both = {
        m: round(ROWS[better].paper[m] - ROWS[worse].paper[m], 2)
        for m in ROWS[worse].paper
        if m in ROWS[better].paper
    }
    return Claim(words, better, worse, both | gap)


# The paper's own pair where a table's rows are no pair: SETR-PUP with and without, table 3; UPerNet, table 5.
CLAIMS = [
    _claim(
        'Pre-training beats training from scratch',
        'beit',
        'scratch',
        top1=83.2 - 81.8,
        mIoU=float('nan'),
    ),
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
