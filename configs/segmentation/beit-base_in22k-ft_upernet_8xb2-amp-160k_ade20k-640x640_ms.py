# The same model, tested at several scales and flipped.
#   bash tools/dist_test.sh configs/segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640_ms.py work_dirs/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640/iter_160000.pth 8
# Hardware: any GPU, one image at a time. Expected mIoU: 54.2 (official code), 53.8 (mmseg's port)
_base_ = 'beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640.py'
model = dict(_delete_=True, type='SegTTAModel', module=_base_.model)
test_dataloader = dict(dataset=dict(pipeline=_base_.ms_pipeline))
