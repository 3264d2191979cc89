# Ablation of table 4 of the paper, “+ recover 100 % of the visual tokens”: patches are masked as usual, and the tokens of all 196 patches are predicted.
#   bash tools/dist_train.sh configs/ablations/beit_vit-base-p16_recover-all_8xb256-amp-coslr-300e_in1k.py 8
# Then, for the two results of the table:
#   run=work_dirs/beit_vit-base-p16_recover-all_8xb256-amp-coslr-300e_in1k
#   bash tools/dist_train.sh configs/classification/vit-base-p16_8xb128-amp-coslr-100e_in1k.py 8 \
#       --work-dir $run/in1k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
#   bash tools/dist_train.sh configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py 8 \
#       --work-dir $run/ade20k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning (paper, table 4): 82.59 % top-1, 40.93 mIoU
_base_ = '../pretrain/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py'
model = dict(target=dict(recover='all'))
