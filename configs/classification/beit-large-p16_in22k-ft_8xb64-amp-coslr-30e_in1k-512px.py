# Classification of ImageNet-1k at 512 px with BEiT-L, after pre-training and intermediate fine-tuning on ImageNet-22k.
#   bash tools/dist_train.sh configs/classification/beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-512px.py 8
# Hardware: 8 GPUs of 80 GB, by estimate.
# Expected top-1: 88.6 % (official code)
# The official code has no recipe for this size. All settings except for the size are those at 384 px.
_base_ = 'beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px.py'

size = 512
model = dict(backbone=dict(img_size=size))
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = size
test_pipeline[2].crop_size = size
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
