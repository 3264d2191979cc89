# Classification of ImageNet-1k with BEiT v2 large after 300 epochs of pre-training.
#   bash tools/dist_train.sh configs/classification/beitv2-large-p16_300e-pre_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 86.6 % (official code)
_base_ = 'beitv2-large-p16_8xb128-amp-coslr-50e_in1k.py'
pretrained = 'beitv2_large_patch16_224_pt1k_300e'
lr = 5e-4
model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = param_scheduler[1].eta_min_ratio = 1e-6 / lr
