# Ablation of table 5 of the paper, “ViT + LayerScale”: absolute positions and LayerScale. Its fine-tunings are
# configs/classification/vit-base-p16_layer-scale_8xb128-amp-coslr-100e_in1k.py and
# configs/segmentation/vit-base_layer-scale_upernet_8xb2-amp-160k_ade20k-512x512.py.
#   bash tools/dist_train.sh configs/ablations/beit_vit-base-p16_layer-scale_8xb256-amp-coslr-300e_in1k.py 8
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning (paper, table 5): 83.00 % top-1, 45.43 mIoU
_base_ = '../pretrain/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py'
model = dict(backbone=dict(layer_scale=0.1))
