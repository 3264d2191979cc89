"""Transformer block of BEiT: attention with a relative position bias, MLP, LayerScale, drop path.

Shapes: B images, N = h·w patches of a grid (h, w), D channels, H heads, and M rows of the sequence
of 1 + N tokens, whose first one is [CLS].
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .plain_layers import is_plain, scaled_linear
from .relative_position import Grid, new_table, position_bias
from .tracing import can_read_values


class Block(nn.Module):
    """Pre-norm Transformer block; each branch is scaled by LayerScale and dropped for some images.

    With `bias_grid` the block owns a table of relative positions of that grid.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        hidden_dims: int,
        drop_path_rate: float,
        layer_scale: float | None,
        bias_grid: Grid | None,
    ):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        # Optimizer states in checkpoints depend on this order.
        self.norm1 = nn.LayerNorm(dims, eps=1e-6)
        self.norm2 = nn.LayerNorm(dims, eps=1e-6)
        self.attn = Attention(dims, num_heads, bias_grid)
        self.mlp = MLP(dims, hidden_dims)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((dims,), float(layer_scale)))
            self.gamma_2 = nn.Parameter(torch.full((dims,), float(layer_scale)))

    def forward(
        self, x: Tensor, grid: Grid, bias: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Return the next sequence [B, 1 + N, D], or only its `rows` [B, M]: [B, M, D].

        Attention reads the keys and values of the full sequence in both cases.
        """
        return self.branches(x, grid, bias, rows, self._draw_drop_path(x), self._draw_drop_path(x))

    def branches(
        self,
        x: Tensor,
        grid: Grid,
        bias: Tensor | None,
        rows: Tensor | None,
        attention_scale: Tensor | None,
        mlp_scale: Tensor | None,
    ) -> Tensor:
        """Compute the block without random draws, so that one compiled graph fits all blocks."""

        def attention(x: Tensor, rows: Tensor | None) -> Tensor:
            return self.attn(self.norm1(x), grid, bias, rows, gamma=self.gamma_1)

        def mlp(x: Tensor, _: None) -> Tensor:
            return self.mlp(self.norm2(x), self.gamma_2)

        x = add_branch(attention, x, attention_scale, rows)
        return add_branch(mlp, x, mlp_scale)

    def _draw_drop_path(self, x: Tensor) -> Tensor | None:
        """Draw the scale of a branch per image [B, 1, 1]: 0 or 1 / (1 − rate), whose mean is 1."""
        if not self.training or not self.drop_path_rate:
            return None
        is_kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path_rate
        return is_kept / (1 - self.drop_path_rate)


def run_blocks(
    blocks: Sequence[Block],
    x: Tensor,
    grid: Grid,
    bias: Tensor | None,
    rows: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Run blocks; the last one computes only `rows` [B, M] if they are given.

    With `recompute` activations are not kept, but computed again in the backward pass.
    """
    for i, block in enumerate(blocks, 1):
        is_kept = not (recompute and x.requires_grad)
        run = block if is_kept else partial(checkpoint, block, use_reentrant=False)
        x = run(x, grid, bias, rows if i == len(blocks) else None)
    return x


class Attention(nn.Module):
    """Self-attention whose key has no bias; with `bias_grid` it owns a relative position table."""

    def __init__(self, dims: int, num_heads: int, bias_grid: Grid | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.bias_grid = bias_grid
        self.qkv = nn.Linear(dims, 3 * dims, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dims))
        self.v_bias = nn.Parameter(torch.zeros(dims))
        self.relative_position_bias_table = new_table(bias_grid, num_heads) if bias_grid else None
        self.proj = nn.Linear(dims, dims)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        bias: Tensor | None = None,
        rows: Tensor | None = None,
        gamma: Tensor | None = None,
    ) -> Tensor:
        """Return gamma · attention of x [B, 1 + N, D], or only of its `rows` [B, M]: [B, M, D]."""
        q, k, v, bias = self.project_qkv(x, grid, bias, rows)
        return scaled_linear(self.proj, attend(q, k, v, bias).transpose(1, 2).flatten(2), gamma)

    def project_qkv(
        self, x: Tensor, grid: Grid, bias: Tensor | None = None, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return what `attend` reads.

        q [B, H, M, D/H], k and v [B, H, 1 + N, D/H], and a bias [H or B, H, M, 1 + N] or None.
        """
        if self.bias_grid:
            bias = position_bias(self.relative_position_bias_table, self.bias_grid, grid)
        if bias is not None and rows is not None:
            bias = take_bias_rows(bias, rows)
        q, k, v = self._project(x, rows)
        return self._split_heads(q), self._split_heads(k), self._split_heads(v), bias

    def _project(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        dims = len(self.q_bias)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if not is_plain(self.qkv) or self.qkv.bias is not None:
            qkv = self.qkv(x)
            q, k, v = (qkv + bias.to(qkv.dtype)).chunk(3, -1)
            return q if rows is None else take_rows(q, rows), k, v
        if rows is None:
            return F.linear(x, self.qkv.weight, bias).chunk(3, -1)
        q = F.linear(take_rows(x, rows), self.qkv.weight[:dims], self.q_bias)
        k, v = F.linear(x, self.qkv.weight[dims:], bias[dims:]).chunk(2, -1)
        return q, k, v

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, dims)

    def forward(self, x: Tensor, gamma: Tensor | None = None) -> Tensor:
        return scaled_linear(self.fc2, F.gelu(self.fc1(x)), gamma)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return softmax(q·kᵀ / √d + bias)·v as [B, H, M, d].

    Shapes: q [B, H, M, d], k and v [B, H, L, d], bias [H or B, H, M, L].
    """
    bias = None if bias is None else bias.to(q.dtype)
    # On a CPU, torch's function has no kernel that gives a bias its gradient: its fallback takes
    # the steps below, but computes bfloat16 in float32. FLOP counters that trace with torch.jit
    # know matrix products only.
    bias_trains_on_cpu = bias is not None and bias.requires_grad and q.device.type == 'cpu'
    if not bias_trains_on_cpu and not torch.jit.is_tracing():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = q * q.size(-1) ** -0.5 @ k.transpose(-2, -1)
    if bias is not None:
        logits += bias
    return logits.softmax(-1) @ v


def add_branch(
    branch: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    scale: Tensor | None,
    rows: Tensor | None = None,
) -> Tensor:
    """Return x + scale · branch(x, rows) at `rows` [B, M], or at all rows.

    `scale` [B, 1, 1] is 0 for images whose branch is dropped, equal for all others, and None for 1.
    On a CPU the branch is computed only for the images that keep it.
    """
    residual = x if rows is None else take_rows(x, rows)
    if scale is None:
        return residual + branch(x, rows)
    if not can_read_values(scale) or not len(x):
        out = branch(x, rows)
        return residual + out * scale.to(out.dtype)
    kept = scale.flatten().nonzero()[:, 0]
    factor = scale.amax().item()
    if len(kept) == len(x):
        return residual.add(branch(x, rows), alpha=factor)
    kept_rows = None if rows is None else rows.index_select(0, kept)
    out = branch(x.index_select(0, kept), kept_rows)
    return residual.index_add(0, kept, out.to(residual.dtype), alpha=factor)


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows [B, M] of x [B, L] or [B, L, D]."""
    if x.ndim == 3:
        rows = rows[..., None].expand(-1, -1, x.size(-1))
    return x.gather(1, rows)


def take_bias_rows(bias: Tensor, rows: Tensor) -> Tensor:
    """Return rows [B, M] of a bias [H, L, L] as [B, H, M, L].

    Indexing (`bias[:, rows]`) would sum the gradient in any order on several CPU threads, so that
    two runs would differ.
    """
    taken = F.embedding(rows, bias.transpose(0, 1).flatten(1))
    return taken.unflatten(-1, (bias.size(0), -1)).transpose(1, 2)
