"""BEiT backbone (https://arxiv.org/abs/2106.08254; official `modeling_pretrain.py`, MIT).

Shapes: B images, N = h·w patches of a grid (h, w), D channels, H heads, M patches that are read.
"""

import logging
import math
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import (
    as_pair,
    check_choices,
    check_integers,
    check_numbers,
    check_sizes,
    pretrained_checkpoint,
)
from .arch import resolve_arch, resolve_out_indices
from .block import Block
from .embeddings import PatchEmbed, resize_pos_embed
from .relative_position import Grid, RelativePositionBias

OUT_TYPES = ('raw', 'featmap', 'cls_token', 'avg_featmap')


@MODELS.register_module()
class BEiT(BaseModule):
    """BEiT backbone for images of any size that is a multiple of the patch size.

    One class serves pre-training, classification and segmentation, with absolute positions (the
    paper's tables), relative position bias and LayerScale (most public weights), or any mix.
    Parameters are named as in the official code.

    Args:
        arch: 'base', 'large', or a dict of `embed_dims, num_layers, num_heads,
            feedforward_channels`.
        img_size: pixels, one number or (height, width), for which positions are learned. Positions
            are interpolated for other sizes.
        abs_pos_embed: learn absolute positions; bilinear interpolation.
        rel_pos_bias: 'shared' (one table for all layers, pre-training), 'per_layer' (fine-tuning)
            or None; spline interpolation.
        layer_scale: initial LayerScale (0.1 for base, 1e-5 for large), or None.
        out_indices: blocks whose outputs are returned, in rising order; −1 is the last.
        out_type: 'raw' returns the normalized sequence [B, 1 + N, D], 'cls_token' its [CLS] [B, D],
            'featmap' the patches [B, D, h, w] without a norm, 'avg_featmap' the mean of the patches
            with a LayerNorm of its own [B, D].
        mask_token: learn the embedding that replaces masked patches (pre-training).
        patch_embed_std: standard deviation of the initial patch embedding. A short run needs a
            larger one: at 0.02 the outputs of the first blocks dominate the patches.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        frozen_stages: −1 trains everything, 0 freezes the embeddings, n also the first n blocks and
            a 'shared' table, which those blocks read.
        with_cp: recompute the activations of each block in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=…)` loads BEiT weights of any project (see
            `beit_mm.checkpoint`) and resizes positions. `grid=(h, w)` describes positions of a grid
            that is not square. `adapt_patch_embed=True` accepts other channels or patch sizes.

    Raises ValueError for wrong settings and for images that are no multiple of the patch size.
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
        arch = resolve_arch(arch)
        check_choices(OUT_TYPES, out_type=out_type)
        check_choices((None, 'shared', 'per_layer'), rel_pos_bias=rel_pos_bias)
        check_integers(1, patch_size=patch_size, in_channels=in_channels)
        check_integers(-1, frozen_stages=frozen_stages)
        check_sizes(1, img_size=img_size)
        check_numbers(0, drop_path_rate=drop_path_rate, patch_embed_std=patch_embed_std)
        if layer_scale is not None:
            check_numbers(0, layer_scale=layer_scale)
        if drop_path_rate >= 1:
            raise ValueError(f'drop_path_rate={drop_path_rate}: expected a probability below 1')

        dims = self.embed_dims = arch['embed_dims']
        depth = arch['num_layers']
        num_heads = self.num_heads = arch['num_heads']
        self.patch_size = patch_size
        self.grid = self._grid_of(as_pair(img_size))
        self.out_indices = resolve_out_indices(out_indices, depth)
        self.out_type = out_type
        self.layer_scale = layer_scale
        self.patch_embed_std = patch_embed_std
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        self.patch_embed = PatchEmbed(in_channels, dims, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dims)) if mask_token else None
        num_positions = 1 + self.grid[0] * self.grid[1]
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, num_positions, dims)) if abs_pos_embed else None
        )
        self.rel_pos_bias = (
            RelativePositionBias(self.grid, num_heads) if rel_pos_bias == 'shared' else None
        )
        bias_grid = self.grid if rel_pos_bias == 'per_layer' else None
        self.blocks = nn.ModuleList(
            Block(dims, num_heads, arch['feedforward_channels'], rate, layer_scale, bias_grid)
            for rate in torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        )
        # Each norm exists only if it is used, because DDP fails on unused parameters. With mean
        # pooling, `fc_norm` replaces the norm of pre-training (official `use_mean_pooling`).
        self.norm = nn.LayerNorm(dims, eps=1e-6) if out_type in ('raw', 'cls_token') else None
        self.fc_norm = nn.LayerNorm(dims, eps=1e-6) if out_type == 'avg_featmap' else None
        self._freeze()

    def forward(
        self, x: Tensor, mask: Tensor | None = None, patch_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return one feature per block of `out_indices`.

        Args:
            x: images [B, C, H, W].
            mask: bool [B, h, w], True where the mask token replaces a patch.
            patch_ids: int64 [B, M], patches 0 … N − 1. Then the only feature is [B, M, D], and the
                last block computes nothing else.

        Raises ValueError for images, masks and patch_ids of other shapes or types.
        """
        if x.ndim != 4:
            raise ValueError(
                f'images of shape {tuple(x.shape)}: expected a batch [B, C, H, W]; '
                'pass image[None] for one image'
            )
        grid = self._grid_of(x.shape[-2:])
        if patch_ids is not None:
            self._check_patch_ids(patch_ids, len(x))
        x = self._embed(x, mask, grid)
        bias = self.rel_pos_bias(grid) if self.rel_pos_bias else None
        features = []
        for i, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            read = patch_ids if i == len(self.blocks) - 1 else None
            if self.with_cp and x.requires_grad:
                x = checkpoint(block, x, grid, bias, read, use_reentrant=False)
            else:
                x = block(x, grid, bias, read)
            if i in self.out_indices:
                features.append(self._format(x, grid))
        return tuple(features)

    def _grid_of(self, size: Sequence[int]) -> Grid:
        h, w = size
        p = self.patch_size
        if h < 1 or w < 1 or h % p or w % p:
            raise ValueError(
                f'image of {h}×{w} pixels is no multiple of the patch, patch_size={p}: resize it, '
                f'or pad it in the data preprocessor (`pad_size_divisor={p}` for mmpretrain; '
                f'`size_divisor={p}` for mmseg, and for its tests `test_cfg=dict(size_divisor={p})`)'
            )
        return h // p, w // p

    def _check_patch_ids(self, patch_ids: Tensor, batch_size: int) -> None:
        if self.out_type != 'raw' or self.out_indices != (len(self.blocks) - 1,):
            raise ValueError(
                f"patch_ids need out_type='raw' and out_indices=-1, not {self.out_type!r} and "
                f'{self.out_indices}'
            )
        if patch_ids.dtype != torch.int64 or patch_ids.ndim != 2 or len(patch_ids) != batch_size:
            raise ValueError(
                f'patch_ids is {patch_ids.dtype} of shape {tuple(patch_ids.shape)}: expected '
                f'torch.int64 [B, M] for B = {batch_size} images, patches numbered row by row'
            )

    def _embed(self, x: Tensor, mask: Tensor | None, grid: Grid) -> Tensor:
        x = self.patch_embed(x)
        if mask is not None:
            self._check_mask(mask, (len(x), *grid))
            x = torch.where(mask.flatten(1)[..., None], self.mask_token.to(x.dtype), x)
        # Not len(x), which would fix the batch size of an export.
        cls_token = self.cls_token.to(x.dtype).expand(x.size(0), -1, -1)
        x = torch.cat([cls_token, x], 1)
        if self.pos_embed is None:
            return x
        return x + resize_pos_embed(self.pos_embed, self.grid, grid).to(x.dtype)

    def _check_mask(self, mask: Tensor, shape: tuple[int, int, int]) -> None:
        if self.mask_token is None:
            raise ValueError(
                'a mask was given to a backbone without mask token: build it with mask_token=True'
            )
        if mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise ValueError(
                f'mask is {mask.dtype} of shape {tuple(mask.shape)}: expected torch.bool '
                f'(B, h, w) = {shape}, True where a patch is masked'
            )

    def _format(self, x: Tensor, grid: Grid) -> Tensor:
        if self.out_type == 'featmap':
            return x[:, 1:].transpose(1, 2).unflatten(-1, grid).contiguous()
        if self.out_type == 'avg_featmap':
            return self.fc_norm(x[:, 1:].mean(1))
        return self.norm(x if self.out_type == 'raw' else x[:, 0])

    def init_weights(self) -> None:
        """Initialize as the paper does (sec. 2.5), then load the checkpoint of `init_cfg`."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                _trunc_normal(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(('gamma_1', 'gamma_2')):
                nn.init.constant_(parameter, self.layer_scale)
            elif name.endswith(('q_bias', 'v_bias', 'relative_position_bias_table')):
                nn.init.zeros_(parameter)
        for parameter in (self.cls_token, self.mask_token, self.pos_embed):
            if parameter is not None:
                _trunc_normal(parameter)
        _trunc_normal(self.patch_embed.proj.weight, self.patch_embed_std)
        nn.init.zeros_(self.patch_embed.proj.bias)
        with torch.no_grad():
            for layer, block in enumerate(self.blocks, 1):
                block.attn.proj.weight.div_(math.sqrt(2 * layer))
                block.mlp.fc2.weight.div_(math.sqrt(2 * layer))
        source = pretrained_checkpoint(self.init_cfg, 'BEiT')
        if source is not None:
            load_backbone = WEIGHT_INITIALIZERS.get('load_backbone')
            adapt = self.init_cfg.get('adapt_patch_embed', False)
            load_backbone(self, source, self.init_cfg.get('grid'), adapt)
        self._is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Warn if a checkpoint holds no weight of the backbone, which lenient loaders do not."""
        if not any(key.startswith(prefix) for key in state_dict):
            print_log(
                'The checkpoint holds no weight of the BEiT backbone, which keeps its values. If '
                'another project wrote the checkpoint, put beit_mm:// before its path or name: then '
                'its keys are renamed',
                'current',
                logging.WARNING,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return (layer, number of layers) for layer-wise learning-rate decay.

        Layers are counted as in the official code: 0 for the embeddings, 1 … depth for the blocks,
        and depth + 1 for the rest. A wrapper such as mmpretrain's LoRAModel may hold this backbone
        as its `module`.
        """
        name = param_name.removeprefix(prefix).removeprefix('module.')
        num_layers = len(self.blocks) + 2
        if name.startswith(('cls_token', 'mask_token', 'pos_embed', 'patch_embed')):
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers

    def train(self, mode: bool = True) -> 'BEiT':
        """Set the training mode, except for frozen modules, which stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.blocks[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)
        if self.frozen_stages >= 0:
            for parameter in (self.cls_token, self.mask_token, self.pos_embed):
                if parameter is not None:
                    parameter.requires_grad_(False)
        if self.frozen_stages >= 1 and self.rel_pos_bias:
            self.rel_pos_bias.requires_grad_(False)


def _trunc_normal(parameter: Tensor, std: float = 0.02) -> None:
    trunc_normal_(parameter, std=std, a=-std, b=std)
