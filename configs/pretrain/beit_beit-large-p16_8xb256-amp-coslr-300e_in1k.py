# BEiT-L pre-trained on ImageNet-1k for 300 epochs: relative positions and LayerScale, as in the
# official code and most published weights.
#   bash tools/dist_train.sh configs/pretrain/beit_beit-large-p16_8xb256-amp-coslr-300e_in1k.py 8
# Hardware: 8 GPUs of 80 GB, by estimate. Expected result: none published for this length
_base_ = 'beit_beit-large-p16_8xb256-amp-coslr-800e_in1k.py'
train_cfg = dict(max_epochs=300)
