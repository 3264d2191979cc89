# Settings that all pre-trainings on ImageNet share: 800 epochs, batch size 2048, one cosine after ten epochs of warm-up. A schedule
# without `end` ends with the run, also with --cfg-options train_cfg.max_epochs=N (more than the warm-up).
_base_ = '../default_runtime.py'
lr, min_lr, epochs = 1.5e-3, 1e-5, 800
warmup = max(epochs // 80, 1)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',  # it chooses the parameters without weight decay
    clip_grad=dict(max_norm=3.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=min_lr, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=max(epochs // 16, 1))
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=max(epochs // 80, 1)))
auto_scale_lr = dict(base_batch_size=2048)
