# Classification of ImageNet-1k with BEiT v2 base after 300 epochs of pre-training.
#   bash tools/dist_train.sh configs/classification/beitv2-base-p16_300e-pre_8xb128-amp-coslr-100e_in1k.py 8
# Hardware: 8 GPUs of 32 GB, by estimate.
# Expected top-1: 85.0 % (official code and mmpretrain's port)
_base_ = 'beitv2-base-p16_8xb128-amp-coslr-100e_in1k.py'
pretrained = 'beitv2_base_patch16_224_pt1k_300e'
model = dict(backbone=dict(drop_path_rate=0.1, init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
