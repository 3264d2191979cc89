# Linear probe of BEiT-L, plain ViT: only a linear layer on the mean of the patches after block 14 is trained (paper, app. D).
#   bash tools/dist_train.sh configs/classification/vit-large-p16_linear-probe_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 16 GB, by estimate.
# Expected top-1: see the paper's table 9.
_base_ = 'vit-base-p16_linear-probe_8xb128-amp-coslr-50e_in1k.py'
pretrained = 'work_dirs/beit_vit-large-p16_8xb256-amp-coslr-800e_in1k/epoch_800.pth'
model = dict(
    backbone=dict(arch='large', frozen_stages=24, out_indices=13, init_cfg=dict(checkpoint=pretrained)),
    head=dict(in_channels=1024))
