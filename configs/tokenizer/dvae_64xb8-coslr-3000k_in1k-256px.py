# The tokenizer: DALL-E's discrete VAE with 8192 codes, trained on ImageNet-1k by the recipe of DALL-E's paper (app. A.2).
#   GPUS=64 bash tools/slurm_train.sh PARTITION dvae configs/tokenizer/dvae_64xb8-coslr-3000k_in1k-256px.py work_dirs/dvae_64xb8-coslr-3000k_in1k-256px
# Hardware: 64 GPUs of 24 GB, by estimate (1.5 GB of activations per image). On 8 GPUs of 80 GB, add `--amp --cfg-options
# train_dataloader.batch_size=64`. Expected result: none published on ImageNet-1k alone. In the paper (app. C), a smaller tokenizer trained on
# ImageNet-1k costs 0.16 points of top-1. If `codes_used` or `perplexity` in the log stays small, the codebook has collapsed.
_base_ = '../_base_/default_runtime.py'
default_scope = 'beit_mm'
codes, size, iters = 8192, 256, 3_000_000

model = dict(
    type='DiscreteVAE',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    vocab_size=codes,
    width=256,
    groups=4,
    blocks=2,
    width_in=128,
    likelihood='logit_laplace',
    information_weight=1.0,  # equal weights: KL(q(z|x) ‖ uniform), the paper's
    marginal_weight=1.0)
custom_hooks = [
    dict(type='Anneal', attribute='beta', start=0.0, end=6.6, iters=iters // 600),
    dict(type='Anneal', attribute='temperature', start=1.0, end=1 / 16, iters=iters // 20),
    dict(type='EMAHook', momentum=1e-3),  # average of the weights (0.999), which a checkpoint holds
]

pack = dict(type='mmpretrain.PackInputs', meta_keys=('img_path', ))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # As in the paper (listing 1), without its square crop: the short side becomes 9/8 … 12/8 of the size, then a crop.
    dict(
        type='RandomResize', scale=(16 * size, size), ratio_range=(9 / 8, 12 / 8), keep_ratio=True, interpolation='area'),
    dict(type='mmpretrain.RandomCrop', crop_size=size),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    pack,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=size, edge='short', interpolation='area'),
    dict(type='mmpretrain.CenterCrop', crop_size=size),
    pack,
]
images = dict(type='mmpretrain.CustomDataset', data_root='data/imagenet', with_label=False)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='KeyedSampler', infinite=True),
    dataset=dict(type='SeededDataset', _scope_='beit_mm', dataset=dict(images, data_prefix='train', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(images, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='TokenizerMetric', vocab_size=codes)
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4, fused=True))
param_scheduler = dict(type='CosineAnnealingLR', eta_min=1.25e-6, by_epoch=False, end=iters * 2 // 5)  # constant afterwards
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters // 30)
val_cfg = dict()
test_cfg = dict()

log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iters // 60))
auto_scale_lr = dict(base_batch_size=512)
