"""The same weights in the libraries that have a BEiT: what each computes for one image (and mask), to compare with ours.

A peer is a function (image [B, 3, H, W], mask bool [B, h, w]) → what the kind of model gives: 'backbone' its sequence or
pooled feature, 'mim' logits of all patches [B, N, |V|], 'classifier' logits, 'segmentor' logits [B, classes, 4·h, 4·w],
'tokenizer' logits [B, K, H/8, W/8].
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import BEiT
from ..models.dvae_losses import map_pixels
from ..models.dvae_networks import build_encoder
from .facts import Facts, describe
from .files import read_file, state_of

Peer = Callable[[Tensor, Tensor], Tensor]


def ours(
    state: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    taps: Sequence[int] | None = None,
    heads: int | None = None,
) -> Peer:
    """Return our model of a state dict under our names.

    Args:
        taps: the blocks that a segmentor reads; None: the official ones.
        heads: as of `describe`.
    """
    facts = describe(state, heads)
    if facts.kind == 'tokenizer':
        return _tokenizer(state, dtype)
    settings = facts.backbone() | (dict(out_indices=tuple(taps)) if taps else {})
    backbone = _loaded(BEiT(**settings), _part(state, 'backbone.'), dtype)
    if facts.kind == 'segmentor':
        segment = _segmentor(state, facts, dtype)
        return lambda image, mask: segment(backbone(image))
    if facts.kind == 'backbone':
        return lambda image, mask: backbone(image)[-1]
    name = 'head.proj' if facts.kind == 'mim' else 'head.fc'
    weight, bias = (state[f'{name}.{part}'].to(dtype) for part in ('weight', 'bias'))
    if facts.kind == 'mim':
        return lambda image, mask: F.linear(backbone(image, mask)[0][:, 1:], weight, bias)
    return lambda image, mask: F.linear(backbone(image)[0], weight, bias)


def peer(target: str, path: Path, facts: Facts, dtype: torch.dtype = torch.float32) -> Peer | None:
    """Of what `export` has written to `path` for `target`; None where that is no library (`unilm`, `beit_mm`).

    Raises ImportError with the pip command where the library is missing.
    """
    makers = dict(hf=_hf, timm=_timm, mmpretrain=_mmpretrain, mmseg=_mmseg)
    if target not in makers:
        return None
    return makers[target](path, facts, dtype)


def _need(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'{name} is needed to run its model: pip install {name}') from error


def _loaded(model: nn.Module, state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    model.load_state_dict(state)
    model.to(dtype).train(False)  # a backbone of mmpretrain's returns nothing here
    return model


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _hf(path: Path, facts: Facts, dtype: torch.dtype) -> Peer:
    _need('transformers')
    import transformers

    transformers.utils.logging.disable_progress_bar()
    family = transformers.AutoConfig.from_pretrained(path, local_files_only=True).model_type
    names = dict(
        backbone='Model',
        mim='ForMaskedImageModeling',
        classifier='ForImageClassification',
        segmentor='ForSemanticSegmentation',
    )
    kind = getattr(
        transformers,
        ('Data2VecVision' if family == 'data2vec-vision' else 'Beit') + names[facts.kind],
    )
    model, account = kind.from_pretrained(
        path, local_files_only=True, dtype=dtype, output_loading_info=True
    )
    odd = sorted(account['missing_keys']) + sorted(account['unexpected_keys'])
    if odd:
        raise ValueError(f'{path} is no complete {kind.__name__}: {", ".join(map(str, odd[:8]))}')
    model.eval()
    if facts.kind == 'backbone' and facts.out_type == 'featmap':  # without a norm
        return lambda image, mask: model(image).last_hidden_state[:, 1:].mT.unflatten(2, facts.grid)
    if facts.kind == 'backbone':
        part = 'pooler_output' if facts.out_type == 'avg_featmap' else 'last_hidden_state'
        return lambda image, mask: getattr(model(image), part)
    if facts.kind == 'mim':
        return lambda image, mask: model(image, bool_masked_pos=mask.flatten(1)).logits
    return lambda image, mask: model(image).logits


def _timm(path: Path, facts: Facts, dtype: torch.dtype) -> Peer:
    _need('timm')
    from timm.models.beit import Beit

    model = Beit(
        img_size=facts.img_size,
        patch_size=facts.patch_size,
        in_chans=facts.in_channels,
        num_classes=facts.channels or 0,
        global_pool='avg' if facts.out_type == 'avg_featmap' else 'token',
        embed_dim=facts.arch['embed_dims'],
        depth=facts.arch['num_layers'],
        num_heads=facts.arch['num_heads'],
        mlp_ratio=facts.arch['feedforward_channels'] / facts.arch['embed_dims'],
        init_values=0.1 if facts.layer_scale else None,
        use_abs_pos_emb=facts.abs_pos_embed,
        use_rel_pos_bias=facts.rel_pos_bias == 'per_layer',
    )
    _loaded(model, state_of(read_file(path), str(path))[0], dtype)
    if facts.kind == 'classifier' or facts.out_type == 'avg_featmap':
        return lambda image, mask: model(image)
    return lambda image, mask: model.forward_features(image)


def _mmpretrain(path: Path, facts: Facts, dtype: torch.dtype) -> Peer:
    _need('mmpretrain')
    from mmpretrain.models import BEiTPretrainViT, BEiTViT

    state = state_of(read_file(path), str(path))[0]
    if facts.kind == 'tokenizer':
        from mmpretrain.models.selfsup.cae import DALLEEncoder

        model = DALLEEncoder(n_hid=state['blocks.input.w'].shape[0], vocab_size=facts.channels)
        _loaded(model, state, dtype)
        return lambda image, mask: model.blocks(map_pixels(image))
    settings = dict(
        arch=facts.arch,
        img_size=facts.img_size,
        patch_size=facts.patch_size,
        in_channels=facts.in_channels,
        use_abs_pos_emb=facts.abs_pos_embed,
        use_rel_pos_bias=facts.rel_pos_bias == 'per_layer',
        use_shared_rel_pos_bias=facts.rel_pos_bias == 'shared',
        layer_scale_init_value=0.1 if facts.layer_scale else 0,
        final_norm=facts.out_type in ('raw', 'cls_token'),
        out_type=facts.out_type,
        patch_cfg=dict(padding=0),
    )
    backbone = _loaded(
        (BEiTPretrainViT if facts.kind == 'mim' else BEiTViT)(**settings),
        _part(state, 'backbone.'),
        dtype,
    )
    if facts.kind == 'backbone':
        return lambda image, mask: backbone(image)[-1]
    name = 'head.cls_head' if facts.kind == 'mim' else 'head.fc'
    weight, bias = (state[f'{name}.{part}'].to(dtype) for part in ('weight', 'bias'))
    if facts.kind == 'mim':
        return lambda image, mask: F.linear(backbone(image, mask)[0][:, 1:], weight, bias)
    return lambda image, mask: F.linear(backbone(image)[0], weight, bias)


def _mmseg(path: Path, facts: Facts, dtype: torch.dtype) -> Peer:
    _need('mmseg')
    from mmseg.models.backbones import BEiT as TheirBEiT

    arch = facts.arch
    model = TheirBEiT(
        img_size=facts.img_size,
        patch_size=facts.patch_size,
        in_channels=facts.in_channels,
        embed_dims=arch['embed_dims'],
        num_layers=arch['num_layers'],
        num_heads=arch['num_heads'],
        mlp_ratio=arch['feedforward_channels'] // arch['embed_dims'],
        norm_cfg=dict(type='LN', eps=1e-6),  # its default is another one, its configs set this
        out_indices=facts.taps if facts.kind == 'segmentor' else -1,
    )
    state = state_of(read_file(path), str(path))[0]
    backbone = _loaded(model, _part(state, 'backbone.') or state, dtype)
    if facts.kind == 'backbone':
        return lambda image, mask: backbone(image)[-1]
    segment = _segmentor(state, facts, dtype)
    return lambda image, mask: segment(backbone(image))


def _segmentor(state: dict[str, Tensor], facts: Facts, dtype: torch.dtype) -> nn.Module:
    """mmseg's pyramid and UPerNet, which mmseg, the official code and we have in common."""
    _need('mmseg')
    from mmseg.models import Feature2Pyramid, UPerHead

    dims, norm = facts.arch['embed_dims'], dict(type='BN')
    neck = Feature2Pyramid(embed_dim=dims, rescales=[4, 2, 1, 0.5], norm_cfg=norm)
    head = UPerHead(
        in_channels=[dims] * 4,
        in_index=[0, 1, 2, 3],
        channels=state['decode_head.conv_seg.weight'].shape[1],
        num_classes=facts.channels,
        norm_cfg=norm,
        align_corners=False,
    )
    parts = ((neck, 'neck.'), (head, 'decode_head.'))
    return nn.Sequential(
        *(_loaded(module, _part(state, prefix), dtype) for module, prefix in parts)
    ).eval()


def _tokenizer(state: dict[str, Tensor], dtype: torch.dtype) -> Peer:
    groups = 1 + max(
        int(k.split('.')[1].removeprefix('group_')) - 1
        for k in state
        if k.startswith('encoder.group_')
    )
    blocks = max(
        int(k.split('.')[2].removeprefix('block_'))
        for k in state
        if k.startswith('encoder.group_1.')
    )
    vocab_size, (width, channels) = (
        len(state['encoder.output.conv.weight']),
        state['encoder.input.weight'].shape[:2],
    )
    model = _loaded(
        build_encoder(width, groups, blocks, vocab_size, channels), _part(state, 'encoder.'), dtype
    )
    return lambda image, mask: model(map_pixels(image))
