# Segmentation of ADE20K with UPerNet on BEiT-B, plain ViT with LayerScale (the paper's table 5), after 300 epochs of pre-training.
#   bash tools/dist_train.sh configs/segmentation/vit-base_layer-scale_upernet_8xb2-amp-160k_ade20k-512x512.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: 45.43 (paper, table 5)
_base_ = 'vit-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
pretrained = 'work_dirs/beit_vit-base-p16_layer-scale_8xb256-amp-coslr-300e_in1k/epoch_300.pth'
model = dict(backbone=dict(layer_scale=0.1, init_cfg=dict(checkpoint=pretrained)))
