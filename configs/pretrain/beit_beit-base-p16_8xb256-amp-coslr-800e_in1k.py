# BEiT-B pre-trained on ImageNet-1k for 800 epochs: relative positions and LayerScale, as in the
# official code and most published weights.
#   bash tools/dist_train.sh configs/pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k.py 8
# Hardware: 8 GPUs of 40 GB, by estimate. Expected result: none published for this length
_base_ = [
    '../_base_/models/beit-base-p16_mim.py',
    '../_base_/datasets/imagenet_two-views.py',
    '../_base_/schedules/imagenet_pretrain.py',
]

tokenizer = 'work_dirs/dvae_64xb8-coslr-3000k_in1k-256px/iter_3000000.pth'  # or --cfg-options model.target.checkpoint=PATH

model = dict(target=dict(checkpoint=tokenizer))
