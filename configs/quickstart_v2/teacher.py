# The teacher of the small VQ-KD: classification on Shapes at 64 px. It sees the labels of all training images.
#   python tools/draw_shapes.py data/quickstart --train 12000 --val 1000
#   python tools/train.py configs/quickstart_v2/teacher.py
# Hardware: two CPU cores, a few minutes by estimate.
_base_ = '../quickstart/classification.py'
iters = 400

train_dataloader = dict(dataset=dict(dataset=dict(ann_file='meta/train.txt')))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=False, begin=40),
]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=iters))
