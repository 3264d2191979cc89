# Segmentation of Shapes at 112 px with SETR-PUP, 110 steps: with patch 8 the grid of 14×14 is the paper's.
#   python tools/draw_shapes.py data/quickstart_112 --size 112 --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/segmentation_112.py
# Hardware: one CPU core, about 3 minutes. Trains from scratch; set `pretrained` to start from a checkpoint.
_base_ = 'segmentation.py'

pretrained = None
iters = 110
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
data_root = 'data/quickstart_112/ade20k'
model = dict(
    data_preprocessor=dict(size=(112, 112)),
    backbone=dict(img_size=112, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    decode_head=dict(channels=32, num_stages=3))
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
