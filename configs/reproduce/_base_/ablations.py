# The ablations of the paper that tools/reproduce.py runs, and the claims that the paper makes with them.
#
# An ablation has these keys:
# - title, and config of the pre-training (None: no pre-training)
# - paper: metric → the paper's value
# - length of the pre-training: 1 is 300 epochs at the paper's size
# - tokenizer: a name of the scale
# - start: the ablation whose pre-training it shares
# - through: the task that is learned before the tasks of this ablation (intermediate fine-tuning)
# - kind of the fine-tuning, for which a scale has the settings; tasks
beit = 'configs/pretrain/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py'
beit_long = 'configs/pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k.py'
relative = 'configs/pretrain/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'
variant = 'configs/ablations/beit_vit-base-p16_{}_8xb256-amp-coslr-300e_in1k.py'

# The paper's values are from these tables: from scratch (DeiT-B), table 1; 300 epochs, table 4; architectures, table 5
# (top-1 only, because its mIoU is with UPerNet); intermediate fine-tuning, table 3 (after 800 epochs).
ablations = {
    'scratch': dict(title='from scratch', config=None, paper=dict(top1=81.8), kind='scratch'),
    'beit': dict(title='BEiT', config=beit, paper=dict(top1=82.86, mIoU=44.65)),
    'random-mask': dict(
        title='− blockwise masking', config=variant.format('random-mask'), paper=dict(top1=82.77, mIoU=42.93)),
    'pixels': dict(title='− visual tokens: pixels', config=variant.format('pixels'), paper=dict(top1=81.04, mIoU=41.38)),
    'pixels-random-mask': dict(
        title='− visual tokens − blockwise masking',
        config=variant.format('pixels_random-mask'),
        paper=dict(top1=80.50, mIoU=37.09)),
    'recover-all': dict(
        title='+ recover 100 % of the tokens', config=variant.format('recover-all'), paper=dict(top1=82.59, mIoU=40.93)),
    'no-mask': dict(
        title='− masking + recover 100 % of the tokens',
        config=variant.format('no-mask_recover-all'),
        paper=dict(top1=81.67, mIoU=36.73)),
    'longer': dict(
        title='pre-training 8/3 as long', config=beit_long, paper=dict(top1=83.19, mIoU=45.58), length=8 / 3),
    'intermediate': dict(
        title='+ intermediate fine-tuning',
        config=beit,
        paper=dict(mIoU=47.7),
        start='beit',
        through='classification',
        tasks=('segmentation',)),
    'other-tokenizer': dict(title='tokenizer of another size', config=beit, tokenizer='other-tokenizer'),
    'layer-scale': dict(title='+ LayerScale', config=variant.format('layer-scale'), paper=dict(top1=83.00)),
    'relative': dict(title='+ LayerScale + relative bias', config=relative, paper=dict(top1=83.22)),
    'quarter': dict(title='pre-training 1/4 as long', config=beit, length=1 / 4),
    'sixteenth': dict(title='pre-training 1/16 as long', config=beit, length=1 / 16),
    'ceiling': dict(title='pre-trained, all labels, many steps', config=beit, start='beit', kind='ceiling'),
    'floor': dict(title='all labels, many steps, no attention between patches', config=None, kind='floor'),
}

# A claim: the ablation `better` is better than the ablation `worse`. The gap is the difference of their values in the paper. `gap` is
# given where the paper compares another pair (SETR-PUP in table 3, UPerNet in table 5), and nan where the paper has no value.
claims = [
    dict(
        sentence='Pre-training beats training from scratch',
        better='beit',
        worse='scratch',
        gap=dict(top1=1.4, mIoU=float('nan'))),
    dict(sentence='Blockwise masking beats random masking', better='beit', worse='random-mask'),
    dict(sentence='Visual tokens beat pixels', better='beit', worse='pixels'),
    dict(sentence='Tokens with blockwise masking beat pixels without', better='beit', worse='pixels-random-mask'),
    dict(sentence='Predicting the masked tokens beats predicting all', better='beit', worse='recover-all'),
    dict(sentence='Masking beats no masking', better='beit', worse='no-mask'),
    dict(sentence='Longer pre-training is better', better='longer', worse='beit'),
    dict(
        sentence='Intermediate fine-tuning helps segmentation', better='intermediate', worse='beit', gap=dict(mIoU=2.1)),
    dict(sentence='LayerScale helps', better='layer-scale', worse='beit', gap=dict(mIoU=0.57)),
    dict(sentence='Relative positions help', better='relative', worse='layer-scale', gap=dict(mIoU=0.27)),
]
