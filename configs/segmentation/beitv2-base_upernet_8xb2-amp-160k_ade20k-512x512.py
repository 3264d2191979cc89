# Segmentation of ADE20K with UPerNet on BEiT v2 base after 1600 epochs of pre-training on ImageNet-1k.
#   bash tools/dist_train.sh configs/segmentation/beitv2-base_upernet_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: 53.1 (official code)
# cls_token has weight decay, as in the official code that made the published result (probably by mistake).
_base_ = 'beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
pretrained = 'beitv2_base_patch16_224_pt1k'
model = dict(backbone=dict(drop_path_rate=0.15, init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=5e-5), paramwise_cfg=dict(layer_decay_rate=0.75))
