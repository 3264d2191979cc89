# The same model, tested at several scales and flipped.
#   bash tools/dist_test.sh configs/segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512_ms.py work_dirs/beit-base_upernet_8xb2-amp-160k_ade20k-512x512/iter_160000.pth 8
# Hardware: any GPU, one image at a time. Expected mIoU: none published
_base_ = 'beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(_delete_=True, type='SegTTAModel', module=_base_.model)
test_dataloader = dict(dataset=dict(pipeline=_base_.ms_pipeline))
