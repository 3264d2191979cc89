"""The attention of images as one web page: click a patch, choose layer and head. It needs no network and nothing beside itself.

What a page holds of an image: for each block its heads and the rollout, bytes [L, H + 1, C, C] (`attention.quantise`, a row a
patch that looks), what 255 stands for in each row, and what goes to [CLS] instead, f32 [L, H + 1, C].
"""

import base64
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..models.beit import BEiT
from ..models.relative_position import Grid
from . import attention, draw, page
from .draw import text
from .explorer_script import SCRIPT, STYLE
from .inputs import resized

LIMIT = 24_000_000  # bytes of maps in a page, a third more in base64: ViT-L at 14×14 is 15 MB, ViT-B at 24×24 would be 52 MB
SHOWN = 1024  # pixels of an image's longer side


class Maps(NamedTuple):
    levels: np.ndarray  # uint8 [L, H + 1, C, C]
    top: np.ndarray  # f32 [L, H + 1, C]
    to_cls: np.ndarray  # f32 [L, H + 1, C]
    grid: Grid  # of the C cells
    factor: int  # patches a cell has on a side


def read(backbone: BEiT, image: Tensor, limit: int = LIMIT) -> Maps:
    """The maps of one image [1, 3, H, W] in at most `limit` bytes; larger grids are pooled by the least whole factor that fits.

    Raises ValueError where less than 4 cells a side would be left of a grid that has more.
    """
    grid = tuple(side // backbone.patch_size for side in image.shape[-2:])
    factor = _factor(grid, len(backbone.blocks) * (backbone.num_heads + 1), limit)
    means: list[Tensor] = []

    def keep(found: Tensor) -> tuple:
        means.append(found[0].mean(0))
        return _small(found[0], grid, factor)

    heads = attention.attention_of_blocks(backbone, image, keep)
    through = [_small(each[None], grid, factor) for each in attention.attention_rollout(means)]
    parts = [
        [np.concatenate(pair) for pair in zip(*block, strict=True)]
        for block in zip(heads, through, strict=True)
    ]
    levels, top, to_cls = (np.stack(part) for part in zip(*parts, strict=True))
    return Maps(levels, top, to_cls, tuple(-(-side // factor) for side in grid), factor)


def _factor(grid: Grid, maps: int, limit: int) -> int:
    for factor in range(1, max(grid) + 1):
        cells = [-(-side // factor) for side in grid]
        if maps * (cells[0] * cells[1]) ** 2 <= limit:
            if factor > 1 and min(cells) < 4:
                break
            return factor
    raise ValueError(
        f'{maps} maps of {grid[0]}×{grid[1]} patches do not fit into {limit} bytes: give fewer images, or a smaller --size'
    )


def _small(found: Tensor, grid: Grid, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention [H, 1 + N, 1 + N] → what the page holds of it."""
    patches = found[:, 1:, 1:].float()
    if factor > 1:
        patches, _ = attention.pool(patches, grid, factor)
    levels, top = attention.quantise(patches.cpu().numpy())
    return levels, top, (1 - patches.sum(-1)).clamp(0, 1).cpu().numpy()


def write(
    path: Path, images: dict[str, tuple[np.ndarray, Maps]], source: str, notes: list[str]
) -> None:
    """Write the page for images (name → uint8 RGB [H, W, 3] and maps); `source` names the checkpoint, `notes` are said below."""
    palette = base64.b64encode(draw.HEAT.tobytes()).decode()
    data = dict(
        palette=palette,
        opacity=draw.OPACITY,
        images=[_image(name, *found) for name, found in images.items()],
    )
    # A `<` in a name must not end the script that holds the data.
    data = json.dumps(data).replace('<', '\\u003c')
    options = ''.join(f'<option value="{i}">{text(name)}</option>' for i, name in enumerate(images))
    chooser = (
        f'<label for="image">Image</label><select id="image">{options}</select>'
        if len(images) > 1
        else ''
    )
    body = _BODY.format(
        source=text(source),
        chooser=chooser,
        notes=''.join(f'<li>{text(note)}</li>' for note in notes),
    )
    sections = [body, f'<script type="application/json" id="data">{data}</script>']
    page.write(path, 'What a patch attends to', sections, STYLE, SCRIPT)


def _image(name: str, image: np.ndarray, maps: Maps) -> dict:
    longer = max(image.shape[:2])
    if longer > SHOWN:
        image = resized(
            image, tuple(max(round(side * SHOWN / longer), 1) for side in image.shape[:2])
        )
    packed = {
        key: base64.b64encode(np.ascontiguousarray(getattr(maps, key)).tobytes()).decode()
        for key in ('levels', 'top', 'to_cls')
    }
    shape = dict(
        grid=maps.grid,
        layers=maps.levels.shape[0],
        heads=maps.levels.shape[1] - 1,
        factor=maps.factor,
    )
    return dict(name=name, picture=draw.png(image), **shape, **packed)


def unpack(page_text: str) -> list[tuple[str, Maps]]:
    """Names and maps out of a page's text, as its script reads them."""
    start = page_text.index('id="data">') + len('id="data">')
    found = []
    for entry in json.loads(page_text[start : page_text.index('</script>', start)])['images']:
        cells, rows = entry['grid'][0] * entry['grid'][1], (entry['layers'], entry['heads'] + 1)
        levels = np.frombuffer(base64.b64decode(entry['levels']), np.uint8).reshape(
            *rows, cells, cells
        )
        top, to_cls = (
            np.frombuffer(base64.b64decode(entry[key]), '<f4').reshape(*rows, cells)
            for key in ('top', 'to_cls')
        )
        found.append(
            (entry['name'], Maps(levels, top, to_cls, tuple(entry['grid']), entry['factor']))
        )
    return found


_BODY = """<h1>What a patch attends to</h1>
<p>Click a patch, or move it with the arrow keys. Bright is what it takes much from. {source}</p>
<div class="explorer">
<div><canvas id="view" tabindex="0" role="application" aria-describedby="status"
 aria-label="The image. Arrow keys move the patch whose attention is shown."></canvas>
<div class="scale" aria-hidden="true"><span>0</span><canvas id="bar" width="256" height="1"></canvas><span id="high"></span></div>
<p id="status" role="status"></p></div>
<div class="controls">{chooser}
<label for="layer">Layer <output id="layer-number" for="layer"></output></label>
<input type="range" id="layer" min="1" step="1">
<fieldset><legend>Map</legend><div id="maps"></div></fieldset>
<label class="check"><input type="checkbox" id="color"> Photograph in its colors</label></div>
</div>
<details><summary>What is shown</summary><ul>
<li>A map is one row of softmax(q kᵀ / √d + bias): the chosen patch's shares of all patches, scaled to their largest.
The rollout is scaled to the largest of the other patches.</li>
<li>Mean is that of the layer's heads. Rollout multiplies the means of all layers up to this one, the residual counted as half.</li>
{notes}</ul></details>"""
