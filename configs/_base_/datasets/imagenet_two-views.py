# ImageNet-1k without its labels, for pre-training: one crop, resized to 224 px for the model and to 112 px for the tokenizer, and a
# mask of 75 of 14×14 patches. Any folder of images works. docs/datasets.md shows the layout of the files.
mask_and_pack = [dict(type='BlockwiseMask', grid=14, num_masked=75, min_block=16), dict(type='PackViews')]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='TwoViews',
        size=224,
        token_size=112,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        interpolation='bicubic',
        token_interpolation='lanczos',
        backend='torch'),
    *mask_and_pack,
]
test_pipeline = [  # SeededDataset draws the same masks each time
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='mmpretrain.CenterCrop', crop_size=224),
    dict(type='TwoViews', size=224, token_size=112, scale=None),  # resized by PIL
    *mask_and_pack,
]

images = dict(type='mmpretrain.CustomDataset', data_root='data/imagenet', with_label=False)
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='KeyedSampler', shuffle=True),
    dataset=dict(type='SeededDataset', _scope_='beit_mm', dataset=dict(images, data_prefix='train', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='SeededDataset', _scope_='beit_mm', dataset=dict(images, data_prefix='val', pipeline=test_pipeline)))
test_dataloader = val_dataloader
val_evaluator = dict(type='MIMMetric')  # both terms of the paper's eq. 3, with baselines
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
