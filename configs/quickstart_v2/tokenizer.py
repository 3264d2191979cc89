# VQ-KD on Shapes at 64 px: 256 codes, 8×8 tokens. The small twin of configs/tokenizer/vqkd_*.
#   python tools/train.py configs/quickstart_v2/teacher.py
#   python tools/train.py configs/quickstart_v2/tokenizer.py --cfg-options model.teacher.checkpoint=work_dirs/teacher/iter_400.pth
# Hardware: two CPU cores, a few minutes by estimate.
_base_ = '../quickstart/tokenizer.py'
codes, size, iters, lr = 256, 64, 800, 1e-3

arch = dict(embed_dims=96, num_layers=3, num_heads=3, feedforward_channels=384)
model = dict(
    _delete_=True,
    type='VQKD',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    vocab_size=codes,
    code_dims=16,
    encoder=dict(arch=arch, img_size=size, patch_size=8, abs_pos_embed=True, patch_embed_std=0.2),
    teacher=dict(
        type='Teacher',
        # The feature map before the norm of the classifier.
        backbone=dict(
            type='BEiT', arch=arch, img_size=size, patch_size=8, rel_pos_bias='per_layer', layer_scale=0.1, out_type='featmap'),
        checkpoint=None,
        channels=96,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.RandomResizedCrop',
        scale=size,
        crop_ratio_range=(0.8, 1.0),
        interpolation='bicubic',
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path', )),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=size, interpolation='bicubic', backend='pillow'),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path', )),
]
train_dataloader = dict(batch_size=32, dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(vocab_size=codes)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=lr, betas=(0.9, 0.99)), constructor='LayerDecayConstructor')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, eta_min=1e-5),
]
custom_hooks = [dict(type='InitCodebook', num_images=192)]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
