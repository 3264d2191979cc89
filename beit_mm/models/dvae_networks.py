"""DALL-E's encoder and decoder, the networks of the discrete VAE, with its parameters' names (official `dall_e` package, MIT)."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Bottleneck of four ReLU-convolutions with the given kernels, added with `gain` = 1 / (number of blocks)²."""

    def __init__(self, channels_in: int, channels_out: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        hidden = channels_out // 4
        widths = [channels_in, hidden, hidden, hidden, channels_out]
        self.gain = gain
        self.id_path = (
            nn.Conv2d(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )
        layers = OrderedDict()
        for i, kernel in enumerate(kernels):
            layers[f'relu_{i + 1}'] = nn.ReLU()
            layers[f'conv_{i + 1}'] = nn.Conv2d(
                widths[i], widths[i + 1], kernel, padding=kernel // 2
            )
        self.res_path = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


def on_gpu(x: Tensor) -> bool:
    return x.device.type == 'cuda'


class InputConv(nn.Conv2d):
    """On a GPU, three channels get a fourth one of zeros: tensor cores read multiples of four, three times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        if not on_gpu(x) or x.size(1) != 3:
            return super().forward(x)
        channel = (0, 0, 0, 0, 0, 1)
        return self._conv_forward(F.pad(x, channel), F.pad(self.weight, channel), self.bias)


class MaxPool(nn.MaxPool2d):
    """Of 2×2, as a maximum over axes where it is compiled for a GPU: that is fused with what comes before and after it."""

    def forward(self, x: Tensor) -> Tensor:
        if on_gpu(x) and torch.compiler.is_compiling():
            return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).amax((-1, -3))
        return super().forward(x)


def _group(
    channels_in: int,
    channels_out: int,
    blocks: int,
    kernels: tuple,
    gain: float,
    resize: nn.Module | None,
):
    layers = OrderedDict()
    for i in range(blocks):
        layers[f'block_{i + 1}'] = ResidualBlock(
            channels_out if i else channels_in, channels_out, kernels, gain
        )
    if resize:
        layers['pool' if isinstance(resize, nn.MaxPool2d) else 'upsample'] = resize
    return nn.Sequential(layers)


def encoder(
    width: int, groups: int, blocks: int, vocab_size: int, in_channels: int
) -> nn.Sequential:
    """Mapped image [B, C, H, W] → logits [B, K, h, w]. `output.conv` is the codebook: a row of weights a code."""
    gain = 1 / (groups * blocks) ** 2
    layers = OrderedDict(input=InputConv(in_channels, width, 7, padding=3))
    for g in range(groups):
        channels_in = width * 2 ** max(g - 1, 0)
        pool = MaxPool(2) if g < groups - 1 else None
        layers[f'group_{g + 1}'] = _group(
            channels_in, width * 2**g, blocks, (3, 3, 3, 1), gain, pool
        )
    head = OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(width * 2 ** (groups - 1), vocab_size, 1))
    return nn.Sequential(OrderedDict(**layers, output=nn.Sequential(head)))


def decoder(
    width: int, groups: int, blocks: int, vocab_size: int, width_in: int, in_channels: int
) -> nn.Sequential:
    """Codes [B, K, h, w] (one-hot or soft) → [B, 2·C, H, W]: the logit-Laplace's μ and ln b of each channel."""
    gain = 1 / (groups * blocks) ** 2
    layers = OrderedDict(input=nn.Conv2d(vocab_size, width_in, 1))
    for g in range(groups):
        channels_out = width * 2 ** (groups - 1 - g)
        upsample = nn.Upsample(scale_factor=2, mode='nearest') if g < groups - 1 else None
        channels_in = width_in if g == 0 else channels_out * 2
        layers[f'group_{g + 1}'] = _group(
            channels_in, channels_out, blocks, (1, 3, 3, 3), gain, upsample
        )
    head = OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(width, 2 * in_channels, 1))
    return nn.Sequential(OrderedDict(**layers, output=nn.Sequential(head)))
