# ImageNet-1k at 384 px, normalized with mean and std 0.5 as the published ImageNet-22k weights were.
_base_ = 'imagenet_384.py'
half = [127.5, 127.5, 127.5]
data_preprocessor = dict(mean=half, std=half)
train_pipeline = _base_.train_pipeline
train_pipeline[3].hparams.pad_val = [128, 128, 128]
train_pipeline[4].update(fill_color=half, fill_std=half)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
