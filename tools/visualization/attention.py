"""Maps of a backbone's attention, as pictures for one patch or as a page for all patches."""

from argparse import Namespace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from beit_mm.models import BEiT
from beit_mm.viz import attention, explorer
from beit_mm.viz.inputs import fit_size, normalize, read_model_image, resize, to_rgb
from beit_mm.viz.model_weights import ModelWeights


def show_attention(args: Namespace) -> None:
    if args.html and args.patch:
        raise ValueError('--patch selects a patch for pictures: remove it, or remove --html')
    weights = ModelWeights(args.checkpoint)
    backbone = weights.backbone(args.heads)
    depth = len(backbone.blocks)
    if args.layer is not None and not 1 <= args.layer <= depth:
        raise ValueError(f'--layer {args.layer}: expected 1 to {depth} for {args.checkpoint}')

    summary = (
        f'{weights.spec.kind} written by {weights.checkpoint.origin}, '
        f'{depth} layers of {backbone.num_heads} heads'
    )
    if not args.heads and weights.spec.rel_pos_bias is None:
        summary += ' (64 channels per head assumed: set --heads)'
    statistics = ', '.join(f'{name} {value}' for name, value in weights.normalization.items())
    notes = [f'images normalized by {statistics}']
    print(f'{args.checkpoint}: {summary}\n{notes[0]}')

    pages = []
    names = [path.name for path in args.images]
    for path in args.images:
        image = read_model_image(path, weights.spec.in_channels)
        patch_size = backbone.patch_size
        size = fit_size(image.shape[:2], args.size or min(weights.spec.img_size), patch_size)
        grid = size[0] // patch_size, size[1] // patch_size
        inputs = normalize(resize(image, size), weights.normalization)
        note = (
            f'{path.name}: {image.shape[1]}×{image.shape[0]} pixels, '
            f'input {size[1]}×{size[0]}, {grid[1]}×{grid[0]} patches'
        )
        shown = to_rgb(image, args.bands)
        if not args.html:
            print(note)
            _write_pictures(args, backbone, path, shown, inputs, grid)
            continue
        maps = explorer.compute_maps(backbone, inputs, explorer.MAX_PAGE_BYTES // len(args.images))
        if maps.factor > 1:
            note += f'; pooled into cells of {maps.factor}×{maps.factor} to limit the page size'
        print(note)
        notes.append(note)
        pages.append((path.name if names.count(path.name) == 1 else str(path), shown, maps))
    if args.html:
        explorer.write_explorer(
            args.html, pages, f'{Path(args.checkpoint).name}: {summary}.', notes
        )
        print(f'{args.html}: {args.html.stat().st_size / 1e6:.1f} MB; open it in a browser')


def _write_pictures(
    args: Namespace,
    backbone: BEiT,
    path: Path,
    image: np.ndarray,
    inputs: Tensor,
    grid: tuple[int, int],
) -> None:
    height, width = image.shape[:2]
    text = args.patch or f'{width // 2},{height // 2}'
    try:
        x, y = map(int, text.split(','))
    except ValueError:
        raise ValueError(f'--patch {text}: expected a pixel X,Y such as 120,80') from None
    patch = row, column = attention.patch_at(x, y, (height, width), grid)
    layer = args.layer or len(backbone.blocks)
    maps = attention.attention_from_patch(backbone, inputs, patch, grid, layer)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f'{path.stem}_layer-{layer:02d}_patch-{column + 1}-{row + 1}'
    for name, values in maps.items():
        picture = attention.draw_attention(image, name, values, patch)
        Image.fromarray(picture).save(args.out / f'{stem}_{name}.png')
    place = f'column {column + 1}, row {row + 1}'
    print(f'  patch in {place}: {len(maps)} pictures, {args.out / stem}_*.png')
