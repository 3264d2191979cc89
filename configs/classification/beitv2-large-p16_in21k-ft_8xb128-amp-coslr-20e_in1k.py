# Classification of ImageNet-1k with BEiT v2 large after pre-training and intermediate fine-tuning on ImageNet-21k.
#   bash tools/dist_train.sh configs/classification/beitv2-large-p16_in21k-ft_8xb128-amp-coslr-20e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 88.4 % (official code)
_base_ = 'beitv2-large-p16_8xb128-amp-coslr-50e_in1k.py'
pretrained = 'beitv2_large_patch16_224_pt1k_ft21k'
lr, epochs = 7e-5, 20
warmup = max(epochs // 4, 1)
model = dict(
    backbone=dict(drop_path_rate=0.25, init_cfg=dict(checkpoint=pretrained)),
    train_cfg=None)  # without Mixup and CutMix
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(start_factor=1e-6 / lr, end=warmup)
param_scheduler[1].update(eta_min_ratio=1e-6 / lr, begin=warmup)
train_cfg = dict(max_epochs=epochs)
