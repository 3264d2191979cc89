"""Weights to start from, the device, and the base config for both."""

from dataclasses import dataclass
from pathlib import Path

import torch

from beit_mm.checkpoint.published import NORMALIZATIONS, find_published
from beit_mm.viz.model_weights import ModelWeights

DEFAULT_WEIGHTS = 'beit_base_patch16_224_pt22k_ft22k'  # of fine-tuning on a GPU
SMALL = dict(embed_dims=96, num_layers=3, num_heads=3, feedforward_channels=384)  # quickstart
DIMS = dict(small=96, base=768, large=1024)
SIZES = {(768, 12): 'base', (1024, 24): 'large'}


@dataclass(frozen=True)
class Device:
    """Device that trains: GiB of a GPU, or None for a CPU."""

    gib: float | None

    def __str__(self) -> str:
        return f'a GPU with {self.gib:.0f} GiB' if self.gib else 'a CPU'


def find_device() -> Device:
    if not torch.cuda.is_available():
        return Device(None)
    return Device(torch.cuda.get_device_properties(0).total_memory / 2**30)


@dataclass(frozen=True)
class Weights:
    """Weights, or None to train from scratch.

    Args:
        size: 'base', 'large', 'small' (the model of configs/quickstart), or 'tokenizer'.
        plain: absolute positions without LayerScale, as in the paper's tables.
        fine_tuned: trained with labels.
        tokenizer: arguments of `DiscreteVAE`.
    """

    source: str | None
    size: str
    plain: bool = False
    fine_tuned: bool = False
    in_channels: int = 3
    normalization: dict | None = None
    tokenizer: dict | None = None


def inspect_weights(source: str) -> Weights:
    """Find out about weights: a name of docs/models.md, `hf://ORG/NAME`, a file, a folder or a URL.

    Published weights are not read. Raises ValueError for another architecture.
    """
    entry = None if Path(source).exists() else find_published(source)
    if entry:
        config = entry.get('config', '')
        size = 'large' if '-large' in config else 'base'
        known = 'imagenet' if entry['kind'] == 'segmentor' else 'half'
        normalization = NORMALIZATIONS[entry.get('normalization', known)]
        return Weights(source, size, 'vit-' in config, entry['kind'] != 'mim', 3, normalization)
    weights = ModelWeights(source)
    spec = weights.spec
    if spec.kind == 'tokenizer':
        return Weights(
            source,
            'tokenizer',
            in_channels=spec.in_channels,
            tokenizer=weights.tokenizer_settings(),
        )
    if spec.kind == 'vqkd':
        raise ValueError(
            f'{source} is a VQ-KD: expected a discrete VAE or a BEiT. docs/tokenizers.md shows how '
            'to pre-train on its tokens'
        )
    arch = (spec.arch['embed_dims'], spec.arch['num_layers'])
    size = 'small' if spec.arch == SMALL else SIZES.get(arch)
    if size is None or spec.patch_size != (8 if size == 'small' else 16):
        raise ValueError(
            f'{source} has the architecture {spec.arch} with patch_size={spec.patch_size}: '
            'expected BEiT-B or BEiT-L with patch 16, or the model of configs/quickstart. For '
            'others see docs/own_images.md'
        )
    tuned = spec.kind in ('classifier', 'segmentor')
    return Weights(source, size, spec.abs_pos_embed, tuned, spec.in_channels, weights.normalization)


def choose_base(task: str, weights: Weights) -> str:
    """Return the path of the base config below configs/ for the model that the weights have."""
    size, plain = weights.size, weights.plain
    if size == 'small':
        return f'quickstart/{task}_112.py'
    if task == 'tokenizer':
        return 'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px.py'
    if task == 'pretrain':
        return 'pretrain/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'
    if task == 'segmentation':
        if size == 'large':
            return 'segmentation/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640.py'
        start = '_in1k-ft' if weights.fine_tuned and not plain else ''
        model = f'{"vit" if plain else "beit"}-base{start}'
        return f'segmentation/{model}_upernet_8xb2-amp-160k_ade20k-512x512.py'
    model = f'{"vit" if plain else "beit"}-{size}-p16'
    is_half = weights.normalization == NORMALIZATIONS['half'] and not plain
    epochs = 50 if size == 'large' else 100
    return f'classification/{model}{"_in22k-pre" * is_half}_8xb128-amp-coslr-{epochs}e_in1k.py'
