# Settings that all fine-tunings on ImageNet share. Each config sets learning rate, decay and number of epochs. A schedule
# without `end` ends with the run.
_base_ = '../default_runtime.py'
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), eps=1e-8, fused=True),
    constructor='beit_mm.LayerDecayConstructor')
train_cfg = dict(type='EpochBasedTrainLoop', val_interval=1)
visualizer = dict(type='UniversalVisualizer')  # mmpretrain's
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=1, save_best='auto'))
