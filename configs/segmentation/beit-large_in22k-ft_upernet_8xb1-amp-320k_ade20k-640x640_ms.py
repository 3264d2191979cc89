# The same model, tested at several scales and flipped.
#   bash tools/dist_test.sh configs/segmentation/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640_ms.py work_dirs/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640/iter_320000.pth 8
# Hardware: any GPU, one image at a time. Expected mIoU: 57.0 (official code), 56.8 (mmseg's port)
_base_ = 'beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640.py'
model = dict(_delete_=True, type='SegTTAModel', module=_base_.model)
test_dataloader = dict(dataset=dict(pipeline=_base_.ms_pipeline))
