# Classification on Shapes at 64 px: 500 labels, 100 steps. A small twin of configs/classification.
#   python tools/draw_shapes.py data/quickstart --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/classification.py
# Hardware: one CPU core, less than a minute. Trains from scratch; set `pretrained` to start from a checkpoint.
_base_ = '../_base_/default_runtime.py'
default_scope = 'mmpretrain'

pretrained = None
lr = 1.2e-2
iters = 100

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True, num_classes=10),
    backbone=dict(
        type='beit_mm.BEiT',
        arch=dict(embed_dims=96, num_layers=3, num_heads=3, feedforward_channels=384),
        img_size=64,
        patch_size=8,
        rel_pos_bias='per_layer',
        layer_scale=0.1,
        patch_embed_std=0.2,
        out_type='avg_featmap',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
val_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
classes = ['starfish', 'flower', 'heart', 'leaf', 'fish', 'moon', 'drop', 'cross', 'butterfly', 'mushroom']
data = dict(type='CustomDataset', data_root='data/quickstart/imagenet', metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='beit_mm.KeyedSampler', infinite=True),
    dataset=dict(
        type='beit_mm.SeededDataset',
        dataset=dict(data, ann_file='meta/train_500.txt', data_prefix='train', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data, ann_file='meta/val.txt', data_prefix='val', pipeline=val_pipeline))
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05),
    constructor='beit_mm.LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=5),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=False, begin=5),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
val_cfg = dict()
test_cfg = dict()

visualizer = dict(type='UniversalVisualizer')  # mmpretrain's
log_processor = dict(by_epoch=False)
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(by_epoch=False, interval=iters))
