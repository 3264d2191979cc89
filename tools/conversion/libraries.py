"""The models of the libraries that have a BEiT, and ours, as functions of one signature.

A `Predictor` is a function (image [B, C, H, W], mask bool [B, h, w]) → output. The output depends
on the kind of model: 'backbone' its sequence or pooled feature, 'mim' logits of all patches
[B, N, |V|] (with patch aggregation both outputs, [B, 2·N, |V|]), 'classifier' logits, 'segmentor'
logits [B, classes, 4·h, 4·w], 'tokenizer' logits [B, K, H/8, W/8], 'vqkd' the unit vectors of the
patches [B, h, w, d] of an image in [0, 1].
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.model_spec import ModelSpec, infer_spec
from beit_mm.checkpoint.state_dicts import find_weights, select_part
from beit_mm.models import VQKD, BEiT
from beit_mm.models.dvae_losses import map_pixels
from beit_mm.models.dvae_networks import build_encoder
from beit_mm.utils.packages import require

Predictor = Callable[[Tensor, Tensor], Tensor]


def our_model(
    state: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    out_indices: Sequence[int] | None = None,
    num_heads: int | None = None,
) -> Predictor:
    """Return our model of a state dict in our names.

    Args:
        out_indices: blocks that a segmentor reads; default: those of the official code.
        num_heads: see `infer_spec`.
    """
    spec = infer_spec(state, num_heads)
    if spec.kind == 'tokenizer':
        return _tokenizer(state, dtype)
    if spec.kind == 'vqkd':
        return _vqkd(state, spec, dtype)
    settings = spec.backbone_settings()
    if out_indices:
        settings['out_indices'] = tuple(out_indices)
    backbone = _load(BEiT(**settings), select_part(state, 'backbone.'), dtype)
    if spec.kind == 'segmentor':
        segment = _upernet(state, spec, dtype)
        return lambda image, mask: segment(backbone(image))
    if spec.kind == 'backbone':
        return lambda image, mask: backbone(image)[-1]

    def features(image: Tensor, mask: Tensor) -> Tensor:
        if spec.kind != 'mim':
            return backbone(image)[0]
        patch_ids = torch.arange(mask[0].numel()).expand(len(mask), -1)
        return torch.cat(backbone(image, mask, patch_ids), 1)

    return _with_head(features, state, 'head.proj' if spec.kind == 'mim' else 'head.fc', dtype)


def library_model(
    library: str, path: Path, spec: ModelSpec, dtype: torch.dtype = torch.float32
) -> Predictor | None:
    """Return the library's model of a file that `export_checkpoint` wrote.

    Returns None if there is no library for `library`.
    Raises ImportError with the pip command if the library is not installed.
    """
    makers = dict(hf=_hf, timm=_timm, mmpretrain=_mmpretrain, mmseg=_mmseg)
    return makers[library](path, spec, dtype) if library in makers else None


def _hf(path: Path, spec: ModelSpec, dtype: torch.dtype) -> Predictor:
    transformers = _require('transformers')
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    family = 'Data2VecVision' if config.model_type == 'data2vec-vision' else 'Beit'
    names = dict(
        backbone='Model',
        mim='ForMaskedImageModeling',
        classifier='ForImageClassification',
        segmentor='ForSemanticSegmentation',
    )
    kind = getattr(transformers, family + names[spec.kind])
    model, info = kind.from_pretrained(
        path, local_files_only=True, dtype=dtype, output_loading_info=True
    )
    if wrong := sorted(info['missing_keys']) + sorted(info['unexpected_keys']):
        raise ValueError(f'{path} is no complete {kind.__name__}: {", ".join(map(str, wrong[:8]))}')
    model.eval()
    if spec.kind == 'mim':
        return lambda image, mask: model(image, bool_masked_pos=mask.flatten(1)).logits
    if spec.kind != 'backbone':
        return lambda image, mask: model(image).logits
    if spec.out_type == 'featmap':  # without a norm
        return lambda image, mask: model(image).last_hidden_state[:, 1:].mT.unflatten(2, spec.grid)
    output = 'pooler_output' if spec.out_type == 'avg_featmap' else 'last_hidden_state'
    return lambda image, mask: getattr(model(image), output)


def _timm(path: Path, spec: ModelSpec, dtype: torch.dtype) -> Predictor:
    _require('timm')
    from timm.models.beit import Beit

    model = Beit(
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_chans=spec.in_channels,
        num_classes=spec.classes or 0,
        global_pool='avg' if spec.out_type == 'avg_featmap' else 'token',
        embed_dim=spec.arch['embed_dims'],
        depth=spec.arch['num_layers'],
        num_heads=spec.arch['num_heads'],
        mlp_ratio=spec.arch['feedforward_channels'] / spec.arch['embed_dims'],
        init_values=0.1 if spec.layer_scale else None,
        use_abs_pos_emb=spec.abs_pos_embed,
        use_rel_pos_bias=spec.rel_pos_bias == 'per_layer',
    )
    _load(model, _read(path), dtype)
    if spec.kind == 'classifier' or spec.out_type == 'avg_featmap':
        return lambda image, mask: model(image)
    return lambda image, mask: model.forward_features(image)


def _mmpretrain(path: Path, spec: ModelSpec, dtype: torch.dtype) -> Predictor:
    require('mmpretrain')
    from mmpretrain.models import BEiTPretrainViT, BEiTV2Neck, BEiTViT
    from mmpretrain.models.selfsup.cae import DALLEEncoder

    state = _read(path)
    if spec.kind == 'tokenizer':
        encoder = DALLEEncoder(n_hid=len(state['blocks.input.w']), vocab_size=spec.classes)
        _load(encoder, state, dtype)
        return lambda image, mask: encoder.blocks(map_pixels(image))
    if spec.kind == 'vqkd':
        return _mmpretrain_vqkd(state, spec, dtype)
    kind = BEiTPretrainViT if spec.kind == 'mim' else BEiTViT
    early = spec.backbone_settings().get('patch_aggregation', {}).get('layer', 0)
    model = kind(
        arch=spec.arch,
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_channels=spec.in_channels,
        use_abs_pos_emb=spec.abs_pos_embed,
        use_rel_pos_bias=spec.rel_pos_bias == 'per_layer',
        use_shared_rel_pos_bias=spec.rel_pos_bias == 'shared',
        layer_scale_init_value=0.1 if spec.layer_scale else 0,
        final_norm=spec.out_type in ('raw', 'cls_token') and not early,
        out_type=spec.out_type,
        out_indices=[early - 1, -1] if early else -1,
        patch_cfg=dict(padding=0),
    )
    backbone = _load(model, select_part(state, 'backbone.'), dtype)
    if spec.kind == 'backbone':
        return lambda image, mask: backbone(image)[-1]
    if early:
        arch = spec.arch | dict(depth=spec.arch['num_layers'])
        neck = BEiTV2Neck(spec.aggregation_blocks, early, arch)
        _load(neck, select_part(state, 'neck.'), dtype)

    def features(image: Tensor, mask: Tensor) -> Tensor:
        if spec.kind != 'mim':
            return backbone(image)[0]
        outputs = backbone(image, mask)
        if early:
            return torch.cat(neck(outputs, backbone.shared_rel_pos_bias), 1)
        return outputs[0][:, 1:]

    return _with_head(features, state, 'head.cls_head' if spec.kind == 'mim' else 'head.fc', dtype)


def _mmseg(path: Path, spec: ModelSpec, dtype: torch.dtype) -> Predictor:
    require('mmseg')
    from mmseg.models.backbones import BEiT as MMSegBEiT

    arch = spec.arch
    model = MMSegBEiT(
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_channels=spec.in_channels,
        embed_dims=arch['embed_dims'],
        num_layers=arch['num_layers'],
        num_heads=arch['num_heads'],
        mlp_ratio=arch['feedforward_channels'] // arch['embed_dims'],
        norm_cfg=dict(type='LN', eps=1e-6),  # as in its configs; its default is 1e-5
        out_indices=spec.out_indices if spec.kind == 'segmentor' else -1,
    )
    state = _read(path)
    backbone = _load(model, select_part(state, 'backbone.') or state, dtype)
    if spec.kind == 'backbone':
        return lambda image, mask: backbone(image)[-1]
    segment = _upernet(state, spec, dtype)
    return lambda image, mask: segment(backbone(image))


def _with_head(
    features: Predictor, state: dict[str, Tensor], name: str, dtype: torch.dtype
) -> Predictor:
    """Return the linear head `name` on features."""
    weight, bias = (state[f'{name}.{part}'].to(dtype) for part in ('weight', 'bias'))
    return lambda image, mask: F.linear(features(image, mask), weight, bias)


def _upernet(state: dict[str, Tensor], spec: ModelSpec, dtype: torch.dtype) -> nn.Module:
    """Return mmseg's pyramid and UPerNet, which the official code and this project use as well."""
    require('mmseg')
    from mmseg.models import Feature2Pyramid, UPerHead

    dims, norm = spec.arch['embed_dims'], dict(type='BN')
    neck = Feature2Pyramid(embed_dim=dims, rescales=[4, 2, 1, 0.5], norm_cfg=norm)
    head = UPerHead(
        in_channels=[dims] * 4,
        in_index=[0, 1, 2, 3],
        channels=state['decode_head.conv_seg.weight'].shape[1],
        num_classes=spec.classes,
        norm_cfg=norm,
        align_corners=False,
    )
    _load(neck, select_part(state, 'neck.'), dtype)
    _load(head, select_part(state, 'decode_head.'), dtype)
    return nn.Sequential(neck, head).eval()


def _tokenizer(state: dict[str, Tensor], dtype: torch.dtype) -> Predictor:
    keys = [key.split('.') for key in state if key.startswith('encoder.group_')]
    groups = max(int(key[1].removeprefix('group_')) for key in keys)
    blocks = max(int(key[2].removeprefix('block_')) for key in keys if key[1] == 'group_1')
    width, channels = state['encoder.input.weight'].shape[:2]
    vocab_size = len(state['encoder.output.conv.weight'])
    encoder = build_encoder(width, groups, blocks, vocab_size, channels)
    _load(encoder, select_part(state, 'encoder.'), dtype)
    return lambda image, mask: encoder(map_pixels(image))


def _vqkd(state: dict[str, Tensor], spec: ModelSpec, dtype: torch.dtype) -> Predictor:
    codes = state['codebook.codes']
    model = VQKD(*codes.shape, encoder=spec.backbone_settings())
    own = {key: state[key] for key in model.state_dict() if key in state}
    _load(model, own, dtype)
    return lambda image, mask: model.encode(image)


def _mmpretrain_vqkd(state: dict[str, Tensor], spec: ModelSpec, dtype: torch.dtype) -> Predictor:
    from mmpretrain.models.selfsup.beit import VQKD as TheirVQKD

    encoder = dict(
        arch=spec.arch,
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_channels=spec.in_channels,
        final_norm=True,
        out_type='featmap',
        use_abs_pos_emb=spec.abs_pos_embed,
        use_rel_pos_bias=spec.rel_pos_bias == 'per_layer',
        use_shared_rel_pos_bias=spec.rel_pos_bias == 'shared',
        layer_scale_init_value=0.1 if spec.layer_scale else 0,
    )
    model = TheirVQKD(encoder, None, *state['quantize.embedding.weight'].shape)
    _load(model, state, dtype)

    def vectors(image: Tensor, mask: Tensor) -> Tensor:
        features = model.encoder(2 * image - 1)[0].movedim(1, -1)
        return F.normalize(model.encode_task_layer(features), dim=-1)

    return vectors


def _require(name: str) -> ModuleType:
    """Import transformers or timm, which `beit_mm.utils.packages.require` does not know."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'{name} is needed to run its model: pip install {name}') from error


def _read(path: Path) -> dict[str, Tensor]:
    return find_weights(read_file(path), str(path))[0]


def _load(model: nn.Module, state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    model.load_state_dict(state)
    model.to(dtype).train(False)  # mmpretrain's backbones return None here
    return model
