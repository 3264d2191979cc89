# Discrete VAE on Shapes for 112 px: token view of 56 px, the paper's 14×14 tokens.
#   python tools/draw_shapes.py data/quickstart_112 --size 112 --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/tokenizer_112.py
# Hardware: one CPU core, about three minutes.
_base_ = 'tokenizer.py'

iters = 1400
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))

data_root = 'data/quickstart_112/imagenet'
train_pipeline = _base_.train_pipeline
val_pipeline = _base_.val_pipeline
train_pipeline[1].scale = val_pipeline[1].scale = 56
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=val_pipeline))
test_dataloader = val_dataloader
