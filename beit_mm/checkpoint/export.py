"""Write a state dict in our names as another project reads it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .model_spec import BIAS_TABLE, SHARED_TABLE, ModelSpec, infer_spec
from .origins import from_ours, to_dalle
from .published import NORMALIZATIONS

_ALL = ('backbone', 'mim', 'classifier', 'segmentor', 'tokenizer', 'vqkd')
TOKENIZERS = 'tokenizer', 'vqkd'
TARGETS = dict(  # the kinds of model that each project has
    beit_mm=_ALL,
    hf=_ALL[:4],
    timm=('backbone', 'classifier'),
    unilm=(*_ALL[:4], 'vqkd'),
    mmpretrain=('backbone', 'mim', 'classifier', 'tokenizer', 'vqkd'),
    mmseg=('backbone', 'segmentor'),
)


def export_checkpoint(
    state: dict[str, Tensor], target: str, path: Path, meta: dict, safetensors: bool
) -> tuple[ModelSpec, list[str]]:
    """Write `state` (our names) for `target` to a file, for 'hf' to a folder.

    `meta` is that of `Checkpoint`. Returns the model, and notes on what was changed or skipped.
    Raises ValueError if the project has no such model, or if `path` cannot be written.
    """
    num_heads = meta.get('num_heads')
    state, notes = fit_target(state, infer_spec(state, num_heads), target)
    spec = infer_spec(state, num_heads)
    if target == 'hf':
        return spec, notes + _write_hf(state, spec, path, meta, safetensors)
    if path.is_dir():
        raise ValueError(f'{path} is a folder: expected the name of a file')
    path.parent.mkdir(parents=True, exist_ok=True)
    is_encoder = spec.kind == 'tokenizer' and target == 'mmpretrain'
    state = to_dalle(state) if is_encoder else from_ours(state, target)
    state = {key: value.contiguous() for key, value in state.items()}
    if safetensors:
        save_file(state, path)
    elif target == 'timm':
        torch.save(state, path)
    elif target == 'unilm' and spec.kind != 'segmentor':
        torch.save(dict(model=state), path)
    else:
        known = {key: meta[key] for key in ('normalization', 'num_heads') if key in meta}
        torch.save(dict(state_dict=state, meta=known), path)
    return spec, notes


def fit_target(
    state: dict[str, Tensor], spec: ModelSpec, target: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights that `target` has a place for, and notes on the changes.

    Raises ValueError if `target` has no such model.
    """
    if spec.kind not in TARGETS[target]:
        hint = '' if spec.kind in TOKENIZERS else '. To convert the backbone alone, pass --backbone'
        raise ValueError(
            f'{target} has no model for a {spec.kind}, only for {", ".join(TARGETS[target])}{hint}'
        )
    if spec.kind in TOKENIZERS:
        decoder = [key for key in state if key.startswith(('decoder.', 'decoder_head.'))]
        if target != 'mmpretrain' or not decoder:
            return state, []
        encoder = {key: value for key, value in state.items() if key not in decoder}
        return encoder, ['skipped: decoder.* (mmpretrain reads the encoder alone)']
    if target == 'beit_mm':
        return state, []
    if spec.kind == 'segmentor' and 'neck.upsample_4x.0.weight' not in state:
        raise ValueError(
            f'{target} has no such decode head: its only segmentation model is UPerNet'
        )
    if target == 'mmseg' and (spec.abs_pos_embed or not spec.layer_scale or not spec.rel_pos_bias):
        raise ValueError(
            "mmseg's BEiT always has relative positions and LayerScale, and no absolute positions"
        )
    state, notes = dict(state), []
    if target in ('timm', 'mmseg') and spec.rel_pos_bias == 'shared':
        table, depth = state.pop(SHARED_TABLE), spec.arch['num_layers']
        state |= {f'backbone.blocks.{i}.attn.{BIAS_TABLE}': table.clone() for i in range(depth)}
        notes.append(f'expanded: {SHARED_TABLE} (copied into {depth} layers, as {target} has it)')
    for key in list(state):
        if key.startswith('backbone.') and key.split('.')[1] in _list_missing_parts(
            target, spec.kind
        ):
            del state[key]
            notes.append(f'skipped: {key} ({target} has none)')
    return state, notes


def _list_missing_parts(target: str, kind: str) -> tuple[str, ...]:
    """Return the parts of our backbone that a project does not have."""
    if target == 'mmseg':
        return ('mask_token', 'cls_pt_layers', 'norm', 'fc_norm')
    if target == 'timm' or (target == 'mmpretrain' and kind != 'mim'):
        return ('mask_token', 'cls_pt_layers')
    return ('cls_pt_layers',) if target == 'hf' else ()


# -- Hugging Face


def _write_hf(
    state: dict[str, Tensor], spec: ModelSpec, folder: Path, meta: dict, safetensors: bool
) -> list[str]:
    if folder.is_file() or folder.suffix in ('.pth', '.pt', '.bin', '.safetensors'):
        raise ValueError(f'{folder} is a file: Hugging Face needs the name of a folder')
    folder.mkdir(parents=True, exist_ok=True)
    notes = []
    classes = (meta.get('dataset_meta') or {}).get('classes') or ()
    if spec.kind == 'segmentor':
        state, spec = _add_idle_layer(state, spec)
        notes.append(
            "added: a layer that adds nothing, because Hugging Face's segmentation model cannot "
            'read the last layer'
        )
    state_hf = {key: value.contiguous() for key, value in from_ours(state, 'hf').items()}
    if safetensors:
        save_file(state_hf, folder / 'model.safetensors', metadata=dict(format='pt'))
    else:
        torch.save(state_hf, folder / 'pytorch_model.bin')
    if 'normalization' not in meta:
        notes.append('the file has no normalization: wrote mean = std = 0.5, as most weights have')
    _write_json(folder / 'config.json', make_hf_config(spec, state, classes))
    _write_json(folder / 'preprocessor_config.json', _make_hf_processor(spec, meta))
    return notes


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')


def _add_idle_layer(
    state: dict[str, Tensor], spec: ModelSpec
) -> tuple[dict[str, Tensor], ModelSpec]:
    """Add a copy of the last layer whose branches are scaled by zero.

    `hidden_states[depth]` is then the output of the last real layer.
    """
    depth = spec.arch['num_layers']
    last, idle = f'backbone.blocks.{depth - 1}.', f'backbone.blocks.{depth}.'
    copies = {
        key.replace(last, idle): torch.zeros_like(value) if '.gamma_' in key else value.clone()
        for key, value in state.items()
        if last in key
    }
    return state | copies, replace(spec, arch=dict(spec.arch, num_layers=depth + 1))


def make_hf_config(spec: ModelSpec, state: dict[str, Tensor], classes: Sequence[str] = ()) -> dict:
    """Return `config.json` of transformers' BeitConfig, with the names of the classes if known.

    Its segmentation model reads `hidden_states[i − 1]` for each i of `out_indices`, where
    `hidden_states[0]` is the input of the first layer: block t, counted from 0, is i = t + 2.
    """
    arch, square = spec.arch, spec.grid[0] == spec.grid[1]
    models = dict(
        mim='MaskedImageModeling',
        classifier='ImageClassification',
        segmentor='SemanticSegmentation',
    )
    config = dict(
        architectures=[f'BeitFor{models[spec.kind]}' if spec.kind in models else 'BeitModel'],
        model_type='beit',
        hidden_size=arch['embed_dims'],
        num_hidden_layers=arch['num_layers'],
        num_attention_heads=arch['num_heads'],
        intermediate_size=arch['feedforward_channels'],
        layer_norm_eps=1e-6,
        image_size=spec.img_size[0] if square else list(spec.img_size),
        patch_size=spec.patch_size,
        num_channels=spec.in_channels,
        use_mask_token=spec.mask_token,
        use_absolute_position_embeddings=spec.abs_pos_embed,
        use_relative_position_bias=spec.rel_pos_bias == 'per_layer',
        use_shared_relative_position_bias=spec.rel_pos_bias == 'shared',
        layer_scale_init_value=0.1 if spec.layer_scale else 0.0,
        use_mean_pooling=spec.kind == 'mim' or spec.out_type in ('avg_featmap', 'featmap'),
        dtype='float32',
    )
    if spec.kind == 'mim':
        config['vocab_size'] = spec.classes
    if spec.kind in ('classifier', 'segmentor'):
        names = [f'LABEL_{i}' for i in range(spec.classes)]
        if len(classes) == spec.classes:
            names = list(classes)
        config['id2label'] = dict(zip(map(str, range(spec.classes)), names, strict=True))
        config['label2id'] = {name: i for i, name in enumerate(names)}
    if spec.kind == 'segmentor':
        real = replace(spec, arch=dict(arch, num_layers=arch['num_layers'] - 1))
        auxiliary = state.get('auxiliary_head.conv_seg.weight')
        config['out_indices'] = [index + 2 for index in real.out_indices]
        config['use_auxiliary_head'] = auxiliary is not None
        if auxiliary is not None:
            convs = {key.split('.')[2] for key in state if key.startswith('auxiliary_head.convs.')}
            config |= dict(auxiliary_channels=auxiliary.shape[1], auxiliary_num_convs=len(convs))
    return config


def _make_hf_processor(spec: ModelSpec, meta: dict) -> dict:
    half = {name: values[:1] * spec.in_channels for name, values in NORMALIZATIONS['half'].items()}
    normalization = meta.get('normalization', half)
    return dict(
        image_processor_type='BeitImageProcessor',
        do_resize=True,
        size=dict(height=spec.img_size[0], width=spec.img_size[1]),
        resample=3,  # bicubic
        do_center_crop=False,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[value / 255 for value in normalization['mean']],
        image_std=[value / 255 for value in normalization['std']],
    )
