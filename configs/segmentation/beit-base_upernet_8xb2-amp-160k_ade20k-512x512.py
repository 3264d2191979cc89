# Segmentation of ADE20K with UPerNet on BEiT-B after 800 epochs of pre-training on ImageNet-1k.
#   bash tools/dist_train.sh configs/segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: 45.7 (paper, table 5, 300 epochs of pre-training)
# cls_token has weight decay, as in the official code that made the published result (probably by mistake).
_base_ = [
    '../_base_/models/upernet_beit-base.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/ade20k_160k.py',
]

pretrained = 'work_dirs/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k/epoch_800.pth'

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=7e-4), paramwise_cfg=dict(layer_decay_rate=0.65, decay_cls_token=True))
