# BEiT-L pre-trained on ImageNet-22k for 150 epochs: the recipe of the published weights (`pt22k`), mean and std 0.5.
#   bash tools/dist_train.sh configs/pretrain/beit_beit-large-p16_8xb256-amp-coslr-150e_in22k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected top-1 on ImageNet-1k after fine-tuning: 86.0 % (official code)
_base_ = 'beit_beit-base-p16_8xb256-amp-coslr-150e_in22k.py'
model = dict(backbone=dict(arch='large', layer_scale=1e-5), head=dict(in_channels=1024))
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
