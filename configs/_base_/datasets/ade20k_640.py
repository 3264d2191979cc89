# ADE20K with crops of 640 px.
_base_ = 'ade20k_512.py'
crop_size = (640, 640)
scale = (2560, 640)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale=(int(2560 * r), int(640 * r)), keep_ratio=True)
    for r in (1.0, 1.0, 1.0, 1.25, 1.5, 1.75)]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
