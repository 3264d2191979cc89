# BEiT-B pre-trained on ImageNet-22k for 150 epochs: the recipe of the published weights (`pt22k`), mean and std 0.5.
#   bash tools/dist_train.sh configs/pretrain/beit_beit-base-p16_8xb256-amp-coslr-150e_in22k.py 8
# Hardware: 8 GPUs of 40 GB, by estimate. Expected top-1 on ImageNet-1k after fine-tuning: 83.7 % (official code)
_base_ = 'beit_beit-base-p16_8xb256-amp-coslr-800e_in1k.py'
half = [127.5, 127.5, 127.5]
epochs = 150
warmup_iters = 10_000 * epochs // 150
model = dict(data_preprocessor=dict(mean=half, std=half))
train_dataloader = dict(dataset=dict(dataset=dict(data_root='data/imagenet22k')))  # validation: ImageNet-1k
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 1.5e-3, by_epoch=False, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=warmup_iters),
]
train_cfg = dict(max_epochs=epochs, val_interval=max(epochs // 3, 1))
default_hooks = dict(checkpoint=dict(interval=max(epochs // 15, 1)))
