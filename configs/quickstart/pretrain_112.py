# Masked image modeling on Shapes at 112 px: with patch 8 the grid of 14×14 and the mask of 75 patches are the paper's.
#   python tools/draw_shapes.py data/quickstart_112 --size 112 --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/tokenizer_112.py
#   python tools/train.py configs/quickstart/pretrain_112.py \
#       --cfg-options model.target.checkpoint=work_dirs/tokenizer_112/iter_1400.pth
# Hardware: one CPU core, about a quarter of an hour.
_base_ = 'pretrain.py'

data_root = 'data/quickstart_112/imagenet'
model = dict(num_masked=75, backbone=dict(img_size=112))
mask = dict(grid=14, num_masked=75, min_block=16)
train_pipeline = _base_.train_pipeline
val_pipeline = _base_.val_pipeline
train_pipeline[2].update(size=112, token_size=56)
val_pipeline[1].update(size=112, token_size=56)
train_pipeline[3].update(mask)
val_pipeline[2].update(mask)
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, pipeline=val_pipeline)))
test_dataloader = val_dataloader
