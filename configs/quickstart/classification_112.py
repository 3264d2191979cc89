# Classification on Shapes at 112 px, 30 steps: with patch 8 the grid of 14×14 is the paper's.
#   python tools/draw_shapes.py data/quickstart_112 --size 112 --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/classification_112.py
# Hardware: one CPU core, about 4 minutes. Trains from scratch; set `pretrained` to start from a checkpoint.
_base_ = 'classification.py'

pretrained = None
iters = 30
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
data_root = 'data/quickstart_112/imagenet'
model = dict(
    backbone=dict(img_size=112, init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
