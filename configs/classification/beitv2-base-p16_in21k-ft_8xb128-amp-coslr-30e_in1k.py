# Classification of ImageNet-1k with BEiT v2 base after pre-training and intermediate fine-tuning on ImageNet-21k.
#   bash tools/dist_train.sh configs/classification/beitv2-base-p16_in21k-ft_8xb128-amp-coslr-30e_in1k.py 8
# Hardware: 8 GPUs of 32 GB, by estimate.
# Expected top-1: 86.5 % (official code)
_base_ = 'beitv2-base-p16_8xb128-amp-coslr-100e_in1k.py'
pretrained = 'beitv2_base_patch16_224_pt1k_ft21k'
lr, epochs = 5e-5, 30
warmup = max(epochs * 2 // 3, 1)
model = dict(
    backbone=dict(drop_path_rate=0.1, init_cfg=dict(checkpoint=pretrained)),
    train_cfg=None)  # without Mixup and CutMix
optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(start_factor=1e-6 / lr, end=warmup)
param_scheduler[1].update(eta_min_ratio=1e-6 / lr, begin=warmup)
train_cfg = dict(max_epochs=epochs)
