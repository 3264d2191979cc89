# Discrete VAE on Shapes at 112 px: its stride of 8 gives the paper's 14×14 tokens.
#   python -m beit_mm.data.shapes data/quickstart_112 --size 112 --train 12000 --val 2000 --labels 200 500
#   python tools/train.py configs/quickstart/tokenizer_112.py
# Hardware: one CPU core, about ten minutes.
_base_ = 'tokenizer.py'

data_root = 'data/quickstart_112/imagenet'
train_pipeline = _base_.train_dataloader.dataset.dataset.pipeline
train_pipeline[1].scale = 112
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
test_dataloader = val_dataloader
