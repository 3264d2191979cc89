# BEiT-L pre-trained on ImageNet-22k for 150 epochs, as the public weights beit_large_patch16_224_pt22k were.
#   bash tools/dist_train.sh configs/pretrain/beit_beit-large-p16_8xb256-amp-coslr-150e_in22k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected result: none published
_base_ = 'beit_beit-large-p16_8xb256-amp-coslr-800e_in1k.py'
half = [127.5, 127.5, 127.5]
model = dict(data_preprocessor=dict(mean=half, std=half))
train_dataloader = dict(dataset=dict(dataset=dict(data_root='data/imagenet22k')))  # validation: ImageNet-1k
warmup, epochs = 10_000 / 6932, 150  # 10 000 steps, of 6 932 an epoch
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = warmup
param_scheduler[1].update(begin=warmup, end=epochs)
train_cfg = dict(max_epochs=epochs, val_interval=10)
