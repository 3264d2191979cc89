# Classification of ImageNet-1k at 384 px with BEiT-B, plain ViT: 10 more epochs, starting from the weights fine-tuned at 224 px.
#   bash tools/dist_train.sh configs/classification/vit-base-p16_8xb64-amp-coslr-10e_in1k-384px.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 84.6 % (paper, table 1)
# The paper states only the number of epochs. Learning rate, decay and batch size are those of the fine-tuning after intermediate fine-tuning.
_base_ = [
    '../_base_/models/vit-base-p16.py',
    '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/imagenet_finetune.py',
]

pretrained = 'work_dirs/vit-base-p16_8xb128-amp-coslr-100e_in1k/epoch_100.pth'
lr, epochs = 2e-5, 10
warmup = max(epochs // 10, 1)

model = dict(
    backbone=dict(img_size=384, drop_path_rate=0.1, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    head=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=pretrained, prefix='head')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=1e-8),
    paramwise_cfg=dict(layer_decay_rate=0.85))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
auto_scale_lr = dict(base_batch_size=512)
