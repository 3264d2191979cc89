"""The attention explorer: one page on which a click on a patch shows what it attends to."""

import base64
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..models import BEiT
from ..models.attention import attention_of_blocks, attention_rollout
from ..models.relative_position import Grid
from .attention import ROLLOUT_RANGE, pool
from .images import HEAT_MAPS, OPACITY, to_data_uri
from .inputs import resize
from .pages import write_page

# Bytes of maps in a page, before base64. ViT-L at 14×14 patches needs 15 MB, ViT-B at 24×24 52 MB.
MAX_PAGE_BYTES = 24_000_000
MAX_IMAGE_PIXELS = 1024  # of the longer side


class Maps(NamedTuple):
    """Attention of L blocks with H heads and the rollout, between the C cells of a grid."""

    levels: np.ndarray  # uint8 [L, H + 1, C, C], 255 · √(share / maximum of the row)
    maximum: np.ndarray  # f32 [L, H + 1, C]
    to_cls: np.ndarray  # f32 [L, H + 1, C], attention to [CLS]
    grid: Grid
    factor: int  # patches on each side of a cell


def compute_maps(backbone: BEiT, image: Tensor, max_bytes: int = MAX_PAGE_BYTES) -> Maps:
    """Compute the maps of an image [1, C, H, W] in at most `max_bytes`.

    Larger grids are pooled by the smallest factor that fits. Raises ValueError if fewer than 4
    cells per side would be left.
    """
    grid = tuple(side // backbone.patch_size for side in image.shape[-2:])
    factor = _find_factor(grid, len(backbone.blocks) * (backbone.num_heads + 1), max_bytes)
    means: list[Tensor] = []

    def pack_heads(attention: Tensor) -> tuple[np.ndarray, ...]:
        means.append(attention[0].mean(0))
        return _pack(attention[0], grid, factor)

    heads = attention_of_blocks(backbone, image, pack_heads)
    rollouts = [_pack(rollout[None], grid, factor) for rollout in attention_rollout(means)]
    parts = []
    for part in range(3):  # levels, maximum, to_cls
        pairs = zip(heads, rollouts, strict=True)
        parts.append(np.stack([np.concatenate([a[part], b[part]]) for a, b in pairs]))
    return Maps(*parts, _cells(grid, factor), factor)


def _cells(grid: Grid, factor: int) -> Grid:
    return tuple(-(-side // factor) for side in grid)


def _find_factor(grid: Grid, num_maps: int, max_bytes: int) -> int:
    largest = max((min(grid) - 1) // 3, 1)  # leaves 4 cells per side
    for factor in range(1, largest + 1):
        if num_maps * math.prod(_cells(grid, factor)) ** 2 <= max_bytes:
            return factor
    raise ValueError(
        f'{num_maps} maps of {grid[0]}×{grid[1]} patches do not fit into {max_bytes} bytes: '
        'pass fewer images or a smaller --size'
    )


def _pack(attention: Tensor, grid: Grid, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert attention [H, 1 + N, 1 + N] to `levels`, `maximum` and `to_cls` of `Maps`."""
    patches = attention[:, 1:, 1:]
    if factor > 1:
        patches = pool(patches, grid, factor)
    maximum = patches.amax(-1)
    levels = (255 * (patches / maximum.clamp_min(1e-30)[..., None]).sqrt()).round().byte()
    to_cls = (1 - patches.sum(-1)).clamp(0, 1)
    return levels.numpy(), maximum.numpy(), to_cls.numpy()


def write_explorer(
    path: Path, images: list[tuple[str, np.ndarray, Maps]], source_note: str, notes: list[str]
) -> None:
    """Write the page for images: (name, uint8 RGB [H, W, 3], maps)."""
    write_page(
        path,
        'explorer.html',
        title='What a patch attends to',
        source_note=source_note,
        notes=notes,
        data=dict(
            palettes=[(name, _base64(colors)) for name, colors in HEAT_MAPS.items()],
            opacity=OPACITY,
            rollout_range=ROLLOUT_RANGE,
            images=[_image_data(*image) for image in images],
        ),
    )


def _image_data(name: str, image: np.ndarray, maps: Maps) -> dict:
    scale = MAX_IMAGE_PIXELS / max(image.shape[:2])
    if scale < 1:
        image = resize(image, tuple(max(round(side * scale), 1) for side in image.shape[:2]))
    return dict(
        name=name,
        picture=to_data_uri(image),
        grid=maps.grid,
        layers=maps.levels.shape[0],
        heads=maps.levels.shape[1] - 1,
        levels=_base64(maps.levels),
        maximum=_base64(maps.maximum),
        to_cls=_base64(maps.to_cls),
    )


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
