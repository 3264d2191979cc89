# Intermediate fine-tuning of BEiT v2 large on ImageNet-21k (21 841 classes) from the published weights of pre-training.
#   NNODES=4 NODE_RANK=… MASTER_ADDR=… bash tools/dist_train.sh configs/classification/beitv2-large-p16_32xb128-amp-coslr-90e_in21k.py 8
# Hardware: 4 nodes of 8 GPUs of 80 GB, by estimate.
# Expected result: none, because there is no validation split. The fine-tunings on ImageNet-1k that start from its weights measure it.
_base_ = 'beitv2-base-p16_32xb128-amp-coslr-90e_in21k.py'
pretrained = 'beitv2_large_patch16_224_pt1k'
model = dict(
    backbone=dict(arch='large', layer_scale=1e-5, drop_path_rate=0.2, init_cfg=dict(checkpoint=pretrained)),
    head=dict(in_channels=1024))
