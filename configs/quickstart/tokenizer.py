"""Discrete VAE on Shapes, the small twin of `tokenizer/dvae_8xb64-3m_in1k.py`.

python tools/train.py configs/quickstart/tokenizer.py        2 cores
"""

default_scope = 'beit_mm'
data_root = 'data/tune'
size, codes, max_iters = 64, 512, 450

model = dict(
    type='DiscreteVAE',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    vocab_size=codes,
    width=32,
    groups=4,
    blocks=2,
    width_in=64,
    beta=0.0,
    information_weight=0.0,
    marginal_weight=1.0,
    init_codebook=True,
)

load = [dict(type='LoadImageFromFile')]
pack = [dict(type='mmpretrain.PackInputs', meta_keys=('img_path', ))]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='KeyedSampler', seed=0, infinite=True),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(
            type='mmpretrain.CustomDataset',
            data_root=f'{data_root}/imagenet',
            ann_file='meta/train.txt',
            data_prefix='train',
            pipeline=load + [dict(type='mmpretrain.RandomResizedCrop', scale=size, crop_ratio_range=(0.5, 1.0)),
                             dict(type='RandomFlip', prob=0.5)] + pack)))
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
            pipeline=load + pack)))
val_evaluator = dict(type='TokenizerMetric', vocab_size=codes)
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
                   dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5)]
custom_hooks = [
    dict(type='Anneal', attribute='beta', start=0.0, end=2.0, iters=100),
    dict(type='Anneal', attribute='temperature', start=1.0, end=1 / 16, iters=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg, test_cfg = dict(), dict()
default_hooks = dict(logger=dict(type='LoggerHook', interval=50), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False, window_size=50)
randomness = dict(seed=0)
