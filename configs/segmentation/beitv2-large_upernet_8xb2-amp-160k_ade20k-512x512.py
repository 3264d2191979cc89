# Segmentation of ADE20K with UPerNet on BEiT v2 large after 1600 epochs of pre-training on ImageNet-1k.
#   bash tools/dist_train.sh configs/segmentation/beitv2-large_upernet_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected mIoU: 56.7 (official code)
_base_ = 'beitv2-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
pretrained = 'beitv2_large_patch16_224_pt1k'
model = dict(
    backbone=dict(
        arch='large',
        layer_scale=1e-6,
        out_indices=(7, 11, 15, 23),
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint=pretrained)),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024], channels=1024),
    auxiliary_head=dict(in_channels=1024))
optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
