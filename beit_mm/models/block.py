"""The Transformer block of BEiT: attention with a relative position bias, MLP, LayerScale, stochastic depth.

Shapes: B images, N = h·w patches of a grid (h, w), D channels, H heads, M patches that are read (index).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .relative_position import Grid, new_table, position_bias


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Return whether a call of `layer` only applies the weights of a `kind`, so that the weights may be used without the call.

    False for subclasses and adapters (LoRA, quantized layers, parametrizations), replaced weights or `forward`, and any hook
    (pruning, old-style weight and spectral norm, FLOP counters): such a layer must be called.
    """
    return (
        type(layer) is kind
        and type(layer.weight) in (nn.Parameter, Tensor)
        and not is_hooked(layer)
    )


def is_hooked(layer: nn.Module) -> bool:
    """Return whether a call of `layer` runs hooks, its own or those for all modules, or another `forward` than its class's."""
    own = (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )
    return bool(own or 'forward' in vars(layer) or _has_any_global_hook())


class Attention(nn.Module):
    """Self-attention whose key has no bias; with `grid` it owns a relative position table of that grid."""

    def __init__(self, dims: int, num_heads: int, grid: Grid | None = None):
        super().__init__()
        self.num_heads, self.grid = num_heads, grid
        self.qkv = nn.Linear(dims, 3 * dims, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dims))
        self.v_bias = nn.Parameter(torch.zeros(dims))
        self.relative_position_bias_table = new_table(grid, num_heads) if grid else None
        self.proj = nn.Linear(dims, dims)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project_qkv(
        self, x: Tensor, grid: Grid, bias: Tensor | None = None, index: Tensor | None = None
    ) -> tuple:
        """Return the inputs of `attend`: q [B, H, M, D/H], k and v [B, H, 1 + N, D/H], bias [H or B, H, M, 1 + N] or None."""
        if self.grid:
            bias = position_bias(self.relative_position_bias_table, self.grid, grid)
        no_bias = torch.zeros_like(self.q_bias)
        if not is_plain(self.qkv) or self.qkv.bias is not None:
            out = self.qkv(x)
            q, k, v = (out + torch.cat([self.q_bias, no_bias, self.v_bias]).to(out.dtype)).chunk(
                3, -1
            )
            q = q if index is None else take(q, index)
        elif index is None:
            q, k, v = F.linear(
                x, self.qkv.weight, torch.cat([self.q_bias, no_bias, self.v_bias])
            ).chunk(3, -1)
        else:
            wq, wk, wv = self.qkv.weight.chunk(3)
            q = F.linear(take(x, index), wq, self.q_bias)
            k, v = F.linear(x, torch.cat([wk, wv]), torch.cat([no_bias, self.v_bias])).chunk(2, -1)
        if bias is not None and index is not None:
            bias = rows_of(bias, index)
        return self._heads(q), self._heads(k), self._heads(v), bias

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        bias: Tensor | None = None,
        index: Tensor | None = None,
        gamma: Tensor | None = None,
    ) -> Tensor:
        q, k, v, bias = self.project_qkv(x, grid, bias, index)
        return scaled(self.proj, attend(q, k, v, bias).transpose(1, 2).flatten(2), gamma)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return softmax(q·kᵀ / √d + bias)·v for q [B, H, M, d], k and v [B, H, L, d], bias [H or B, H, M, L]: [B, H, M, d]."""
    bias = None if bias is None else bias.to(q.dtype)
    # On a CPU torch's function has no kernel which gives a bias its gradient: it would take these steps, but bfloat16 in f32.
    # FLOP counters that trace a model by torch.jit know the products, not the function.
    by_steps = torch.jit.is_tracing() or (
        bias is not None and bias.requires_grad and q.device.type == 'cpu'
    )
    if not by_steps:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = q * q.size(-1) ** -0.5 @ k.transpose(-2, -1)
    if bias is not None:
        logits += bias
    return logits.softmax(-1) @ v


class MLP(nn.Module):
    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dims, hidden), nn.Linear(hidden, dims)

    def forward(self, x: Tensor, gamma: Tensor | None = None) -> Tensor:
        return scaled(self.fc2, F.gelu(self.fc1(x)), gamma)


def scaled(linear: nn.Module, x: Tensor, gamma: Tensor | None) -> Tensor:
    """Return gamma · linear(x), where gamma [D] is LayerScale.

    For training on a CPU a plain layer's weights are scaled instead: this saves one pass over the outputs, and autograd does not
    keep them. Not on a GPU, where float16 cannot hold weights times 1e-5.
    """
    if gamma is None:
        return linear(x)
    if (
        x.device.type != 'cpu'
        or not torch.is_grad_enabled()
        or torch.jit.is_tracing()  # its check traces again without gradients
        or not is_plain(linear)
        or linear.bias is None
    ):
        return gamma * linear(x)
    return F.linear(x, gamma[:, None] * linear.weight, gamma * linear.bias)


class Block(nn.Module):
    """Pre-norm Transformer block, each branch scaled (LayerScale) and dropped for whole images (stochastic depth)."""

    def __init__(
        self,
        dims: int,
        num_heads: int,
        hidden: int,
        drop_path: float,
        layer_scale: float | None,
        grid: Grid | None,
    ):
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.norm2 = nn.LayerNorm(dims, eps=1e-6), nn.LayerNorm(dims, eps=1e-6)
        self.attn, self.mlp = Attention(dims, num_heads, grid), MLP(dims, hidden)
        scale = None if layer_scale is None else torch.full((dims,), float(layer_scale))
        self.gamma_1 = None if scale is None else nn.Parameter(scale)
        self.gamma_2 = None if scale is None else nn.Parameter(scale.clone())

    def forward(
        self, x: Tensor, grid: Grid, bias: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """[B, 1 + N, D] → the same; with `index` [B, M] only those rows are made: [B, M, D]. Keys and values stay whole."""
        return self.branches(x, grid, bias, index, self._kept(x), self._kept(x))

    def branches(
        self, x: Tensor, grid: Grid, bias: Tensor | None, index: Tensor | None, *kept: Tensor | None
    ) -> Tensor:
        """What `CompileBlocks` compiles: all but the random draws, so that one graph does for all blocks."""

        def attention(x: Tensor, index: Tensor | None) -> Tensor:
            return self.attn(self.norm1(x), grid, bias, index, gamma=self.gamma_1)

        def mlp(x: Tensor, _: None) -> Tensor:
            return self.mlp(self.norm2(x), self.gamma_2)

        return add_branch(mlp, add_branch(attention, x, kept[0], index), kept[1])

    def _kept(self, x: Tensor) -> Tensor | None:
        """[B, 1, 1]: what a branch is multiplied by, so that its mean is that of a branch never dropped."""
        if not self.training or not self.drop_path:
            return None
        return (torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path) / (1 - self.drop_path)


def add_branch(
    branch: Callable, x: Tensor, kept: Tensor | None, index: Tensor | None = None
) -> Tensor:
    """Return x + kept · branch(x, index) for the rows `index`; `kept` [B, 1, 1] is zero for images whose branch is dropped.

    On a CPU the branch is not computed for dropped images.
    """
    rest = x if index is None else take(x, index)
    if kept is None:
        return rest + branch(x, index)
    if not can_read(kept) or not len(x):
        out = branch(x, index)
        return rest + out * kept.to(out.dtype)
    images = kept.flatten().nonzero()[:, 0]
    share = kept.amax().item()  # 1 / (1 − rate), or 0 if all are dropped
    if len(images) == len(x):
        return rest.add(branch(x, index), alpha=share)
    out = branch(
        x.index_select(0, images), None if index is None else index.index_select(0, images)
    )
    return rest.index_add(0, images, out.to(rest.dtype), alpha=share)


def can_read(x: Tensor) -> bool:
    """Return whether Python may branch on the values of `x`.

    False on a GPU, which would have to finish its work first, while torch.compile, torch.export or torch.jit traces, and within
    torch.func.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == 'cpu' and not traced and not torch._C._are_functorch_transforms_active()


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, M] of x [B, L, D]: [B, M, D]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.size(-1)))


def rows_of(bias: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, M] of a bias [H, L, L] for each image: [B, H, M, L].

    Not `bias[:, index]`: on several CPU threads its gradient is summed in any order, and no two runs would be the same.
    """
    rows = F.embedding(index, bias.transpose(0, 1).flatten(1))
    return rows.unflatten(-1, (bias.size(0), -1)).transpose(1, 2)
