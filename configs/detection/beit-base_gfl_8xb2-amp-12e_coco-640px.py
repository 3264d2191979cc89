# Detection on COCO with MMDetection's GFL on BEiT-B after pre-training and intermediate fine-tuning on ImageNet-22k (published weights).
#   bash tools/dist_train.sh configs/detection/beit-base_gfl_8xb2-amp-12e_coco-640px.py 8
# Hardware: 8 GPUs of 24 GB, by estimate. Expected result: not measured. The config shows how to use BEiT in a detector.
# Images have 640 px, because every block attends to all patches. GFL is a one-stage detector whose losses need no compiled op.
_base_ = '../_base_/default_runtime.py'
default_scope = 'mmdet'

pretrained = 'beit_base_patch16_224_pt22k_ft22k'
size, lr, epochs = 640, 1e-4, 12

model = dict(
    type='GFL',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_size_divisor=64),
    backbone=dict(
        type='beit_mm.BEiT',
        arch='base',
        img_size=size,
        patch_size=16,
        rel_pos_bias='per_layer',
        layer_scale=0.1,
        out_type='featmap',
        out_indices=(3, 5, 7, 11),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=[
        dict(type='mmseg.Feature2Pyramid', embed_dim=768, rescales=[2, 1, 0.5, 0.25]),  # strides 8, 16, 32, 64
        dict(
            type='ChannelMapper',
            in_channels=[768, 768, 768, 768],
            out_channels=256,
            num_outs=5,
            act_cfg=None,
            norm_cfg=dict(type='GN', num_groups=32)),
    ],
    bbox_head=dict(
        type='GFLHead',
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128]),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        reg_max=16),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100))

data = dict(type='CocoDataset', data_root='data/coco')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='beit_mm.KeyedSampler', shuffle=True),
    dataset=dict(
        type='beit_mm.SeededDataset',
        dataset=dict(
            data,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='data/coco/annotations/instances_val2017.json', metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05),
    constructor='beit_mm.LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=500),
    dict(type='MultiStepLR', milestones=[epochs * 2 // 3, epochs * 11 // 12], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])  # DetInferencer needs it
auto_scale_lr = dict(base_batch_size=16)
