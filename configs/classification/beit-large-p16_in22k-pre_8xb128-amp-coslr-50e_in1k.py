# Classification of ImageNet-1k with BEiT-L from the published weights of pre-training on ImageNet-22k.
#   bash tools/dist_train.sh configs/classification/beit-large-p16_in22k-pre_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 86.0 % (official code)
_base_ = [
    '../_base_/models/beit-large-p16.py',
    '../_base_/datasets/imagenet_224_half.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'beit_large_patch16_224_pt22k'
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
