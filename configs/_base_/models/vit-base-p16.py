# BEiT-B as in the paper's tables 1, 3 and 4: a plain ViT with learned absolute positions.
_base_ = 'beit-base-p16.py'
model = dict(backbone=dict(abs_pos_embed=True, rel_pos_bias=None, layer_scale=None))
