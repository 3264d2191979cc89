# Classification of ImageNet-1k at 384 px with BEiT-L, after pre-training and intermediate fine-tuning on ImageNet-22k.
#   bash tools/dist_train.sh configs/classification/beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 88.4 % (official code)
_base_ = [
    '../_base_/models/beit-large-p16.py',
    '../_base_/datasets/imagenet_384_half.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'beit_large_patch16_224_pt22k_ft22k'
lr, epochs = 2e-5, 30
warmup = max(epochs // 6, 1)

model = dict(
    backbone=dict(img_size=384, drop_path_rate=0.4, init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=1e-8),
    paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
auto_scale_lr = dict(base_batch_size=512)
