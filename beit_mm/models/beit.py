"""BEiT backbone (https://arxiv.org/abs/2106.08254; official `modeling_pretrain.py`, MIT).

Shapes: B images, N = h·w patches of a grid (h, w), D channels, M patches that are read.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import (
    as_pair,
    check_choices,
    check_integers,
    check_numbers,
    check_sizes,
    check_tensor,
    pretrained_checkpoint,
)
from .arch import resolve_aggregation, resolve_arch, resolve_out_indices
from .block import Block, run_blocks
from .embeddings import PatchEmbed, grid_of, resize_pos_embed
from .relative_position import Grid, RelativePositionBias
from .tracing import can_read_values

OUT_TYPES = ('raw', 'featmap', 'cls_token', 'avg_featmap')


@MODELS.register_module()
class BEiT(BaseModule):
    """BEiT backbone for images of any size that is a multiple of the patch size.

    One class serves pre-training, classification and segmentation, with absolute positions (the
    paper's tables), relative position bias and LayerScale (most public weights), or any mix.
    Parameters are named as in the official code.

    Args:
        arch: 'base', 'large', or dict(embed_dims, num_layers, num_heads, feedforward_channels).
        img_size: pixels, one number or (height, width), for which positions are learned. Positions
            are interpolated for other sizes.
        abs_pos_embed: learn absolute positions.
        rel_pos_bias: 'shared' (one table for all layers, pre-training), 'per_layer' (fine-tuning)
            or None.
        layer_scale: initial LayerScale (0.1 for base, 1e-5 for large), or None.
        out_indices: blocks whose outputs are returned, in rising order; −1 is the last.
        out_type: 'raw' returns the normalized sequence [B, 1 + N, D], 'cls_token' [B, D], 'featmap'
            the patches [B, D, h, w] without a norm, 'avg_featmap' the mean of the patches
            with a LayerNorm of its own [B, D].
        mask_token: learn the embedding that replaces masked patches (pre-training).
        patch_embed_std: standard deviation of the initial patch embedding. A short run needs a
            larger one: at 0.02 the outputs of the first blocks dominate the patches.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        patch_aggregation: BEiT v2's further blocks of pre-training, `dict(layer=9, num_blocks=2)`:
            with `patch_ids`, the [CLS] of the last block and the patches of block `layer` pass
            through `num_blocks` (default 2) more blocks, `cls_pt_layers`.
        frozen_stages: −1 trains everything, 0 freezes the embeddings, n also the first n blocks and
            a 'shared' table, which those blocks read.
        with_cp: recompute the activations of each block in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=…)` loads BEiT weights of any project and
            resizes positions, from a grid that is not square with `grid=(h, w)`.
            `adapt_patch_embed=True` accepts other channels or patch sizes.
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
        patch_aggregation: dict | None = None,
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
        if frozen_stages > arch['num_layers']:
            raise ValueError(
                f'frozen_stages={frozen_stages}: expected -1 (train all) to {arch["num_layers"]}, '
                'the number of blocks'
            )
        check_sizes(1, img_size=img_size)
        check_numbers(0, drop_path_rate=drop_path_rate, patch_embed_std=patch_embed_std)
        if layer_scale is not None:
            check_numbers(0, layer_scale=layer_scale)
        if drop_path_rate >= 1:
            raise ValueError(f'drop_path_rate={drop_path_rate}: expected a probability below 1')

        dims = self.embed_dims = arch['embed_dims']
        heads = self.num_heads = arch['num_heads']
        depth = arch['num_layers']
        self.patch_size = int(patch_size)
        self.layer_scale = layer_scale
        self.grid = grid_of(as_pair(img_size), self.patch_size)
        self.out_indices = resolve_out_indices(out_indices, depth)
        self.out_type = out_type
        self.patch_embed_std = patch_embed_std
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        num_positions = 1 + self.grid[0] * self.grid[1]
        pos_embed = nn.Parameter(torch.zeros(1, num_positions, dims))
        bias_grid = self.grid if rel_pos_bias == 'per_layer' else None
        early, num_further = resolve_aggregation(patch_aggregation, depth)

        def make_blocks(start: int, stop: int) -> nn.ModuleList | None:
            rates = torch.linspace(0, drop_path_rate, max(depth, stop), device='cpu').tolist()
            sizes = dims, heads, arch['feedforward_channels']
            blocks = [Block(*sizes, rate, layer_scale, bias_grid) for rate in rates[start:stop]]
            return nn.ModuleList(blocks) if blocks else None

        self.patch_embed = PatchEmbed(int(in_channels), dims, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dims)) if mask_token else None
        self.pos_embed = pos_embed if abs_pos_embed else None
        is_shared = rel_pos_bias == 'shared'
        self.rel_pos_bias = RelativePositionBias(self.grid, heads) if is_shared else None
        self.blocks = make_blocks(0, depth)
        self.early_layer = early
        self.cls_pt_layers = make_blocks(early, early + num_further)
        # Each norm exists only if it is used, because DDP fails on unused parameters. With mean
        # pooling, `fc_norm` replaces the norm of pre-training (official `use_mean_pooling`).
        self.norm = nn.LayerNorm(dims, eps=1e-6) if out_type in ('raw', 'cls_token') else None
        self.fc_norm = nn.LayerNorm(dims, eps=1e-6) if out_type == 'avg_featmap' else None
        self._freeze()
        if patch_aggregation is not None:
            self._check_is_sequence('blocks for patch aggregation')

    def forward(
        self, x: Tensor, mask: Tensor | None = None, patch_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return one feature per block of `out_indices`.

        Args:
            x: images [B, C, H, W].
            mask: bool [B, h, w], True where the mask token replaces a patch.
            patch_ids: int64 [B, M], patches 0 … N − 1. Then the features are [B, M, D]: that of the
                last block, which computes nothing else, and that of patch aggregation, if any.
        """
        grid = grid_of(x.shape, self.patch_size)
        if patch_ids is not None:
            check_tensor('patch_ids', patch_ids, torch.int64, len(x), None)
            _check_range(patch_ids, grid[0] * grid[1])
            self._check_is_sequence('patch_ids')
        x = self._embed(x, mask, grid)
        bias = self.rel_pos_bias(grid) if self.rel_pos_bias else None
        if patch_ids is not None:
            return self._read_patches(x, grid, bias, patch_ids + 1)
        features = []
        for i, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            x = run_blocks([block], x, grid, bias, recompute=self.with_cp)
            if i in self.out_indices:
                features.append(self._format(x, grid))
        return tuple(features)

    def _read_patches(
        self, x: Tensor, grid: Grid, bias: Tensor | None, rows: Tensor
    ) -> tuple[Tensor, ...]:
        """Return `rows` [B, M] of the last block, and of patch aggregation: [B, M, D] each."""
        run = partial(run_blocks, grid=grid, bias=bias, recompute=self.with_cp)
        if self.cls_pt_layers is None:
            return (self.norm(run(self.blocks, x, rows=rows)),)
        early = run(self.blocks[: self.early_layer], x)
        cls_and_rows = torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)
        last = run(self.blocks[self.early_layer :], early, rows=cls_and_rows)
        joined = torch.cat([last[:, :1], early[:, 1:]], 1)
        aggregated = run(self.cls_pt_layers, joined, rows=rows)
        return self.norm(last[:, 1:]), self.norm(aggregated)

    def _check_is_sequence(self, name: str) -> None:
        if self.out_type != 'raw' or self.out_indices != (len(self.blocks) - 1,):
            raise ValueError(f"{name} need a backbone with out_type='raw' and out_indices=-1")

    def _embed(self, x: Tensor, mask: Tensor | None, grid: Grid) -> Tensor:
        x = self.patch_embed(x)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError('a mask needs a backbone with a mask token: set mask_token=True')
            check_tensor('mask', mask, torch.bool, len(x), *grid)
            x = torch.where(mask.flatten(1)[..., None], self.mask_token.to(x.dtype), x)
        # Not len(x), which would fix the batch size of an export.
        x = torch.cat([self.cls_token.to(x.dtype).expand(x.size(0), -1, -1), x], 1)
        if self.pos_embed is None:
            return x
        return x + resize_pos_embed(self.pos_embed, self.grid, grid).to(x.dtype)

    def _format(self, x: Tensor, grid: Grid) -> Tensor:
        if self.out_type == 'featmap':
            return x[:, 1:].transpose(1, 2).unflatten(-1, grid).contiguous()
        if self.out_type == 'avg_featmap':
            return self.fc_norm(x[:, 1:].mean(1))
        return self.norm(x if self.out_type == 'raw' else x[:, 0])

    def init_weights(self) -> None:
        """Set every parameter as the paper does (sec. 2.5), then load the weights of `init_cfg`."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, nn.Linear):
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
            further = enumerate(self.cls_pt_layers or (), self.early_layer + 1)
            for layer, block in (*enumerate(self.blocks, 1), *further):
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
                'another project wrote the checkpoint, put beit_mm:// before its path or name: '
                'then its keys are renamed',
                'current',
                logging.WARNING,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return (layer, number of layers) for layer-wise learning-rate decay.

        Layers are counted as in the official code: 0 for the embeddings, 1 … depth for the blocks,
        depth + 1 for the rest. A wrapper (mmpretrain's LoRAModel) may hold it as `module`.
        """
        name = param_name.removeprefix(prefix).removeprefix('module.')
        num_layers = len(self.blocks) + 2
        if name.startswith(('cls_token', 'mask_token', 'pos_embed', 'patch_embed')):
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers

    def _freeze(self) -> None:
        for name, parameter in self.named_parameters():
            is_shared_table = name.startswith('rel_pos_bias') and self.frozen_stages > 0
            if is_shared_table or self.get_layer_depth(name)[0] <= self.frozen_stages:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> 'BEiT':
        """Set the training mode; frozen blocks stay in evaluation mode."""
        super().train(mode)
        for block in self.blocks[: max(self.frozen_stages, 0)]:
            block.eval()
        return self


def _check_range(patch_ids: Tensor, num_patches: int) -> None:
    """Raise ValueError for ids of no patch; not on a GPU, where reading waits for the device."""
    if can_read_values(patch_ids) and patch_ids.numel():
        low, high = patch_ids.aminmax()
        if low < 0 or high >= num_patches:
            raise ValueError(f'patch_ids are {low} … {high}: expected 0 … {num_patches - 1}')


def _trunc_normal(parameter: Tensor, std: float = 0.02) -> None:
    trunc_normal_(parameter, std=std, a=-std, b=std)
