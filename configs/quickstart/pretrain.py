"""Masked image modeling on Shapes."""

default_scope = 'beit_mm'
data_root = 'data/tune'
size, patch, num_masked, max_iters = 64, 8, 25, 750
grid = size // patch

model = dict(
    type='BEiTPretrainer',
    num_masked=num_masked,
    backbone=dict(
        type='BEiT',
        arch=dict(embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=size,
        patch_size=patch,
        rel_pos_bias='shared',
        layer_scale=0.1,
        mask_token=True),
    target=dict(
        type='TokenTarget',
        tokenizer=dict(type='DiscreteVAE', vocab_size=512, width=32, groups=4, blocks=2, width_in=64),
        checkpoint=None),
    head=dict(type='MIMHead', in_channels=128, out_channels=512),
)

views = [dict(type='BlockwiseMask', grid=grid, budget=num_masked, min_block=4), dict(type='PackViews')]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='KeyedSampler', seed=0, infinite=True),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(
            type='mmpretrain.CustomDataset',
            data_root=f'{data_root}/imagenet',
            ann_file='meta/train.txt',
            data_prefix='train',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5),
                      dict(type='TwoViews', size=size, token_size=size, scale=(0.4, 1.0))] + views)))
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(
            type='mmpretrain.CustomDataset',
            data_root=f'{data_root}/imagenet',
            ann_file='meta/val.txt',
            data_prefix='val',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='TwoViews', size=size, token_size=size, scale=None)] + views)))
val_evaluator = dict(type='MIMMetric')
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    clip_grad=dict(max_norm=3.0))
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
                   dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg, test_cfg = dict(), dict()
default_hooks = dict(logger=dict(type='LoggerHook', interval=50), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False, window_size=50)
randomness = dict(seed=0)
