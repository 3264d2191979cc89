# BEiT v2 base, pre-trained on ImageNet-1k for 1600 epochs: tokens of VQ-KD, and patch aggregation from block 9.
#   bash tools/dist_train.sh configs/tokenizer/vqkd_clip-base-p16_8xb64-amp-coslr-100e_in1k.py 8
#   bash tools/dist_train.sh configs/pretrain/beitv2_beit-base-p16_8xb256-amp-coslr-1600e_in1k.py 8
# With the authors' tokenizer: --cfg-options model.target.checkpoint=vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7
# Hardware: 8 GPUs of 40 GB, by estimate. Expected after fine-tuning (official code): 85.5 % top-1, 53.1 mIoU
_base_ = [
    '../_base_/models/beit-base-p16_mim.py',
    '../_base_/datasets/imagenet_two-views.py',
    '../_base_/schedules/imagenet_pretrain.py',
]

tokenizer = 'work_dirs/vqkd_clip-base-p16_8xb64-amp-coslr-100e_in1k/epoch_100.pth'  # or --cfg-options model.target.checkpoint=PATH
epochs = 1600
warmup = max(epochs // 160, 1)
drop_path, beta2 = (0.1, 0.999) if epochs > 300 else (0.0, 0.98)  # official values of long and short runs

model = dict(
    backbone=dict(patch_aggregation=dict(layer=9, num_blocks=2), drop_path_rate=drop_path),
    target=dict(
        checkpoint=tokenizer,
        tokenizer=dict(
            _delete_=True,
            type='VQKD',
            vocab_size=8192,
            code_dims=32,
            encoder=dict(arch='base', img_size=224, patch_size=16, abs_pos_embed=True))))

train_pipeline = _base_.train_pipeline
train_pipeline[3].update(token_size=224, token_interpolation='bicubic', scale=(0.2, 1.0))
test_pipeline = _base_.test_pipeline
test_pipeline[3].update(token_size=224, token_interpolation='bicubic')
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=test_pipeline)))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(betas=(0.9, beta2)))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = param_scheduler[1].begin = warmup
train_cfg = dict(max_epochs=epochs, val_interval=max(epochs // 16, 1))
default_hooks = dict(checkpoint=dict(interval=max(epochs // 80, 1)))
