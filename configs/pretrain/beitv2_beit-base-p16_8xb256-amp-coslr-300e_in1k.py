# BEiT v2 base, pre-trained on ImageNet-1k for 300 epochs.
#   bash tools/dist_train.sh configs/pretrain/beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k.py 8
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning: 85.0 % top-1 (official code and mmpretrain's port)
_base_ = 'beitv2_beit-base-p16_8xb256-amp-coslr-1600e_in1k.py'
epochs = 300
warmup = max(epochs // 30, 1)
drop_path, beta2 = (0.1, 0.999) if epochs > 300 else (0.0, 0.98)  # official values of long and short runs
model = dict(backbone=dict(drop_path_rate=drop_path))
optim_wrapper = dict(optimizer=dict(betas=(0.9, beta2)))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = param_scheduler[1].begin = warmup
train_cfg = dict(max_epochs=epochs, val_interval=max(epochs // 6, 1))
default_hooks = dict(checkpoint=dict(interval=max(epochs // 30, 1)))
