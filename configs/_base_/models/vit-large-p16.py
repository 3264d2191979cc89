# BEiT-L as in the paper's table 1: a plain ViT with learned absolute positions.
_base_ = 'vit-base-p16.py'
model = dict(backbone=dict(arch='large', drop_path_rate=0.2), head=dict(in_channels=1024))
