# Segmentation of Shapes at 64 px with SETR-PUP: 500 label maps, 200 steps. A small twin of configs/segmentation.
#   python tools/draw_shapes.py data/quickstart --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/segmentation.py
# Hardware: one CPU core, less than a minute. Trains from scratch; set `pretrained` to start from a checkpoint.
_base_ = '../_base_/default_runtime.py'
default_scope = 'mmseg'

pretrained = None
lr, head_lr = 4e-3, 2e-2
iters = 200
norm_cfg = dict(type='BN')
# 80 % of the pixels are background. With equal weights a short run predicts background everywhere.
class_weight = [0.4] + [1.0] * 10

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(64, 64)),
    backbone=dict(
        type='beit_mm.BEiT',
        arch=dict(embed_dims=96, num_layers=3, num_heads=3, feedforward_channels=384),
        img_size=64,
        patch_size=8,
        rel_pos_bias='per_layer',
        layer_scale=0.1,
        patch_embed_std=0.2,
        out_type='featmap',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    decode_head=dict(
        type='beit_mm.SETRPUPHead', in_channels=96, channels=64, num_stages=1, num_classes=11, norm_cfg=norm_cfg,
        loss_decode=dict(type='CrossEntropyLoss', class_weight=class_weight)),
    test_cfg=dict(mode='whole'))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# Drawn by shapes.draw. In a label map 0 is unlabeled and 1 is the first class, as in ADE20K.
classes = ['background', 'starfish', 'flower', 'heart', 'leaf', 'fish', 'moon', 'drop', 'cross', 'butterfly', 'mushroom']
palette = [[222, 222, 216], [228, 87, 86], [245, 160, 60], [214, 39, 120], [84, 162, 75], [54, 130, 190],
           [240, 208, 70], [114, 190, 215], [120, 94, 70], [150, 95, 180], [30, 140, 130]]
data = dict(
    type='BaseSegDataset',
    data_root='data/quickstart/ade20k',
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=True)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='beit_mm.KeyedSampler', infinite=True),
    dataset=dict(
        type='beit_mm.SeededDataset',
        dataset=dict(
            data,
            ann_file='training_500.txt',
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=val_pipeline))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05),
    constructor='beit_mm.LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0, head_lr_mult=head_lr / lr),
    clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=10),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=10),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

visualizer = dict(type='SegLocalVisualizer', name='visualizer')  # MMSegInferencer and browse_dataset.py need it
log_processor = dict(by_epoch=False)
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(by_epoch=False, interval=iters))
