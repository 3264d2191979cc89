# ImageNet-21k, here called ImageNet-22k (21 841 classes, no validation split), at 224 px, normalized with the mean and std of
# ImageNet. To test, hold out some of the images yourself.
_base_ = 'imagenet_224.py'
data_preprocessor = dict(num_classes=21841)
data_root = 'data/imagenet22k'
train_dataloader = dict(
    dataset=dict(
        dataset=dict(_delete_=True, type='ImageNet21k', data_root=data_root, split='train', pipeline=_base_.train_pipeline)))
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageNet21k', data_root=data_root, data_prefix='val', pipeline=_base_.test_pipeline))
