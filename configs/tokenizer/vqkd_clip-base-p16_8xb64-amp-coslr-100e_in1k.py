# VQ-KD, the tokenizer of BEiT v2: 8192 codes that CLIP ViT-B/16 teaches, trained on ImageNet-1k for 100 epochs.
#   bash tools/dist_train.sh configs/tokenizer/vqkd_clip-base-p16_8xb64-amp-coslr-100e_in1k.py 8
# The teacher's weights are downloaded when training starts. Hardware: 8 GPUs of 32 GB (the authors'). Expected: 97 % of the
# codes in use (official TOKENIZER.md). Watch `tokenizer/codes_used`. Learning rate: 5e-5 for 128 images in the official script.
_base_ = '../_base_/default_runtime.py'
default_scope = 'beit_mm'
codes, size, epochs, lr, min_lr = 8192, 224, 100, 2e-4, 1e-5
warmup = interval = max(epochs // 10, 1)

model = dict(
    type='VQKD',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    vocab_size=codes,
    code_dims=32,
    encoder=dict(arch='base', img_size=size, patch_size=16, abs_pos_embed=True),
    decoder_layers=3,
    teacher=dict(
        type='Teacher',
        # OpenAI's weights need its approximation of GELU.
        backbone=dict(type='mmpretrain.TIMMBackbone', model_name='vit_base_patch16_clip_quickgelu_224'),
        checkpoint='hf://timm/vit_base_patch16_clip_224.openai',
        projection='head.weight',
        channels=512,
        mean=[122.7709, 116.7460, 104.0937],
        std=[68.5005, 66.6322, 70.3232]),
    beta=1.0,
    decay=0.99)
custom_hooks = [dict(type='InitCodebook', num_images=192), dict(type='CompileBlocks')]

pack = dict(type='mmpretrain.PackInputs', meta_keys=('img_path', ))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.RandomResizedCrop',
        scale=size,
        crop_ratio_range=(0.08, 1.0),
        interpolation='bicubic',
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    pack,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', interpolation='bicubic', backend='pillow'),
    dict(type='mmpretrain.CenterCrop', crop_size=size),
    pack,
]
images = dict(type='mmpretrain.CustomDataset', data_root='data/imagenet', with_label=False)
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='KeyedSampler', shuffle=True),
    dataset=dict(type='SeededDataset', _scope_='beit_mm', dataset=dict(images, data_prefix='train', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(images, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='TokenizerMetric', vocab_size=codes)
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-4, fused=True),
    constructor='LayerDecayConstructor')  # for its rule which parameters have no weight decay
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=min_lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=interval)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=interval))
auto_scale_lr = dict(base_batch_size=512)
