# Intermediate fine-tuning of BEiT-L on ImageNet-22k (21 841 classes) from the published weights of pre-training.
#   NNODES=2 NODE_RANK=… MASTER_ADDR=… bash tools/dist_train.sh configs/classification/beit-large-p16_16xb128-amp-coslr-90e_in22k.py 8
# Hardware: 2 nodes of 8 GPUs of 80 GB, by estimate.
# Expected result: none, because there is no validation split. The fine-tunings on ImageNet-1k that start from its weights measure it.
_base_ = [
    '../_base_/models/beit-large-p16.py',
    '../_base_/datasets/imagenet22k_224_half.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'beit_large_patch16_224_pt22k'
lr, epochs = 2e-3, 90
warmup = max(epochs // 18, 1)

model = dict(
    backbone=dict(drop_path_rate=0.2, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    head=dict(num_classes=21841))
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.75),
    clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
auto_scale_lr = dict(base_batch_size=2048)
default_hooks = dict(checkpoint=dict(save_best=None))
