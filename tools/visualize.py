"""Show what a model does with your images; docs/look.md explains the pictures.

python tools/visualize.py attention IMAGE… --checkpoint C [--patch X,Y] [--layer L] [--html PAGE]
python tools/visualize.py fill IMAGE… --checkpoint C --tokenizer T
python tools/visualize.py tokens IMAGE… --tokenizer T
python tools/visualize.py segment CONFIG C IMAGE… [--labels FOLDER]

A checkpoint may come from any project in docs/checkpoints.md: a file, a Hugging Face folder, a URL.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from mmengine.config import Config
from PIL import Image

from beit_mm.viz import attention, explorer, fill, tokens
from beit_mm.viz.inputs import fit_size, normalize, read_image, resize, to_rgb
from beit_mm.viz.model_weights import ModelWeights
from beit_mm.viz.pages import write_page


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)

    def add(name: str, help: str, out: str, *positionals: str) -> ArgumentParser:
        command = commands.add_parser(name, help=help)
        for positional in positionals:
            command.add_argument(positional, metavar=positional.upper())
        command.add_argument('images', type=Path, nargs='+', metavar='IMAGE')
        command.add_argument('--out', type=Path, default=Path(out), help='(%(default)s)')
        command.add_argument(
            '--bands',
            type=int,
            nargs=3,
            metavar=('R', 'G', 'B'),
            help='channels to draw as red, green and blue, counted from 1 (the first three)',
        )
        return command

    command = add('attention', 'what a patch attends to in each head', 'work_dirs/attention')
    command.add_argument('--checkpoint', required=True, help='a BEiT of any project')
    command.add_argument('--patch', metavar='X,Y', help='a pixel in the patch (the middle)')
    command.add_argument('--layer', type=int, metavar='L', help='1 is the first (the last)')
    command.add_argument('--size', type=int, help='shorter side in pixels (as in training)')
    command.add_argument('--heads', type=int, help='number of heads (64 channels per head)')
    command.add_argument('--html', type=Path, metavar='PAGE', help='write a page for all patches')

    command = add('fill', 'what pre-training predicts under masks', 'work_dirs/fill.html')
    command.add_argument('--checkpoint', required=True, help='a pre-training with its head')
    command.add_argument('--tokenizer', required=True, help='the tokenizer of this pre-training')
    command.add_argument(
        '--ratios', type=float, nargs='+', default=[0.2, 0.4, 0.6], help='of masked patches'
    )
    command.add_argument('--masks', type=int, default=2, help='per ratio (%(default)s)')
    command.add_argument('--seed', type=int, default=0, help='of the masks (%(default)s)')

    command = add('tokens', 'tokens, reconstructions, use of the codes', 'work_dirs/tokens.html')
    command.add_argument('--tokenizer', required=True, help="a checkpoint, or DALL-E's folder")
    command.add_argument('--size', type=int, help='shorter side in pixels (14 tokens)')

    command = add(
        'segment', 'predicted classes and errors', 'work_dirs/segment.html', 'config', 'checkpoint'
    )
    command.add_argument('--labels', type=Path, metavar='FOLDER', help='of label maps IMAGE.png')
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = make_parser().parse_args(arguments)
    commands = dict(attention=_attention, fill=_fill, tokens=_tokens, segment=_segment)
    try:
        for option in ('size', 'masks', 'heads'):
            value = getattr(args, option, None)
            if value is not None and value < 1:
                raise ValueError(f'--{option} {value}: expected at least 1')
        commands[args.command](args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')
    if args.out.suffix == '.html':
        print(f'{args.out}: open it in a browser')


def _attention(args: Namespace) -> None:
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
        image = read_image(path, weights.spec.in_channels)
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
        limit = explorer.MAX_PAGE_BYTES // len(args.images)
        maps = explorer.compute_maps(backbone, inputs, limit)
        if maps.factor > 1:
            note += f'; pooled into cells of {maps.factor}×{maps.factor} to limit the page size'
        print(note)
        notes.append(note)
        name = path.name if names.count(path.name) == 1 else str(path)
        pages.append((name, shown, maps))
    if args.html:
        source_note = f'{Path(args.checkpoint).name}: {summary}.'
        explorer.write_explorer(args.html, pages, source_note, notes)
        megabytes = args.html.stat().st_size / 1e6
        print(f'{args.html}: {megabytes:.1f} MB; open it in a browser')


def _write_pictures(args: Namespace, backbone, path: Path, image, inputs, grid) -> None:
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


def _fill(args: Namespace) -> None:
    weights, codes = ModelWeights(args.checkpoint), ModelWeights(args.tokenizer)
    backbone, head, tokenizer = weights.backbone(), weights.mim_head(), codes.tokenizer()
    if head.out_features != tokenizer.vocab_size:
        raise ValueError(
            f'{args.checkpoint} predicts {head.out_features} codes, {args.tokenizer} has '
            f'{tokenizer.vocab_size}: pass the tokenizer of this pre-training'
        )
    fingerprint = weights.target_fingerprint()
    if fingerprint and fingerprint != codes.tokenizer_fingerprint():
        raise ValueError(
            f'{args.checkpoint} was trained with another tokenizer than {args.tokenizer}: pass '
            'the checkpoint that model.target.checkpoint of its config names'
        )
    masks = fill.make_masks(args.ratios, args.masks, backbone.grid, args.seed)
    images = []
    for path in args.images:
        image = read_image(path, weights.spec.in_channels)
        columns, rows = fill.draw_filled(
            backbone, head, tokenizer, image, masks, weights.normalization, args.bands
        )
        images.append(dict(name=path.name, columns=columns, rows=rows))
    write_page(args.out, 'fill.html', title='What pre-training predicts', images=images)


def _tokens(args: Namespace) -> None:
    tokenizer = ModelWeights(args.tokenizer).tokenizer()
    stride = tokenizer.stride
    images = {}
    for path in args.images:
        image = read_image(path, tokenizer.in_channels)
        size = fit_size(image.shape[:2], args.size or 14 * stride, stride)
        images[str(path)] = resize(image, size, 'lanczos')
    tokens.write_tokens(args.out, tokenizer, images, args.bands)


def _segment(args: Namespace) -> None:
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'{args.config} not found: expected a config')
    import beit_mm.registry  # noqa: F401  before mmseg
    from beit_mm.viz import segments  # needs mmseg

    model = segments.Segmentor(Config.fromfile(args.config), args.checkpoint)
    segments.write_segments(args.out, model, args.images, args.labels, args.bands)


if __name__ == '__main__':
    main()
