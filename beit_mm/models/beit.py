"""BEiT backbone (https://arxiv.org/abs/2106.08254; official `modeling_pretrain.py`, `modeling_finetune.py`, MIT).

One class for pre-training, classification and segmentation, in the plain form of the paper's tables (absolute positions),
in that of most public weights (relative bias, LayerScale), and in any mix of both. Parameters are named as in the official
code.

Shapes: B images, N = h·w patches of a grid (h, w), D channels, H heads, M patches that are read.
"""

import logging
import math
from collections.abc import Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import (
    as_pair,
    check_integers,
    check_numbers,
    check_sizes,
    pretrained_checkpoint,
)
from .block import Block, can_read
from .relative_position import Grid, RelativePositionBias

ARCHS = dict(
    base=dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
    large=dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096),
)
OUT_TYPES = ('raw', 'featmap', 'cls_token', 'avg_featmap')
RELATIVE = (None, 'shared', 'per_layer')


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, dims: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dims, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


@MODELS.register_module()
class BEiT(BaseModule):
    """BEiT backbone: image [B, C, H, W] of any size that is a multiple of the patch → tuple of features.

    Args:
        arch: 'base', 'large', or a dict of `embed_dims, num_layers, num_heads, feedforward_channels`.
        img_size: pixels; the grid that positions are learned for. Other sizes are interpolated at run time.
        abs_pos_embed: learned absolute positions (the paper's), bilinear at other sizes.
        rel_pos_bias: one table for all layers ('shared', pre-training), one a layer ('per_layer', fine-tuning), or None.
        layer_scale: initial LayerScale (0.1 base, 1e-5 large), or None.
        out_indices: blocks whose output is returned, −1 the last.
        out_type: 'raw' normalised sequence [B, 1 + N, D]; 'featmap' [B, D, h, w] without norm; 'cls_token' [B, D]
            normalised; 'avg_featmap' [B, D], the mean of the patches, then a LayerNorm of its own.
        mask_token: learn the embedding that stands for hidden patches (pre-training).
        patch_embed_std: of the initial patch embedding. Short runs want a larger one: at 0.02 the first blocks' outputs
            swamp the patches.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        frozen_stages: −1 trains all; 0 freezes the embeddings, n also the first n blocks, and with them a 'shared' table of
            relative positions, which those blocks read.
        with_cp: recompute each block's activations in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=…)` loads any BEiT, whoever wrote it (`beit_mm.checkpoint`), positions
            fitted; with `grid=(h, w)` from positions of a grid that is not square; with `adapt_patch_embed=True` also from
            other channels or another patch size; with checkpoint None from scratch.

    Raises ValueError for an unknown `arch`, `rel_pos_bias`, `out_type`, or an image that is no multiple of the patch.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        abs_pos_embed: bool = False,
        rel_pos_bias: str | None = None,
        layer_scale: float | None = None,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'raw',
        mask_token: bool = False,
        patch_embed_std: float = 0.02,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        arch = check_arch(arch)
        if out_type not in OUT_TYPES:
            raise ValueError(
                f'out_type={out_type!r} is unknown: choose one of {", ".join(OUT_TYPES)}'
            )
        if rel_pos_bias not in RELATIVE:
            raise ValueError(
                f"rel_pos_bias={rel_pos_bias!r} is unknown: choose 'shared', 'per_layer' or None"
            )
        check_integers(1, patch_size=patch_size, in_channels=in_channels)
        check_integers(-1, frozen_stages=frozen_stages)
        check_sizes(1, img_size=img_size)
        check_numbers(0, drop_path_rate=drop_path_rate, patch_embed_std=patch_embed_std)
        if layer_scale is not None:
            check_numbers(0, layer_scale=layer_scale)
        if drop_path_rate >= 1:
            raise ValueError(f'drop_path_rate={drop_path_rate}: give a share, in [0, 1)')
        self.embed_dims, depth, self.num_heads = (
            arch['embed_dims'],
            arch['num_layers'],
            arch['num_heads'],
        )
        self.patch_size, self.out_type, self.with_cp = int(patch_size), out_type, with_cp
        self.frozen_stages, self.patch_embed_std, self.layer_scale = (
            frozen_stages,
            patch_embed_std,
            layer_scale,
        )
        self.grid = self._grid_of(as_pair(img_size))
        self.out_indices = _resolve_indices(out_indices, depth)
        if not -1 <= frozen_stages <= depth:
            raise ValueError(
                f'frozen_stages={frozen_stages}: give −1 (train all) to {depth} (the number of blocks)'
            )

        dims, n = self.embed_dims, self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed(int(in_channels), dims, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dims)) if mask_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, n + 1, dims)) if abs_pos_embed else None
        self.rel_pos_bias = (
            RelativePositionBias(self.grid, self.num_heads) if rel_pos_bias == 'shared' else None
        )
        own_grid = self.grid if rel_pos_bias == 'per_layer' else None
        self.blocks = nn.ModuleList(
            Block(dims, self.num_heads, arch['feedforward_channels'], rate, layer_scale, own_grid)
            for rate in torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        )
        # Each norm exists only where it is read, so that DDP finds no idle parameter. With the mean pooled, the
        # pre-training norm is left out on purpose: `fc_norm` takes its place (official `use_mean_pooling`).
        self.norm = nn.LayerNorm(dims, eps=1e-6) if out_type in ('raw', 'cls_token') else None
        self.fc_norm = nn.LayerNorm(dims, eps=1e-6) if out_type == 'avg_featmap' else None
        self._freeze()

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, mask: Tensor | None = None, patch_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Features of images, one a block of `out_indices`, as `out_type` says.

        Args:
            x: images [B, C, H, W].
            mask: bool [B, h, w], True where the patch is replaced by the mask token.
            patch_ids: int64 [B, M], the patches (0 … N − 1) that will be read: one feature [B, M, D] of 'raw' type is returned,
                and the last block computes nothing else.

        Raises ValueError for images that are no batch or no multiple of the patch, a mask of another grid or type or without a
        mask token, and `patch_ids` that is not int64 [B, M] (on a CPU also if out of range) or asks for other features than the
        last block's raw ones.
        """
        if x.ndim != 4:
            raise ValueError(
                f'images of shape {tuple(x.shape)}: expected a batch [B, C, H, W]; pass image[None] for one image'
            )
        grid = self._grid_of(x.shape[-2:])
        x = self._embed(x, mask, grid)
        bias = self.rel_pos_bias(grid) if self.rel_pos_bias else None
        if patch_ids is not None and (
            self.out_type != 'raw' or self.out_indices != (len(self.blocks) - 1,)
        ):
            raise ValueError("patch_ids is for out_type='raw' and the last block's output alone")
        if patch_ids is not None:
            _check_patch_ids(patch_ids, x.size(0), grid)
        features = []
        for i, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            rows = patch_ids + 1 if patch_ids is not None and i == len(self.blocks) - 1 else None
            if self.with_cp and x.requires_grad:
                x = checkpoint(block, x, grid, bias, rows, use_reentrant=False)
            else:
                x = block(x, grid, bias, rows)
            if i in self.out_indices:
                features.append(self._format(x, grid))
        return tuple(features)

    def _embed(self, x: Tensor, mask: Tensor | None, grid: Grid) -> Tensor:
        x = self.patch_embed(x)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError(
                    'a mask was given to a backbone without mask token: build it with mask_token=True'
                )
            if tuple(mask.shape) != (len(x), *grid):
                raise ValueError(
                    f'mask is {tuple(mask.shape)}, the patch grid needs (B, h, w) = {(len(x), *grid)}'
                )
            if mask.dtype != torch.bool:
                raise ValueError(
                    f'mask is {mask.dtype}, expected torch.bool, True where a patch is hidden: mask.bool()'
                )
            x = torch.where(mask.flatten(1)[..., None], self.mask_token.to(x.dtype), x)
        cls = self.cls_token.to(x.dtype).expand(
            x.size(0), -1, -1
        )  # len() would fix the batch of an export
        x = torch.cat([cls, x], 1)
        return (
            x
            if self.pos_embed is None
            else x + resize_pos_embed(self.pos_embed, self.grid, grid).to(x.dtype)
        )

    def _format(self, x: Tensor, grid: Grid) -> Tensor:
        if self.out_type == 'featmap':
            return x[:, 1:].transpose(1, 2).unflatten(-1, grid).contiguous()
        if self.out_type == 'avg_featmap':
            return self.fc_norm(x[:, 1:].mean(1))
        return self.norm(x) if self.out_type == 'raw' else self.norm(x[:, 0])

    def _grid_of(self, size: Sequence[int]) -> Grid:
        h, w = size
        p = self.patch_size
        if h < 1 or w < 1 or h % p or w % p:
            raise ValueError(
                f'image of {h}×{w} pixels is no multiple of the patch, patch_size={p}: resize it, or pad it in the data '
                f'preprocessor (`pad_size_divisor={p}` for mmpretrain; `size_divisor={p}` for mmseg, and for its tests '
                f'`test_cfg=dict(size_divisor={p})`)'
            )
        return h // p, w // p

    # -- weights -------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Set every parameter as the paper does (sec. 2.5, official `_init_weights`), then load the checkpoint of `init_cfg`."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, nn.Linear):
                _trunc_normal(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, p in self.named_parameters():
            if name.endswith(('gamma_1', 'gamma_2')):
                nn.init.constant_(p, self.layer_scale)
            elif name.endswith(('q_bias', 'v_bias', 'relative_position_bias_table')):
                nn.init.zeros_(p)
        for p in (self.cls_token, self.mask_token, self.pos_embed):
            if p is not None:
                _trunc_normal(p)
        _trunc_normal(self.patch_embed.proj.weight, self.patch_embed_std)
        nn.init.zeros_(self.patch_embed.proj.bias)
        with torch.no_grad():
            for layer, block in enumerate(self.blocks, 1):
                block.attn.proj.weight.div_(math.sqrt(2 * layer))
                block.mlp.fc2.weight.div_(math.sqrt(2 * layer))
        if (source := pretrained_checkpoint(self.init_cfg, 'BEiT')) is not None:
            load = WEIGHT_INITIALIZERS.get('load_backbone')
            load(
                self,
                source,
                self.init_cfg.get('grid'),
                self.init_cfg.get('adapt_patch_embed', False),
            )
        self._is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Warn if a checkpoint holds no weight of the backbone: loaders that are not strict say that in a list of all keys."""
        if not any(key.startswith(prefix) for key in state_dict):
            print_log(
                'The checkpoint holds no weight of the BEiT backbone, which keeps its values. If another project wrote it, put '
                'beit_mm:// before its path or name: then its keys are renamed',
                'current',
                logging.WARNING,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return (layer id, number of layers = depth + 2) for layer-wise learning-rate decay, as the official code counts them.

        The name may be that within a wrapper whose `module` is this backbone, such as mmpretrain's LoRAModel.
        """
        name, total = param_name.removeprefix(prefix).removeprefix('module.'), len(self.blocks) + 2
        if name.startswith(('cls_token', 'mask_token', 'pos_embed', 'patch_embed')):
            return 0, total
        return (int(name.split('.')[1]) + 1 if name.startswith('blocks.') else total - 1), total

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for p in (self.cls_token, self.mask_token, self.pos_embed):
            if p is not None:
                p.requires_grad_(False)
        for module in (self.patch_embed, *self.blocks[: self.frozen_stages]):
            module.eval().requires_grad_(False)
        if self.frozen_stages and self.rel_pos_bias:
            self.rel_pos_bias.requires_grad_(False)

    def train(self, mode: bool = True) -> 'BEiT':
        super().train(mode)
        for module in (
            (self.patch_embed, *self.blocks[: max(self.frozen_stages, 0)])
            if self.frozen_stages >= 0
            else ()
        ):
            module.eval()
        return self


def resize_pos_embed(pos_embed: Tensor, source: Grid, target: Grid) -> Tensor:
    """Absolute positions [1, 1 + N, D] of another grid: patches bilinear (the paper's SETR-PUP run), [S] copied."""
    if source == target:
        return pos_embed
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    patches = patches.transpose(1, 2).unflatten(-1, source)
    patches = F.interpolate(patches, size=target, mode='bilinear', align_corners=False)
    return torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1)


def check_arch(arch: str | dict) -> dict:
    """The arch as a dict; ValueError names an unknown arch, or the keys that are missing or too many."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is unknown: choose one of {", ".join(ARCHS)}, or give a dict'
            )
        return ARCHS[arch]
    if not isinstance(arch, dict) or set(arch) != set(ARCHS['base']):
        raise ValueError(
            f'arch needs exactly the keys {sorted(ARCHS["base"])}, given was arch={arch!r}'
        )
    check_integers(1, **arch)
    if arch['embed_dims'] % arch['num_heads']:
        raise ValueError(
            f'embed_dims={arch["embed_dims"]} is no multiple of num_heads={arch["num_heads"]}'
        )
    return {key: int(value) for key, value in arch.items()}


def _resolve_indices(out_indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    given = out_indices if isinstance(out_indices, list | tuple) else [out_indices]
    if not all(isinstance(i, Integral) for i in given):
        raise ValueError(f'out_indices={out_indices!r}: give the number of a block, or several')
    resolved = tuple(int(i) + depth if i < 0 else int(i) for i in given)
    if (
        not resolved
        or sorted(set(resolved)) != list(resolved)
        or not 0 <= resolved[0] <= resolved[-1] < depth
    ):
        raise ValueError(
            f'out_indices={out_indices}: give rising block numbers between {-depth} and {depth - 1}'
        )
    return resolved


def _check_patch_ids(patch_ids: Tensor, batch: int, grid: Grid) -> None:
    if patch_ids.dtype != torch.int64 or patch_ids.ndim != 2 or patch_ids.size(0) != batch:
        raise ValueError(
            f'patch_ids is {patch_ids.dtype} of shape {tuple(patch_ids.shape)}: expected torch.int64 [B, M] for the B = {batch} images, '
            'the numbers of patches row by row'
        )
    if can_read(patch_ids) and patch_ids.numel():
        low, high = patch_ids.aminmax()
        if low < 0 or high >= grid[0] * grid[1]:
            raise ValueError(
                f'patch_ids holds {low} … {high}: expected patches 0 … {grid[0] * grid[1] - 1} of the grid {grid}'
            )


def _trunc_normal(parameter: Tensor, std: float = 0.02) -> None:
    trunc_normal_(parameter, std=std, a=-std, b=std)
