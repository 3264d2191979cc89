# Segmentation of ADE20K with UPerNet on BEiT-L after pre-training and intermediate fine-tuning on ImageNet-22k (published weights).
#   bash tools/dist_train.sh configs/segmentation/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640.py 8
# Hardware: 8 GPUs of 32 GB, by estimate. Expected mIoU: 56.7 (official code), 56.3 (mmseg's port);
# with `--tta` 57.0 and 56.8
# cls_token has weight decay, as in the official code that made the published result (probably by mistake). Mean and std
# are ImageNet's, as in that code, although the weights were trained with 0.5.
_base_ = [
    '../_base_/models/upernet_beit-base.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/ade20k_160k.py',
]

pretrained = 'beit_large_patch16_224_pt22k_ft22k'
crop_size = (640, 640)
iters = 320_000
warmup = iters * 3 // 320

model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        arch='large', layer_scale=1e-5, out_indices=(7, 11, 15, 23), img_size=640, drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024], channels=1024),
    auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(crop_size=crop_size, stride=(426, 426)))
optim_wrapper = dict(optimizer=dict(lr=2e-5), paramwise_cfg=dict(layer_decay_rate=0.95, decay_cls_token=True), accumulative_counts=2)
# Batch 8, two batches per update: 320 000 iterations are 160 000 updates, and the schedule ends where the run ends.
train_dataloader = dict(batch_size=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False),
]
train_cfg = dict(max_iters=iters, val_interval=iters // 20)
default_hooks = dict(checkpoint=dict(interval=iters // 20))
auto_scale_lr = dict(base_batch_size=8)
