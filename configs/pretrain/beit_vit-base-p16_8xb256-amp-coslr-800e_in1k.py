# BEiT-B pre-trained on ImageNet-1k for 800 epochs: plain ViT (absolute positions), as in the paper's tables 1, 3 and 4.
#   bash tools/dist_train.sh configs/pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k.py 8
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning: 83.2 % top-1 (paper, table 1);
# 83.19 % top-1, 45.58 mIoU (table 4)
_base_ = [
    '../_base_/models/vit-base-p16_mim.py',
    '../_base_/datasets/imagenet_two-views.py',
    '../_base_/schedules/imagenet_pretrain.py',
]

# For another tokenizer: --cfg-options model.target.checkpoint=PATH. The results above were reached with DALL-E's weights.
tokenizer = 'work_dirs/dvae_64xb8-coslr-3000k_in1k-256px/iter_3000000.pth'

model = dict(target=dict(checkpoint=tokenizer))
