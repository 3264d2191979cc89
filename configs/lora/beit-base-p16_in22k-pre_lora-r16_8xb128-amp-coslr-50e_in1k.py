# Classification of ImageNet-1k with BEiT-B and LoRA: only low-rank additions to the linear layers, and the head, are trained.
#   bash tools/dist_train.sh configs/lora/beit-base-p16_in22k-pre_lora-r16_8xb128-amp-coslr-50e_in1k.py 8
# Hardware: 8 GPUs of 24 GB, by estimate. Expected top-1: none published
# A checkpoint contains only the trained weights. mmpretrain's `tools/model_converters/merge_lora_weight.py CONFIG SRC DST` adds them
# to the layers. Test DST with beit-base-p16_in22k-pre_8xb128-amp-coslr-100e_in1k.py.
_base_ = '../classification/beit-base-p16_in22k-pre_8xb128-amp-coslr-100e_in1k.py'

lr, epochs = 1e-3, 50
warmup = max(epochs // 10, 1)

model = dict(
    backbone=dict(
        _delete_=True,
        type='LoRAModel',
        module=_base_.model.backbone,
        alpha=16,
        rank=16,
        drop_rate=0.1,
        targets=[dict(type='qkv'), dict(type='attn.proj'), dict(type='fc1'), dict(type='fc2')]))
optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=warmup, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
