# VQ-KD, the tokenizer of BEiT v2: 8192 codes that DINO ViT-B/16 teaches, trained on ImageNet-1k for 100 epochs. No label and
# no text was used for teacher and codes.
#   bash tools/dist_train.sh configs/tokenizer/vqkd_dino-base-p16_8xb64-amp-coslr-100e_in1k.py 8
# The teacher's weights are downloaded when training starts. Hardware: 8 GPUs of 32 GB (the authors'). Expected: 100 % of the
# codes in use (official TOKENIZER.md). Watch `tokenizer/codes_used`.
_base_ = 'vqkd_clip-base-p16_8xb64-amp-coslr-100e_in1k.py'
model = dict(
    decoder_layers=1,
    teacher=dict(
        _delete_=True,
        type='Teacher',
        backbone=dict(type='mmpretrain.TIMMBackbone', model_name='vit_base_patch16_224'),
        checkpoint='https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth',
        channels=768,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]))
