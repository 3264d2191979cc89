# Intermediate fine-tuning of BEiT v2 base on ImageNet-21k (21 841 classes) from the published weights of pre-training.
#   NNODES=4 NODE_RANK=… MASTER_ADDR=… bash tools/dist_train.sh configs/classification/beitv2-base-p16_32xb128-amp-coslr-90e_in21k.py 8
# Hardware: 4 nodes of 8 GPUs of 32 GB, by estimate.
# Expected result: none, because there is no validation split. The fine-tunings on ImageNet-1k that start from its weights measure it.
_base_ = [
    '../_base_/models/beit-base-p16.py',
    '../_base_/datasets/imagenet22k_224.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'beitv2_base_patch16_224_pt1k'
lr, epochs = 6e-4, 90
warmup = max(epochs * 2 // 9, 1)

model = dict(
    backbone=dict(drop_path_rate=0.1, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    head=dict(num_classes=21841),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
auto_scale_lr = dict(base_batch_size=4096)
default_hooks = dict(checkpoint=dict(save_best=None))
