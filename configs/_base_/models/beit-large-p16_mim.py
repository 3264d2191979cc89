# Masked image modeling with BEiT-L in the variant of most published weights. See beit-base-p16_mim.py.
_base_ = 'beit-base-p16_mim.py'
model = dict(backbone=dict(arch='large', layer_scale=1e-5), head=dict(in_channels=1024))
