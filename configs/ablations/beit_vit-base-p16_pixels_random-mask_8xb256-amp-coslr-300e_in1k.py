# Ablation of table 4 of the paper, “− visual tokens − blockwise masking”: the model predicts the pixels of 75 randomly chosen patches.
#   bash tools/dist_train.sh configs/ablations/beit_vit-base-p16_pixels_random-mask_8xb256-amp-coslr-300e_in1k.py 8
# Then, for the two results of the table:
#   run=work_dirs/beit_vit-base-p16_pixels_random-mask_8xb256-amp-coslr-300e_in1k
#   bash tools/dist_train.sh configs/classification/vit-base-p16_8xb128-amp-coslr-100e_in1k.py 8 \
#       --work-dir $run/in1k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
#   bash tools/dist_train.sh configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py 8 \
#       --work-dir $run/ade20k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning (paper, table 4): 80.50 % top-1, 37.09 mIoU
_base_ = 'beit_vit-base-p16_pixels_8xb256-amp-coslr-300e_in1k.py'
mask = dict(type='RandomMask', grid=14, num_masked=75)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[4] = mask
test_pipeline[4] = mask
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=test_pipeline)))
test_dataloader = val_dataloader
custom_hooks = [dict(type='Throughput', gflop_per_image=106), dict(type='CompileBlocks')]  # no tokenizer
