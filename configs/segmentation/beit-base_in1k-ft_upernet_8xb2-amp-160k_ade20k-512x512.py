# Segmentation of ADE20K with UPerNet on BEiT-B after pre-training and intermediate fine-tuning on ImageNet-1k.
#   bash tools/dist_train.sh configs/segmentation/beit-base_in1k-ft_upernet_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: none published
# Learning rate and layer decay are the official code's after any intermediate fine-tuning.
_base_ = 'beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
pretrained = 'work_dirs/beit-base-p16_8xb128-amp-coslr-100e_in1k/epoch_100.pth'
model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
