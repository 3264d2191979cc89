# Masked image modeling with BEiT-B in the variant of most published weights: one table of relative positions for all layers,
# and LayerScale.
_base_ = 'vit-base-p16_mim.py'
model = dict(backbone=dict(abs_pos_embed=False, rel_pos_bias='shared', layer_scale=0.1))
