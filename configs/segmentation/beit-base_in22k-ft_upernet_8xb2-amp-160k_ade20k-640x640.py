# Segmentation of ADE20K with UPerNet on BEiT-B after pre-training and intermediate fine-tuning on ImageNet-22k (published weights).
#   bash tools/dist_train.sh configs/segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: 53.6 (official code), 53.1 (mmseg's port);
# with `--tta` 54.2 and 53.8
# cls_token has weight decay, as in the official code that made the published result (probably by mistake). Mean and std
# are ImageNet's, as in that code, although the weights were trained with 0.5.
_base_ = [
    '../_base_/models/upernet_beit-base.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/ade20k_160k.py',
]

pretrained = 'beit_base_patch16_224_pt22k_ft22k'
crop_size = (640, 640)

model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(img_size=640, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    test_cfg=dict(crop_size=crop_size, stride=(426, 426)))
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.9, decay_cls_token=True))
