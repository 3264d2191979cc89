# Fine-tuning on ADE20K for 160 000 updates. As with mmcv's `poly`, the learning rate falls linearly to 0 over the run, and the
# warm-up multiplies it. PolyLR has no `end`, so it ends with the run, also with --cfg-options train_cfg.max_iters=N.
_base_ = '../default_runtime.py'
iters = 160_000
warmup = iters * 3 // 320
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True),
    constructor='beit_mm.LayerDecayConstructor')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters // 10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iters // 10, save_best='mIoU'))
visualizer = dict(type='SegLocalVisualizer', name='visualizer')  # MMSegInferencer and browse_dataset.py need it
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=16)
