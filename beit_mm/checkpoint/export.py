"""Write a state dict in our names as another project reads it."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .facts import SHARED, TABLE, Facts, describe
from .origins import from_ours, to_dalle

_ALL = ('backbone', 'mim', 'classifier', 'segmentor', 'tokenizer')
TARGETS = dict(  # what each project has a model for
    beit_mm=_ALL,
    hf=_ALL[:4],
    timm=('backbone', 'classifier'),
    unilm=_ALL[:4],
    mmpretrain=('backbone', 'mim', 'classifier', 'tokenizer'),
    mmseg=('backbone', 'segmentor'),
)


def export(
    state: dict[str, Tensor], target: str, path: Path, meta: dict, safetensors: bool
) -> tuple[Facts, list[str]]:
    """Write `state` (our names) for `target` to the file `path`, for 'hf' a folder; what it is, and what was changed or left.

    `meta`: as `load_with_meta` gives it. Raises ValueError where the project has no such model, or `path` is no place for it.
    """
    heads = meta.get('num_heads')
    state, notes = fit_target(state, describe(state, heads), target)
    facts = describe(state, heads)
    if target == 'hf':
        _write_hf(state, facts, path, meta, notes, safetensors)
        return facts, notes
    if path.is_dir():
        raise ValueError(f'{path} is a folder: name the file to write')
    path.parent.mkdir(parents=True, exist_ok=True)
    named = (
        to_dalle(state)
        if facts.kind == 'tokenizer' and target == 'mmpretrain'
        else from_ours(state, target)
    )
    named = {key: value.contiguous() for key, value in named.items()}
    if safetensors:
        save_file(named, path)
    elif target == 'timm':
        torch.save(named, path)
    elif target == 'unilm' and facts.kind != 'segmentor':
        torch.save(dict(model=named), path)
    else:
        known = {k: meta[k] for k in ('normalization', 'num_heads') if k in meta}
        torch.save(dict(state_dict=named, meta=known), path)
    return facts, notes


def fit_target(
    state: dict[str, Tensor], facts: Facts, target: str
) -> tuple[dict[str, Tensor], list[str]]:
    """What `target` has a place for, and in words what that changes. ValueError where it has no such model."""
    if facts.kind not in TARGETS[target]:
        raise ValueError(
            f'{target} has no model for a {facts.kind}: it has {", ".join(TARGETS[target])}'
            + ('; --backbone takes the backbone alone' if facts.kind != 'tokenizer' else '')
        )
    if target == 'beit_mm' or facts.kind == 'tokenizer':
        halves = target == 'mmpretrain' and any(key.startswith('decoder.') for key in state)
        return state, ['left out: decoder.* (mmpretrain reads the encoder alone)'] if halves else []
    state, notes = dict(state), []
    if facts.kind == 'segmentor' and 'neck.upsample_4x.0.weight' not in state:
        raise ValueError(
            f'{target} has no such decoder: of segmentation models it has UPerNet on a pyramid alone'
        )
    if target == 'mmseg' and (
        facts.abs_pos_embed or not facts.layer_scale or not facts.rel_pos_bias
    ):
        raise ValueError(
            "mmseg's BEiT has relative positions and LayerScale always, and no absolute positions"
        )
    if target in ('timm', 'mmseg') and facts.rel_pos_bias == 'shared':
        table, depth = state.pop(SHARED), facts.arch['num_layers']
        state |= {f'backbone.blocks.{i}.attn.{TABLE}': table.clone() for i in range(depth)}
        notes.append(f'expanded: {SHARED} (copied into {depth} layers, as {target} has it)')
    without = dict(
        timm=('mask_token',),
        mmpretrain=() if facts.kind == 'mim' else ('mask_token',),
        mmseg=('mask_token', 'norm', 'fc_norm'),
    )
    for key in [
        k for k in state if k.split('.')[1] in without.get(target, ()) and k.startswith('backbone.')
    ]:
        del state[key]
        notes.append(f'left out: {key} ({target} has none)')
    return state, notes


# -- Hugging Face ---------------------------------------------------------------------------------------------------------


def _write_hf(
    state: dict[str, Tensor],
    facts: Facts,
    folder: Path,
    meta: dict,
    notes: list[str],
    safetensors: bool,
) -> None:
    if folder.is_file() or folder.suffix in ('.pth', '.pt', '.bin', '.safetensors'):
        raise ValueError(f'{folder} is a file, Hugging Face needs a folder: name one')
    folder.mkdir(parents=True, exist_ok=True)
    if facts.kind == 'segmentor':
        state, facts = _with_idle_layer(state, facts), replace(facts, arch=_deeper(facts.arch))
        notes.append(
            "added: a layer that adds nothing, since Hugging Face's segmentation model cannot read the last one's output"
        )
    named = {key: value.contiguous() for key, value in from_ours(state, 'hf').items()}
    if safetensors:
        save_file(named, folder / 'model.safetensors', metadata=dict(format='pt'))
    else:
        torch.save(named, folder / 'pytorch_model.bin')
    if 'normalization' not in meta:
        notes.append(
            'normalisation is not in the file: wrote mean = std = 0.5, which most published weights want'
        )
    (folder / 'config.json').write_text(json.dumps(hf_config(facts, state), indent=2) + '\n')
    (folder / 'preprocessor_config.json').write_text(
        json.dumps(_hf_processor(facts, meta), indent=2) + '\n'
    )


def _deeper(arch: dict[str, int]) -> dict[str, int]:
    return dict(arch, num_layers=arch['num_layers'] + 1)


def _with_idle_layer(state: dict[str, Tensor], facts: Facts) -> dict[str, Tensor]:
    """A copy of the last layer, scaled by zero: `hidden_states[depth]` then is what the last real one gives."""
    last = f'backbone.blocks.{facts.arch["num_layers"] - 1}.'
    idle = {
        k.replace(last, f'backbone.blocks.{facts.arch["num_layers"]}.'): v
        for k, v in state.items()
        if last in k
    }
    return state | {
        k: torch.zeros_like(v) if '.gamma_' in k else v.clone() for k, v in idle.items()
    }


def hf_config(facts: Facts, state: dict[str, Tensor]) -> dict:
    """`config.json` of transformers' BeitConfig. Its segmentation model reads `hidden_states[i − 1]` for each i of
    `out_indices`, where `hidden_states[0]` is what enters the first layer: block t (from 0) is i = t + 2.
    """
    arch, square = facts.arch, facts.grid[0] == facts.grid[1]
    models = dict(
        mim='MaskedImageModeling',
        classifier='ImageClassification',
        segmentor='SemanticSegmentation',
    )
    config = dict(
        architectures=[f'BeitFor{models[facts.kind]}' if facts.kind in models else 'BeitModel'],
        model_type='beit',
        hidden_size=arch['embed_dims'],
        num_hidden_layers=arch['num_layers'],
        num_attention_heads=arch['num_heads'],
        intermediate_size=arch['feedforward_channels'],
        layer_norm_eps=1e-6,
        image_size=facts.img_size[0] if square else list(facts.img_size),
        patch_size=facts.patch_size,
        num_channels=facts.in_channels,
        use_mask_token=facts.mask_token,
        use_absolute_position_embeddings=facts.abs_pos_embed,
        use_relative_position_bias=facts.rel_pos_bias == 'per_layer',
        use_shared_relative_position_bias=facts.rel_pos_bias == 'shared',
        layer_scale_init_value=0.1 if facts.layer_scale else 0.0,
        use_mean_pooling=facts.kind == 'mim' or facts.out_type in ('avg_featmap', 'featmap'),
        dtype='float32',
    )
    if facts.kind == 'mim':
        config['vocab_size'] = facts.channels
    if facts.kind in ('classifier', 'segmentor'):
        config['id2label'] = {str(i): f'LABEL_{i}' for i in range(facts.channels)}
        config['label2id'] = {f'LABEL_{i}': i for i in range(facts.channels)}
    if facts.kind == 'segmentor':
        real = replace(facts, arch=dict(arch, num_layers=arch['num_layers'] - 1))
        auxiliary = state.get('auxiliary_head.conv_seg.weight')
        config |= dict(
            out_indices=[tap + 2 for tap in real.taps], use_auxiliary_head=auxiliary is not None
        )
        if auxiliary is not None:
            convs = {k.split('.')[2] for k in state if k.startswith('auxiliary_head.convs.')}
            config |= dict(auxiliary_channels=auxiliary.shape[1], auxiliary_num_convs=len(convs))
    return config


def _hf_processor(facts: Facts, meta: dict) -> dict:
    normalization = meta.get(
        'normalization', dict.fromkeys(('mean', 'std'), [127.5] * facts.in_channels)
    )
    return dict(
        image_processor_type='BeitImageProcessor',
        do_resize=True,
        size=dict(height=facts.img_size[0], width=facts.img_size[1]),
        resample=3,  # bicubic
        do_center_crop=False,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[v / 255 for v in normalization['mean']],
        image_std=[v / 255 for v in normalization['std']],
    )
