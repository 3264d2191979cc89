# BEiT v2 large, pre-trained on ImageNet-1k for 1600 epochs.
#   bash tools/dist_train.sh configs/pretrain/beitv2_beit-large-p16_8xb256-amp-coslr-1600e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected after fine-tuning (official code): 87.3 % top-1, 56.7 mIoU
_base_ = 'beitv2_beit-base-p16_8xb256-amp-coslr-1600e_in1k.py'
model = dict(
    backbone=dict(arch='large', layer_scale=1e-5, patch_aggregation=dict(layer=21)), head=dict(in_channels=1024))
