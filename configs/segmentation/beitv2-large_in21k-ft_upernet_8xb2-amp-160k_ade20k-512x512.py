# Segmentation of ADE20K with UPerNet on BEiT v2 large after pre-training and intermediate fine-tuning on ImageNet-21k.
#   bash tools/dist_train.sh configs/segmentation/beitv2-large_in21k-ft_upernet_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected mIoU: 57.5 (official code)
_base_ = 'beitv2-large_upernet_8xb2-amp-160k_ade20k-512x512.py'
pretrained = 'beitv2_large_patch16_224_pt1k_ft21k'
model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
optim_wrapper = dict(optimizer=dict(lr=3e-5))
