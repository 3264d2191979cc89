# BEiT-L pre-trained on ImageNet-1k for 300 epochs: relative positions and LayerScale, as in the
# official code and most published weights.
#   bash tools/dist_train.sh configs/pretrain/beit_beit-large-p16_8xb256-amp-coslr-300e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected result: none published for this length
_base_ = 'beit_beit-large-p16_8xb256-amp-coslr-800e_in1k.py'
epochs = 300
warmup = max(epochs // 30, 1)
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = param_scheduler[1].begin = warmup
train_cfg = dict(max_epochs=epochs, val_interval=max(epochs // 6, 1))
default_hooks = dict(checkpoint=dict(interval=max(epochs // 30, 1)))
