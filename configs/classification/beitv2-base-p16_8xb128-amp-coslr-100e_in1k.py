# Classification of ImageNet-1k with BEiT v2 base after 1600 epochs of pre-training.
#   bash tools/dist_train.sh configs/classification/beitv2-base-p16_8xb128-amp-coslr-100e_in1k.py 8
# Hardware: 8 GPUs of 32 GB, by estimate.
# Expected top-1: 85.5 % (official code)
_base_ = 'beit-base-p16_8xb128-amp-coslr-100e_in1k.py'
pretrained = 'beitv2_base_patch16_224_pt1k'
lr = 5e-4
model = dict(backbone=dict(drop_path_rate=0.2, init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(layer_decay_rate=0.6))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = param_scheduler[1].eta_min_ratio = 1e-6 / lr
