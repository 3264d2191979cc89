"""Whose checkpoint it is, told by its keys, and what each project calls what: one table an origin.

Our names are those of a model that our configs build: `backbone.…` named as in the official code, `head.proj` (masked
image modeling) or `head.fc` (classes), `neck`, `decode_head`, `auxiliary_head` as mmseg names them, and for a tokenizer
`encoder.…`, `decoder.…`.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ..models.relative_position import relative_position_index
from .facts import SHARED, TABLE, square_grid
from .files import renamed

ORIGINS = ('beit_mm', 'unilm', 'hf', 'timm', 'mmpretrain', 'mmseg', 'dall-e')
Names = list[tuple[str, str]]  # (theirs, ours), each the start of a key; {} is a number

_HEADS = [('lm_head.', 'head.proj.'), ('head.', 'head.fc.')]
_UNILM: Names = [  # the backbone's names are ours
    ('backbone.fpn1.', 'neck.upsample_4x.'),
    ('backbone.fpn2.', 'neck.upsample_2x.'),
    *_HEADS,
]
_HF: Names = [
    ('beit.embeddings.cls_token', 'backbone.cls_token'),
    ('beit.embeddings.mask_token', 'backbone.mask_token'),
    ('beit.embeddings.position_embeddings', 'backbone.pos_embed'),
    ('beit.embeddings.patch_embeddings.projection.', 'backbone.patch_embed.proj.'),
    ('beit.encoder.relative_position_bias.', 'backbone.rel_pos_bias.'),
    ('beit.encoder.layer.{}.layernorm_before.', 'backbone.blocks.{}.norm1.'),
    ('beit.encoder.layer.{}.layernorm_after.', 'backbone.blocks.{}.norm2.'),
    ('beit.encoder.layer.{}.lambda_1', 'backbone.blocks.{}.gamma_1'),
    ('beit.encoder.layer.{}.lambda_2', 'backbone.blocks.{}.gamma_2'),
    (
        'beit.encoder.layer.{}.attention.attention.relative_position_bias.relative_position_bias_table',
        'backbone.blocks.{}.attn.relative_position_bias_table',
    ),
    ('beit.encoder.layer.{}.attention.attention.query.bias', 'backbone.blocks.{}.attn.q_bias'),
    ('beit.encoder.layer.{}.attention.attention.value.bias', 'backbone.blocks.{}.attn.v_bias'),
    # Three matrices, which `_merge_qkv` makes one of.
    (
        'beit.encoder.layer.{}.attention.attention.query.weight',
        'backbone.blocks.{}.attn.query.weight',
    ),
    ('beit.encoder.layer.{}.attention.attention.key.weight', 'backbone.blocks.{}.attn.key.weight'),
    (
        'beit.encoder.layer.{}.attention.attention.value.weight',
        'backbone.blocks.{}.attn.value.weight',
    ),
    ('beit.encoder.layer.{}.attention.output.dense.', 'backbone.blocks.{}.attn.proj.'),
    ('beit.encoder.layer.{}.intermediate.dense.', 'backbone.blocks.{}.mlp.fc1.'),
    ('beit.encoder.layer.{}.output.dense.', 'backbone.blocks.{}.mlp.fc2.'),
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
_HF_IN_MEMORY: Names = [  # transformers 5 names modules anew, its files keep the names above
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
    ('decode_head.psp_bottleneck.convolution.', 'decode_head.bottleneck.conv.'),
    ('decode_head.psp_bottleneck.normalization.', 'decode_head.bottleneck.bn.'),
    ('decode_head.fpn_bottleneck.convolution.', 'decode_head.fpn_bottleneck.conv.'),
    ('decode_head.fpn_bottleneck.normalization.', 'decode_head.fpn_bottleneck.bn.'),
    ('decode_head.psp_modules.blocks.{}.conv.convolution.', 'decode_head.psp_modules.{}.1.conv.'),
    ('decode_head.psp_modules.blocks.{}.conv.normalization.', 'decode_head.psp_modules.{}.1.bn.'),
    ('decode_head.lateral_convs.{}.convolution.', 'decode_head.lateral_convs.{}.conv.'),
    ('decode_head.lateral_convs.{}.normalization.', 'decode_head.lateral_convs.{}.bn.'),
    ('decode_head.fpn_convs.{}.convolution.', 'decode_head.fpn_convs.{}.conv.'),
    ('decode_head.fpn_convs.{}.normalization.', 'decode_head.fpn_convs.{}.bn.'),
    ('auxiliary_head.convs.{}.convolution.', 'auxiliary_head.convs.{}.conv.'),
    ('auxiliary_head.convs.{}.normalization.', 'auxiliary_head.convs.{}.bn.'),
]
_OPENMMLAB: Names = [  # mmpretrain and mmseg
    ('backbone.patch_embed.projection.', 'backbone.patch_embed.proj.'),
    ('backbone.layers.{}.ln1.', 'backbone.blocks.{}.norm1.'),
    ('backbone.layers.{}.ln2.', 'backbone.blocks.{}.norm2.'),
    ('backbone.layers.{}.ffn.layers.0.0.', 'backbone.blocks.{}.mlp.fc1.'),
    ('backbone.layers.{}.ffn.layers.1.', 'backbone.blocks.{}.mlp.fc2.'),
    ('backbone.layers.{}.', 'backbone.blocks.{}.'),
    ('backbone.ln1.', 'backbone.norm.'),
    ('backbone.ln2.', 'backbone.fc_norm.'),
    ('head.cls_head.', 'head.proj.'),
    ('neck.norm.', 'backbone.norm.'),  # BEiT v2
]
NAMES = dict(beit_mm=[], unilm=_UNILM, timm=_HEADS, hf=_HF, mmpretrain=_OPENMMLAB, mmseg=_OPENMMLAB)

_LEFT_OUT = [  # (key, why), of every origin
    (
        r'(backbone\.)?cls_pt_layers\.|neck\.patch_aggregation\.',
        "BEiT v2's patch aggregation, used in its pre-training only",
    ),
    (r'.*relative_position_index$', 'follows from the grid'),
    (r'target_generator\.', 'the tokenizer, which has a file of its own'),
    (r'(head\.target_counts|target_fingerprint)$', "a record of the run's targets"),
    (r'data_preprocessor\.', 'normalisation is in the config'),
    (r'(steps|n_averaged)$', 'a counter of the averaging'),
]


def identify(keys: Iterable[str], wrapper: str | None = None) -> str:
    """Who wrote a checkpoint with these keys, one of ORIGINS. `wrapper`: the key of the file under which they lay.

    ValueError when they are those of no BEiT and no tokenizer.
    """
    keys = list(keys)

    def any_key(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in keys)

    if any_key(r'((encoder|decoder)\.)?blocks\.(input|output\.conv)\.[wb]$'):
        return 'dall-e'
    if any_key(r'encoder\.input\.weight$'):
        return 'beit_mm'
    if any_key(r'((beit|data2vec_vision)\.)?embeddings\.(patch_embeddings|cls_token)'):
        return 'hf'
    if any_key(r'(backbone\.)?layers\.\d+\.ffn\.layers\.'):
        return 'mmseg' if any_key(r'decode_head\.') else 'mmpretrain'
    official = any_key(r'lm_head\.|backbone\.fpn1\.|.*relative_position_index$')
    if any_key(r'backbone\.(blocks\.\d+\.attn\.|cls_token)'):
        return 'unilm' if official else 'beit_mm'
    if any_key(r'blocks\.\d+\.attn\.qkv\.'):
        return (
            'unilm'
            if official or wrapper in ('model', 'model_ema')
            else 'timm'
            if any_key(r'head\.')
            else 'beit_mm'
        )
    if any_key(r'quantize\.'):
        raise ValueError(
            "this is VQ-KD, the tokenizer of BEiT v2, of which there is no model here: use DALL-E's, or train one"
        )
    raise ValueError(
        f'these are the weights of no BEiT that is known: the keys are {", ".join(sorted(keys)[:4])} …; known are those of '
        f'{", ".join(ORIGINS)}'
    )


def to_ours(state: dict[str, Tensor], origin: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (the tensors under our names, the skipped keys with the reason). Keys that are in no table keep their name.

    Raises ValueError that names two keys which would get one name.
    """
    if origin == 'dall-e':
        return _from_dalle(state), {}
    left = {key: why for key in state for pattern, why in _LEFT_OUT if re.match(pattern, key)}
    state = {key: value for key, value in state.items() if key not in left}
    if {'beit.layernorm.weight', 'layernorm.weight'} <= state.keys():
        raise ValueError(
            'the keys are those of BeitForMaskedImageModeling with use_mean_pooling=False, which has two LayerNorms in a row, '
            'beit.layernorm and layernorm; BEiT has one. Load the backbone alone: `model.beit.save_pretrained(FOLDER)` writes it'
        )

    def our_name(key: str) -> str:
        key = _with_prefix(key, state, origin)
        return rename(rename(key, _HF_IN_MEMORY) if origin == 'hf' else key, NAMES[origin])

    named = renamed(state, our_name)
    own_tables = [
        key for key in named if key.startswith('backbone.blocks.') and key.endswith(TABLE)
    ]
    if (
        SHARED in named and own_tables
    ):  # such a model adds both to its attention, as data2vec's official one
        shared = named.pop(SHARED)
        named |= {key: named[key] + shared for key in own_tables}
        left[SHARED] = 'added to the table of each layer'
    return _without_idle_layer(_merge_qkv(named), left) if origin == 'hf' else (named, left)


def from_ours(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The other way round: our state dict as `origin` would have written it, with the buffers that it stores."""
    if origin == 'hf':
        state = _split_qkv(state)
    names = [(ours, theirs) for theirs, ours in NAMES[origin]]
    if origin == 'hf':  # its model for masked image modeling has the last norm outside
        names.remove(
            ('backbone.norm.', 'beit.layernorm.' if 'head.proj.weight' in state else 'layernorm.')
        )
    segments, alone = (
        'decode_head.conv_seg.weight' in state,
        all(key.startswith('backbone.') for key in state),
    )
    state = renamed(state, lambda key: rename(key, names))
    if alone if origin in ('hf', 'mmseg') else origin in ('unilm', 'timm') and not segments:
        state = {
            key.removeprefix('backbone.').removeprefix('beit.'): value
            for key, value in state.items()
        }
    if origin in ('unilm', 'mmpretrain', 'mmseg'):
        state |= _index_buffers(state)
    return state


def rename(key: str, names: Names) -> str:
    for old, new in names:
        if match := re.match(re.escape(old).replace(r'\{\}', r'(\d+)'), key):
            return new.format(*match.groups()) + key[match.end() :]
    return key


def _with_prefix(key: str, state: dict, origin: str) -> str:
    """A backbone alone has no prefix, and neither has the official code's or timm's whole model."""
    prefix = 'beit.' if origin == 'hf' else 'backbone.'
    if key.startswith('data2vec_vision.'):
        return key.replace('data2vec_vision.', prefix)
    if (
        any(k.startswith((prefix, 'data2vec_vision.')) for k in state)
        or key.startswith(('head.', 'lm_head.'))
        or 'encoder.input.weight' in state
    ):
        return key
    return prefix + key


# -- what no renaming can do ---------------------------------------------------------------------------------------------


def _merge_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's three matrices → the official code's one; three that do not fit stay, and are found to be unexpected."""
    merged = dict(state)
    for key in state:
        three = [
            key.replace('attn.query.weight', f'attn.{name}.weight')
            for name in ('query', 'key', 'value')
        ]
        one, fits = (
            key.replace('query', 'qkv'),
            len({state[n].shape if n in state else None for n in three}) == 1,
        )
        if key.endswith('attn.query.weight') and fits and one not in state:
            merged[one] = torch.cat([merged.pop(name) for name in three])
    return merged


def _split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    split = dict(state)
    for key in state:
        if key.endswith('attn.qkv.weight'):
            for name, part in zip(('query', 'key', 'value'), split.pop(key).chunk(3), strict=True):
                split[key.replace('qkv', name)] = part.clone()
    return split


def _without_idle_layer(
    state: dict[str, Tensor], left: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Drops what `export` adds for Hugging Face's segmentation: a last layer whose branches are scaled by zero."""
    scales = {
        k: v for k, v in state.items() if re.fullmatch(r'backbone\.blocks\.\d+\.gamma_[12]', k)
    }
    if not scales:
        return state, left
    last = max(int(key.split('.')[2]) for key in scales)
    both = [scales.get(f'backbone.blocks.{last}.gamma_{i}') for i in (1, 2)]
    if any(scale is None or scale.any() for scale in both):
        return state, left
    idle = [key for key in state if key.startswith(f'backbone.blocks.{last}.')]
    left = left | {key: 'of a layer that adds nothing' for key in idle}
    return {key: value for key, value in state.items() if key not in idle}, left


def _index_buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those projects store for each table which row belongs to which pair of patches."""
    return {
        key.replace('bias_table', 'index'): relative_position_index(square_grid(table)).clone()
        for key, table in state.items()
        if key.endswith('relative_position_bias_table')
    }


def _from_dalle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`blocks.group_1.block_1.res_path.conv_1.w` → `encoder.group_1.block_1.res_path.conv_1.weight`."""
    if (
        'blocks.input.w' in state
    ):  # one half: an encoder sees pixels through a 7×7 kernel, a decoder codes through 1×1
        half = 'encoder' if state['blocks.input.w'].shape[-1] > 1 else 'decoder'
        state = {f'{half}.{key}': value for key, value in state.items()}
    kinds = dict(w='weight', b='bias')

    def our_name(key: str) -> str:
        stem, _, last = key.replace('.blocks.', '.').rpartition('.')
        return f'{stem}.{kinds.get(last, last)}'

    return renamed(state, our_name)


def to_dalle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of a tokenizer of ours under DALL-E's names, as mmpretrain's `dalle_encoder.pth` holds it."""
    kinds = dict(weight='w', bias='b')
    return {
        f'blocks.{stem}.{kinds[last]}': state[key]
        for key in state
        if key.startswith('encoder.')
        for stem, _, last in [key.removeprefix('encoder.').rpartition('.')]
    }
