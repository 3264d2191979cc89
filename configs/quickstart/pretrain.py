# Masked image modeling on Shapes at 64 px: 8×8 patches, 25 of them masked. The small twin of configs/pretrain.
#   python tools/train.py configs/quickstart/pretrain.py \
#       --cfg-options model.target.checkpoint=work_dirs/quickstart/tokenizer/iter_700.pth
# Hardware: two CPU cores, about four minutes.
_base_ = '../_base_/default_runtime.py'
default_scope = 'beit_mm'

size, patch_size, num_masked, codes, token_size = 64, 8, 25, 512, 32
batch_size, iters = 32, 1250  # 40 000 images

model = dict(
    type='BEiTPretrainer',
    num_masked=num_masked,
    backbone=dict(
        type='BEiT',
        arch=dict(embed_dims=96, num_layers=3, num_heads=3, feedforward_channels=384),
        img_size=size,
        patch_size=patch_size,
        rel_pos_bias='shared',
        layer_scale=0.1,
        patch_embed_std=0.2,
        mask_token=True),
    target=dict(
        type='TokenTarget',
        tokenizer=dict(
            type='DiscreteVAE', vocab_size=codes, width=32, groups=3, blocks=1, width_in=128, likelihood='mse'),
        checkpoint=None),
    head=dict(type='MIMHead', in_channels=96, out_channels=codes))

mask = dict(type='BlockwiseMask', grid=size // patch_size, num_masked=num_masked, min_block=4)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='TwoViews', size=size, token_size=token_size, scale=(0.7, 1.0)),
    mask,
    dict(type='PackViews'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TwoViews', size=size, token_size=token_size, scale=None),
    mask,
    dict(type='PackViews'),
]
data = dict(type='mmpretrain.CustomDataset', data_root='data/quickstart/imagenet')
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='KeyedSampler', infinite=True),
    dataset=dict(
        type='SeededDataset',
        _scope_='beit_mm',
        dataset=dict(data, ann_file='meta/train.txt', data_prefix='train', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SeededDataset',
        _scope_='beit_mm',
        dataset=dict(data, ann_file='meta/val.txt', data_prefix='val', pipeline=val_pipeline)))
val_evaluator = dict(type='MIMMetric')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
    clip_grad=dict(max_norm=3.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=40, eta_min=4e-5),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iters))
