# BEiT-B pre-trained on ImageNet-1k for 300 epochs: plain ViT (absolute positions), as in the paper's tables 1, 3 and 4.
#   bash tools/dist_train.sh configs/pretrain/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py 8
# Then, for the two results of table 4:
#   run=work_dirs/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k
#   bash tools/dist_train.sh configs/classification/vit-base-p16_8xb128-amp-coslr-100e_in1k.py 8 \
#       --work-dir $run/in1k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
#   bash tools/dist_train.sh configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py 8 \
#       --work-dir $run/ade20k --cfg-options model.backbone.init_cfg.checkpoint=$run/epoch_300.pth
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning (paper, table 4): 82.86 % top-1, 44.65 mIoU
_base_ = 'beit_vit-base-p16_8xb256-amp-coslr-800e_in1k.py'
epochs = 300
warmup = max(epochs // 30, 1)
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = param_scheduler[1].begin = warmup
train_cfg = dict(max_epochs=epochs, val_interval=max(epochs // 6, 1))
default_hooks = dict(checkpoint=dict(interval=max(epochs // 30, 1)))
