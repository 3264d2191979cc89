# Discrete VAE on Shapes: 512 codes, token view of 32 px, 8×8 tokens. The small twin of configs/tokenizer.
#   python tools/draw_shapes.py data/quickstart --train 12000 --val 1000
#   python tools/train.py configs/quickstart/tokenizer.py
# Hardware: two CPU cores, about two minutes. Unlike in the paper, the KL term covers only the use of the codebook, and the
# codes start from distant patches: the paper's schedule needs a thousand times as many updates.
_base_ = '../_base_/default_runtime.py'
default_scope = 'beit_mm'

codes = 512
token_size = 32
iters = 700

model = dict(
    type='DiscreteVAE',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    vocab_size=codes,
    width=32,
    groups=3,
    blocks=1,
    width_in=128,
    likelihood='mse',
    information_weight=0.0,
    marginal_weight=1.0)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.RandomResizedCrop',
        scale=token_size,
        crop_ratio_range=(0.8, 1.0),
        interpolation='lanczos',
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path', )),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=token_size, interpolation='lanczos', backend='pillow'),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path', )),
]
data = dict(type='mmpretrain.CustomDataset', data_root='data/quickstart/imagenet')
train_dataloader = dict(
    batch_size=8,
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
    dataset=dict(data, ann_file='meta/val.txt', data_prefix='val', pipeline=val_pipeline))
val_evaluator = dict(type='TokenizerMetric', vocab_size=codes)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=5e-3, betas=(0.9, 0.95), weight_decay=1e-4, fused=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, eta_min=5e-5),
]
custom_hooks = [
    dict(type='InitCodebook', num_images=192, sharpness=15.0),
    dict(type='Anneal', attribute='beta', start=0.1, end=0.02),
    dict(type='Anneal', attribute='temperature', start=1.0, end=1 / 16),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iters))
