# Classification of ImageNet-1k with BEiT-B, plain ViT with LayerScale (the paper's table 5), after 300 epochs of pre-training.
#   bash tools/dist_train.sh configs/classification/vit-base-p16_layer-scale_8xb128-amp-coslr-100e_in1k.py 8
# Hardware: 8 GPUs of 32 GB, by estimate.
# Expected top-1: 83.00 % (paper, table 5)
_base_ = 'vit-base-p16_8xb128-amp-coslr-100e_in1k.py'
pretrained = 'work_dirs/beit_vit-base-p16_layer-scale_8xb256-amp-coslr-300e_in1k/epoch_300.pth'
model = dict(backbone=dict(layer_scale=0.1, init_cfg=dict(checkpoint=pretrained)))
