# Linear probe of BEiT-B, plain ViT: only a linear layer on the mean of the patches after block 9 is trained (paper, app. D).
#   bash tools/dist_train.sh configs/classification/vit-base-p16_linear-probe_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 16 GB, by estimate.
# Expected top-1: see the paper's table 9. The crops are those of the official `run_linear_eval.py`, which also reads the class token.
_base_ = [
    '../_base_/models/vit-base-p16.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'work_dirs/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k/epoch_800.pth'
epochs = 50

model = dict(
    backbone=dict(
        frozen_stages=12, out_indices=8, out_type='featmap', drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        loss=dict(_delete_=True, type='CrossEntropyLoss'), init_cfg=dict(type='Normal', layer='Linear', std=0.01)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
optim_wrapper = dict(optimizer=dict(lr=4e-3, weight_decay=1e-4))
param_scheduler = dict(type='CosineAnnealingLR', eta_min=0.0, convert_to_iter_based=True)
train_cfg = dict(max_epochs=epochs)
auto_scale_lr = dict(base_batch_size=1024)
