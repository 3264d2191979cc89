# Classification of ImageNet-1k with BEiT-L, relative positions and LayerScale, after 800 epochs of pre-training.
#   bash tools/dist_train.sh configs/classification/beit-large-p16_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: none published on ImageNet-1k alone; the plain ViT reaches 85.2 % (paper, table 1)
_base_ = [
    '../_base_/models/beit-large-p16.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'work_dirs/beit_beit-large-p16_8xb256-amp-coslr-800e_in1k/epoch_800.pth'
lr, epochs = 1e-3, 50
warmup = max(epochs // 10, 1)

model = dict(
    backbone=dict(drop_path_rate=0.2, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
auto_scale_lr = dict(base_batch_size=1024)
