# Ablation of table 4 of the paper, “− masking + recover 100 % of the visual tokens”: no patch is masked, so there is no mask token.
#   bash tools/dist_train.sh configs/ablations/beit_vit-base-p16_no-mask_recover-all_8xb256-amp-coslr-300e_in1k.py 8
# Then, for the two results of the table:
#   run=work_dirs/beit_vit-base-p16_no-mask_recover-all_8xb256-amp-coslr-300e_in1k
#   bash tools/dist_train.sh configs/classification/vit-base-p16_8xb128-amp-coslr-100e_in1k.py 8 \
#       --work-dir $run/in1k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
#   bash tools/dist_train.sh configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py 8 \
#       --work-dir $run/ade20k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning (paper, table 4): 81.67 % top-1, 36.73 mIoU
_base_ = 'beit_vit-base-p16_recover-all_8xb256-amp-coslr-300e_in1k.py'
model = dict(backbone=dict(mask_token=False))
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
del train_pipeline[4], test_pipeline[4]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=test_pipeline)))
test_dataloader = val_dataloader
