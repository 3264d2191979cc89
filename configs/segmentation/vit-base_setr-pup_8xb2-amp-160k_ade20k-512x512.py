# Segmentation of ADE20K with SETR-PUP on BEiT-B, plain ViT, after 800 epochs of pre-training (the paper's table 3).
#   bash tools/dist_train.sh configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: 45.6 (paper, table 3, single scale)
_base_ = [
    '../_base_/models/setr-pup_vit-base.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/ade20k_160k.py',
]

pretrained = 'work_dirs/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k/epoch_800.pth'

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.65))
