# Classification of ImageNet-1k with BEiT v2 large after 1600 epochs of pre-training.
#   bash tools/dist_train.sh configs/classification/beitv2-large-p16_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 87.3 % (official code)
_base_ = 'beit-large-p16_8xb128-amp-coslr-50e_in1k.py'
pretrained = 'beitv2_large_patch16_224_pt1k'
lr = 2e-4
model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = param_scheduler[1].eta_min_ratio = 1e-6 / lr
