"""Identify the project that wrote a checkpoint, and convert its keys to our names and back.

Our names are those of a model that our configs build: `backbone.…` as in the official code,
`head.proj` (masked image modeling) or `head.fc` (classes), `neck`, `decode_head` and
`auxiliary_head` as in mmseg, and `encoder.…`, `decoder.…` for a tokenizer. VQ-KD, the tokenizer of
BEiT v2, has `encoder_head.…`, `codebook.codes` and `decoder_head.…` as well.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ..models.relative_position import relative_position_index
from .key_names import NAMES, VQKD_NAMES, rename, rename_hf
from .model_spec import BIAS_TABLE, SHARED_TABLE, count_layers, infer_square_grid
from .state_dicts import rename_keys

ORIGINS = (*NAMES, 'dall-e')
_CODES = {'codebook.codes', 'quantize.embedding.weight'}  # of VQ-KD, here and elsewhere

_SKIPPED = [  # (pattern of keys, reason), for every project
    (r'(ema|model_ema|ema_model)\.', 'an average of the weights beside the weights'),
    (r'.*relative_position_index$', 'follows from the grid'),
    (r'target_generator\.', 'the tokenizer, which has its own file'),
    (r'(head\.target_counts|target_fingerprint)$', "a record of the run's targets"),
    (
        r'quantize\.(embedding\.(cluster_size|embed_avg|initted)|cluster_size)$',
        'a record of the training of VQ-KD',
    ),
    (r'(teacher_model|scaling_layer)\.', 'the teacher of VQ-KD, which has its own file'),
    (r'data_preprocessor\.', 'the config has the normalization'),
    (r'(steps|n_averaged)$', 'a counter of the average'),
]


def identify(keys: Iterable[str], wrapper: str | None = None) -> str:
    """Return the project that wrote a checkpoint with these keys, one of ORIGINS.

    `wrapper` is the key of the file that holds the weights. Raises ValueError if these are no keys
    of a BEiT or a tokenizer.
    """
    keys = list(keys)

    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in keys)

    if has(r'((encoder|decoder)\.)?blocks\.(input|output\.conv)\.[wb]$'):
        return 'dall-e'
    if has(r'quantize\.embedding\.weight$'):
        return 'mmpretrain' if has(r'encoder\.layers\.') else 'unilm'
    if has(r'encoder\.input\.weight$|codebook\.codes$'):
        return 'beit_mm'
    if has(r'((beit|data2vec_vision)\.)?embeddings\.(patch_embeddings|cls_token)'):
        return 'hf'
    if has(r'(backbone\.)?layers\.\d+\.ffn\.layers\.'):
        return 'mmseg' if has(r'decode_head\.') else 'mmpretrain'
    official = has(r'lm_head\.|backbone\.fpn1\.|.*relative_position_index$')
    if has(r'backbone\.(blocks\.\d+\.attn\.|cls_token)'):
        return 'unilm' if official else 'beit_mm'
    if has(r'blocks\.\d+\.attn\.qkv\.'):
        if official or wrapper in ('model', 'model_ema'):
            return 'unilm'
        return 'timm' if has(r'head\.') else 'beit_mm'
    raise ValueError(
        f'these are not the weights of a known BEiT: the keys are {", ".join(sorted(keys)[:4])} …. '
        f'Known projects: {", ".join(ORIGINS)}'
    )


def to_ours(state: dict[str, Tensor], origin: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (the weights under our names, skipped keys with the reason).

    Keys that are in no table keep their name. Raises ValueError that names two keys with one new
    name.
    """
    if origin == 'dall-e':
        return _from_dalle(state), {}
    skipped = {key: why for key in state for pattern, why in _SKIPPED if re.match(pattern, key)}
    state = {key: value for key, value in state.items() if key not in skipped}
    if not _CODES.isdisjoint(state):
        return rename_keys(state, lambda key: rename(key, VQKD_NAMES[origin])), skipped
    if {'beit.layernorm.weight', 'layernorm.weight'} <= state.keys():
        raise ValueError(
            'the keys are those of BeitForMaskedImageModeling with use_mean_pooling=False, which '
            'has two LayerNorms in a row, beit.layernorm and layernorm; BEiT has one. Load the '
            'backbone alone: `model.beit.save_pretrained(FOLDER)` writes it'
        )
    prefix = _find_missing_prefix(state, origin)

    def our_name(key: str) -> str:
        if not key.startswith(('head.', 'lm_head.')):
            key = prefix + key
        return rename_hf(key) if origin == 'hf' else rename(key, NAMES[origin])

    state = rename_keys(state, our_name)
    tables = [k for k in state if k.startswith('backbone.blocks.') and k.endswith(BIAS_TABLE)]
    if SHARED_TABLE in state and tables:  # the official data2vec adds both to its attention
        shared = state.pop(SHARED_TABLE)
        state |= {key: state[key] + shared for key in tables}
        skipped[SHARED_TABLE] = 'added to the table of each layer'
    if origin == 'hf':
        state = _merge_qkv(state)
        idle = _find_idle_layer(state)
        state = {key: value for key, value in state.items() if key not in idle}
        skipped |= dict.fromkeys(idle, 'of a layer that adds nothing')
    return state, skipped


def from_ours(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return our state dict as `origin` would have written it, with the buffers that it stores."""
    if 'codebook.codes' in state:
        return _to_vqkd(state, origin)
    names = [(ours, theirs) for theirs, ours in NAMES[origin]]
    if origin == 'hf':
        state = _split_qkv(state)
        # The last norm of the model for masked image modeling is outside of its backbone.
        is_mim = 'head.proj.weight' in state
        names.remove(('backbone.norm.', 'beit.layernorm.' if is_mim else 'layernorm.'))
    elif any(key.startswith('backbone.cls_pt_layers.') for key in state):
        # mmpretrain's BEiT v2 has the last norm in its neck.
        names = [(ours, theirs) for ours, theirs in names if theirs != 'backbone.ln1.']
    is_segmentor = 'decode_head.conv_seg.weight' in state
    is_backbone = all(key.startswith('backbone.') for key in state)
    state = rename_keys(state, lambda key: rename(key, names))
    if (origin in ('hf', 'mmseg') and is_backbone) or (
        origin in ('unilm', 'timm') and not is_segmentor
    ):
        state = {
            key.removeprefix('backbone.').removeprefix('beit.'): value
            for key, value in state.items()
        }
    if origin in ('unilm', 'mmpretrain', 'mmseg'):
        state |= _make_index_buffers(state)
    return state


def to_dalle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder of a tokenizer of ours under DALL-E's names, as in `dalle_encoder.pth`."""
    kinds = dict(weight='w', bias='b')
    encoder = {}
    for key, value in state.items():
        if key.startswith('encoder.'):
            stem, _, last = key.removeprefix('encoder.').rpartition('.')
            encoder[f'blocks.{stem}.{kinds[last]}'] = value
    return encoder


def _to_vqkd(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return VQ-KD under the names of `origin`, with the records that its code wants to load."""
    names = [(ours, theirs) for theirs, ours in VQKD_NAMES[origin]]
    renamed = rename_keys(state, lambda key: rename(key, names))
    if origin == 'beit_mm':
        return renamed
    codes, quantize = state['codebook.codes'], 'quantize.'
    unused = torch.zeros(len(codes), dtype=codes.dtype)
    renamed |= {f'{quantize}cluster_size': unused, f'{quantize}embedding.initted': torch.ones(1)}
    if origin == 'unilm':
        renamed[f'{quantize}embedding.cluster_size'] = unused.clone()
        renamed[f'{quantize}embedding.embed_avg'] = codes.clone()
    return renamed


def _find_missing_prefix(state: dict[str, Tensor], origin: str) -> str:
    """Return the prefix of the backbone's keys that they lack, '' if they have it.

    A backbone alone and complete models of the official code and timm lack it.
    """
    prefix = 'beit.' if origin == 'hf' else 'backbone.'
    known = prefix, 'data2vec_vision.', 'encoder.input.weight'
    return '' if any(key.startswith(known) for key in state) else prefix


def _merge_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge Hugging Face's three matrices into one; matrices that do not fit stay as they are."""
    merged = dict(state)
    for key in state:
        if not key.endswith('attn.query.weight'):
            continue
        names = [key.replace('query', name) for name in ('query', 'key', 'value')]
        qkv = key.replace('query', 'qkv')
        shapes = {state[name].shape if name in state else None for name in names}
        if len(shapes) == 1 and qkv not in state:
            merged[qkv] = torch.cat([merged.pop(name) for name in names])
    return merged


def _split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    split = dict(state)
    for key in state:
        if key.endswith('attn.qkv.weight'):
            for name, part in zip(('query', 'key', 'value'), split.pop(key).chunk(3), strict=True):
                split[key.replace('qkv', name)] = part.clone()
    return split


def _find_idle_layer(state: dict[str, Tensor]) -> list[str]:
    """Return the keys of the layer that `export_checkpoint` adds; its branches are scaled by 0."""
    last = f'backbone.blocks.{count_layers(state) - 1}.'
    scales = [state.get(f'{last}gamma_{i}') for i in (1, 2)]
    if any(scale is None or scale.any() for scale in scales):
        return []
    return [key for key in state if key.startswith(last)]


def _make_index_buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the buffers of those projects: the row of the table for each pair of patches."""
    return {
        key.replace('bias_table', 'index'): relative_position_index(
            infer_square_grid(table)
        ).clone()
        for key, table in state.items()
        if key.endswith(BIAS_TABLE)
    }


def _from_dalle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a tokenizer under our names: `blocks.group_1.w` → `encoder.group_1.weight`."""
    if 'blocks.input.w' in state:  # one file: the encoder has a 7×7 kernel, the decoder 1×1
        part = 'encoder' if state['blocks.input.w'].shape[-1] > 1 else 'decoder'
        state = {f'{part}.{key}': value for key, value in state.items()}
    kinds = dict(w='weight', b='bias')

    def our_name(key: str) -> str:
        stem, _, last = key.replace('.blocks.', '.').rpartition('.')
        return f'{stem}.{kinds.get(last, last)}'

    return rename_keys(state, our_name)
