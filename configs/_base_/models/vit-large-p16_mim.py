# Masked image modeling with BEiT-L as in the paper's table 1: a plain ViT with learned absolute positions.
_base_ = 'vit-base-p16_mim.py'
model = dict(backbone=dict(arch='large'), head=dict(in_channels=1024))
custom_hooks = [dict(type='Throughput', gflop_per_image=425), dict(type='CompileBlocks')]
