"""The names of parameters in each project."""

import re

Names = list[tuple[str, str]]  # (theirs, ours): how a key starts; {} is a number
BIAS_TABLE = 'relative_position_bias_table'

_HEADS = [('lm_head.', 'head.proj.'), ('head.', 'head.fc.')]
_UNILM: Names = [  # the names of the backbone are ours
    ('backbone.fpn1.', 'neck.upsample_4x.'),
    ('backbone.fpn2.', 'neck.upsample_2x.'),
    *_HEADS,
]
_HF_LAYER: Names = [  # after beit.encoder.layer.{}. and backbone.blocks.{}.
    ('layernorm_before.', 'norm1.'),
    ('layernorm_after.', 'norm2.'),
    ('lambda_1', 'gamma_1'),
    ('lambda_2', 'gamma_2'),
    (f'attention.attention.relative_position_bias.{BIAS_TABLE}', f'attn.{BIAS_TABLE}'),
    ('attention.attention.query.bias', 'attn.q_bias'),
    ('attention.attention.value.bias', 'attn.v_bias'),
    # `origins` merges these three matrices into one.
    ('attention.attention.query.', 'attn.query.'),
    ('attention.attention.key.', 'attn.key.'),
    ('attention.attention.value.', 'attn.value.'),
    ('attention.output.dense.', 'attn.proj.'),
    ('intermediate.dense.', 'mlp.fc1.'),
    ('output.dense.', 'mlp.fc2.'),
]
_HF: Names = [
    ('beit.embeddings.cls_token', 'backbone.cls_token'),
    ('beit.embeddings.mask_token', 'backbone.mask_token'),
    ('beit.embeddings.position_embeddings', 'backbone.pos_embed'),
    ('beit.embeddings.patch_embeddings.projection.', 'backbone.patch_embed.proj.'),
    ('beit.encoder.relative_position_bias.', 'backbone.rel_pos_bias.'),
    *((f'beit.encoder.layer.{{}}.{hf}', f'backbone.blocks.{{}}.{ours}') for hf, ours in _HF_LAYER),
    ('beit.pooler.layernorm.', 'backbone.fc_norm.'),
    ('beit.layernorm.', 'backbone.norm.'),
    ('layernorm.', 'backbone.norm.'),
    ('lm_head.', 'head.proj.'),
    ('classifier.', 'head.fc.'),
    ('fpn1.', 'neck.upsample_4x.'),
    ('fpn2.', 'neck.upsample_2x.'),
    ('decode_head.classifier.', 'decode_head.conv_seg.'),
    ('auxiliary_head.classifier.', 'auxiliary_head.conv_seg.'),
]
# Since transformers 5, models in memory have other names than files. See `rename_hf`.
_HF_IN_MEMORY: Names = [
    ('beit.layers.{}.attention.q_proj.', 'beit.encoder.layer.{}.attention.attention.query.'),
    ('beit.layers.{}.attention.k_proj.', 'beit.encoder.layer.{}.attention.attention.key.'),
    ('beit.layers.{}.attention.v_proj.', 'beit.encoder.layer.{}.attention.attention.value.'),
    ('beit.layers.{}.attention.o_proj.', 'beit.encoder.layer.{}.attention.output.dense.'),
    (
        'beit.layers.{}.relative_position_bias.',
        'beit.encoder.layer.{}.attention.attention.relative_position_bias.',
    ),
    ('beit.layers.{}.mlp.fc1.', 'beit.encoder.layer.{}.intermediate.dense.'),
    ('beit.layers.{}.mlp.fc2.', 'beit.encoder.layer.{}.output.dense.'),
    ('beit.layers.{}.', 'beit.encoder.layer.{}.'),
    ('beit.shared_position_bias.', 'beit.encoder.relative_position_bias.'),
    ('fpn.fpn1.conv_transpose1.', 'fpn1.0.'),
    ('fpn.fpn1.normalization.', 'fpn1.1.'),
    ('fpn.fpn1.conv_transpose2.', 'fpn1.3.'),
    ('fpn.fpn2.', 'fpn2.0.'),
    ('decode_head.psp_bottleneck.', 'decode_head.bottleneck.'),
    ('decode_head.psp_modules.blocks.{}.conv.', 'decode_head.psp_modules.{}.1.'),
]
_OPENMMLAB_LAYER: Names = [
    ('ln1.', 'norm1.'),
    ('ln2.', 'norm2.'),
    ('ffn.layers.0.0.', 'mlp.fc1.'),
    ('ffn.layers.1.', 'mlp.fc2.'),
    ('', ''),
]
_OPENMMLAB: Names = [  # mmpretrain and mmseg
    ('backbone.patch_embed.projection.', 'backbone.patch_embed.proj.'),
    *(
        (f'{theirs}.{{}}.{their_part}', f'{ours}.{{}}.{our_part}')
        for theirs, ours in (
            ('backbone.layers', 'backbone.blocks'),
            ('neck.patch_aggregation', 'backbone.cls_pt_layers'),  # BEiT v2
        )
        for their_part, our_part in _OPENMMLAB_LAYER
    ),
    ('backbone.ln1.', 'backbone.norm.'),
    ('backbone.ln2.', 'backbone.fc_norm.'),
    ('head.cls_head.', 'head.proj.'),
    ('neck.norm.', 'backbone.norm.'),  # BEiT v2
]
_VQKD: Names = [
    ('encode_task_layer.', 'encoder_head.'),
    ('decode_task_layer.', 'decoder_head.'),
    ('quantize.embedding.weight', 'codebook.codes'),
]
VQKD_NAMES = dict(  # the parts of VQ-KD, each of which is a vision transformer
    beit_mm=[],
    unilm=[*_VQKD, *((f'{part}.fc_norm.', f'{part}.norm.') for part in ('encoder', 'decoder'))],
    mmpretrain=[
        *_VQKD,
        *((f'{part}.ln1.', f'{part}.norm.') for part in ('encoder', 'decoder')),
        *(
            (theirs.replace('backbone.', part), ours.replace('backbone.', part))
            for part in ('encoder.', 'decoder.')
            for theirs, ours in _OPENMMLAB
            if theirs.startswith(('backbone.patch_embed', 'backbone.layers'))
        ),
    ],
)
NAMES = dict(beit_mm=[], unilm=_UNILM, timm=_HEADS, hf=_HF, mmpretrain=_OPENMMLAB, mmseg=_OPENMMLAB)


def rename(key: str, names: Names) -> str:
    """Replace the start of a key by the first pair that matches; return other keys unchanged."""
    for old, new in names:
        if match := re.match(re.escape(old).replace(r'\{\}', r'(\d+)'), key):
            return new.format(*match.groups()) + key[match.end() :]
    return key


def rename_hf(key: str) -> str:
    """Return our name of a key of transformers, from a file or from a model in memory."""
    key = rename(key, [('data2vec_vision.', 'beit.')])
    key = rename(key, _HF_IN_MEMORY)
    key = key.replace('.convolution.', '.conv.').replace('.normalization.', '.bn.')
    return rename(key, NAMES['hf'])
