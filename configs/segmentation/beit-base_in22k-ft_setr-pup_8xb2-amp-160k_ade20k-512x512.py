# Segmentation of ADE20K with SETR-PUP on BEiT-B after pre-training and intermediate fine-tuning on ImageNet-22k (published weights).
#   bash tools/dist_train.sh configs/segmentation/beit-base_in22k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: none published
# Mean and std are those of the weights. Learning rate and layer decay are the paper's for SETR-PUP (table 14).
_base_ = 'vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512.py'
pretrained = 'beit_base_patch16_224_pt22k_ft22k'
half = [127.5, 127.5, 127.5]
model = dict(
    data_preprocessor=dict(mean=half, std=half),
    backbone=dict(
        abs_pos_embed=False, rel_pos_bias='per_layer', layer_scale=0.1, init_cfg=dict(checkpoint=pretrained)))
