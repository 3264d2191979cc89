"""Look inside a model with images of your own; docs/look.md shows what one sees.

python tools/visualize.py attention IMAGE… --checkpoint C [--patch X,Y] [--layer L] [--html PAGE]
python tools/visualize.py fill IMAGE… --checkpoint C --tokenizer T
python tools/visualize.py tokens IMAGE… --tokenizer T
python tools/visualize.py segment CONFIG C IMAGE… [--labels FOLDER]

Checkpoints are those of any project, as docs/checkpoints.md lists them; a file of this project's, a Hugging Face folder, a URL.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import cv2
import torch

from beit_mm.viz import attention, draw, explorer, fill, page, tokens
from beit_mm.viz.inputs import Weights, fitting_size, normalised, read_image, resized, shown, words

_KINDS = dict(
    backbone='a backbone',
    mim='masked image modeling',
    classifier='a classifier',
    segmentor='a segmentor',
)


def parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest='verb', required=True)
    look = verbs.add_parser('attention', help='what a patch attends to, in each head and layer')
    look.add_argument('images', nargs='+', metavar='IMAGE')
    look.add_argument('--checkpoint', required=True, help='a BEiT of any origin')
    look.add_argument(
        '--patch',
        metavar='X,Y',
        help='a pixel of the image; the patch around it is taken (default: the middle)',
    )
    look.add_argument('--layer', type=int, metavar='L', help='from 1 on (default: the last)')
    look.add_argument(
        '--size',
        type=int,
        help="the image's shorter side in pixels (default: as positions were learned)",
    )
    look.add_argument(
        '--heads',
        type=int,
        help='how many, where absolute positions do not tell (default: one for 64 channels)',
    )
    look.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/attention'),
        help='folder for the pictures (%(default)s)',
    )
    look.add_argument(
        '--html',
        type=Path,
        metavar='PAGE',
        help='in place of pictures one page to explore all patches',
    )
    guess = verbs.add_parser('fill', help='what pre-training guesses under several masks')
    guess.add_argument('images', nargs='+', metavar='IMAGE')
    guess.add_argument(
        '--checkpoint', required=True, help='of masked image modeling, with its head'
    )
    guess.add_argument(
        '--tokenizer', required=True, help='the checkpoint of the tokenizer whose tokens it learned'
    )
    guess.add_argument(
        '--ratios',
        type=float,
        nargs='+',
        default=[0.2, 0.4, 0.6],
        help='of hidden patches (0.2 0.4 0.6)',
    )
    guess.add_argument('--masks', type=int, default=2, help='of each ratio (%(default)s)')
    guess.add_argument('--seed', type=int, default=0, help='of the masks (%(default)s)')
    guess.add_argument(
        '--out', type=Path, default=Path('work_dirs/fill.html'), help='page (%(default)s)'
    )
    code = verbs.add_parser(
        'tokens', help='tokens of images, what they keep, and the use of the codebook'
    )
    code.add_argument('images', nargs='+', metavar='IMAGE')
    code.add_argument('--tokenizer', required=True, help="its checkpoint, or DALL-E's folder")
    code.add_argument(
        '--size', type=int, help="the image's shorter side in pixels (default: 14 tokens)"
    )
    code.add_argument(
        '--out', type=Path, default=Path('work_dirs/tokens.html'), help='page (%(default)s)'
    )
    segment = verbs.add_parser('segment', help='classes over the image, and where they are wrong')
    segment.add_argument('config', metavar='CONFIG')
    segment.add_argument('checkpoint', metavar='CHECKPOINT')
    segment.add_argument('images', nargs='+', metavar='IMAGE')
    segment.add_argument(
        '--labels', type=Path, metavar='FOLDER', help='of label maps, NAME OF THE IMAGE.png'
    )
    segment.add_argument(
        '--out', type=Path, default=Path('work_dirs/segment.html'), help='page (%(default)s)'
    )
    for verb in (look, guess, code, segment):
        words = 'channels to draw as red, green and blue, from 1 on (default: the first three)'
        verb.add_argument('--bands', type=int, nargs=3, metavar=('R', 'G', 'B'), help=words)
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    verb = dict(attention=_attention, fill=_fill, tokens=_tokens, segment=_segment)[args.verb]
    try:
        for option in ('size', 'masks', 'heads'):
            if getattr(args, option, None) is not None and getattr(args, option) < 1:
                raise ValueError(f'--{option} {getattr(args, option)}: at least 1')
        verb(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')


def _attention(args: Namespace) -> None:
    weights = Weights(args.checkpoint)
    backbone, side = weights.backbone(args.heads), weights.facts.patch_size
    depth = len(backbone.blocks)
    layer = depth if args.layer is None else args.layer
    if not 1 <= layer <= depth:
        raise ValueError(f'--layer {args.layer}: {args.checkpoint} has the layers 1 … {depth}')
    if args.html and args.patch:
        raise ValueError('--patch is for pictures: in the page of --html every patch can be chosen')
    told = f'{_KINDS[weights.facts.kind]} written by {weights.origin}, {depth} layers of {backbone.num_heads} heads'
    if not args.heads and weights.facts.rel_pos_bias is None:
        told += ' (taken as one for 64 channels, since nothing tells: --heads)'
    print(f'{args.checkpoint}: {told}')
    pages, notes = (
        {},
        ['images normalised by ' + ', '.join(f'{k} {v}' for k, v in weights.normalization.items())],
    )
    print(notes[0])
    for path in args.images:
        image = read_image(path, weights.facts.in_channels)
        size = fitting_size(image.shape[:2], args.size or min(weights.facts.img_size), side)
        grid = size[0] // side, size[1] // side
        inputs = normalised(resized(image, size), weights.normalization)
        notes.append(words(path, image, size, grid))
        if not args.html:
            print(notes[-1])
            _pictures(args, backbone, Path(path), shown(image, args.bands), inputs, grid, layer)
            continue
        maps = explorer.read(backbone, inputs, explorer.LIMIT // len(args.images))
        if maps.factor > 1:
            notes[-1] += (
                f'; in cells of {maps.factor}×{maps.factor}, so that the maps stay under {explorer.LIMIT // 10**6} MB'
            )
        print(notes[-1])
        name, count = Path(path).name, 2
        while name in pages:  # of another folder
            name, count = f'{Path(path).name} ({count})', count + 1
        pages[name] = shown(image, args.bands), maps
    if args.html:
        explorer.write(args.html, pages, f'{Path(args.checkpoint).name}: {told}.', notes)
        print(f'{args.html}: {args.html.stat().st_size / 1e6:.1f} MB; open it in a browser')


def _pictures(
    args: Namespace,
    backbone,
    path: Path,
    image,
    inputs: torch.Tensor,
    grid: tuple[int, int],
    layer: int,
) -> None:
    """Each head's map of one patch over the image, their mean, and the rollout, in files of their own."""
    height, width = image.shape[:2]
    x, y = width // 2, height // 2
    if args.patch:
        try:
            x, y = map(int, args.patch.split(','))
        except ValueError:
            raise ValueError(
                f'--patch {args.patch}: give a pixel as X,Y, e.g. --patch {x},{y}'
            ) from None
    row, column = attention.patch_at(x, y, (height, width), grid)
    place = 1 + row * grid[1] + column
    found = attention.attention_of_blocks(
        backbone, inputs, lambda each: (each[0, :, place, 1:], each[0].mean(0))
    )
    heads = found[layer - 1][0]
    through = attention.attention_rollout([mean for _, mean in found[:layer]])[-1][place, 1:]
    maps = dict(
        mean=heads.mean(0),
        rollout=through,
        **{f'head-{i:02d}': head for i, head in enumerate(heads, 1)},
    )
    args.out.mkdir(parents=True, exist_ok=True)
    others = through[torch.arange(len(through)) != place - 1]
    for name, shares in maps.items():
        brightest = others.max().item() if name == 'rollout' and len(others) else None
        drawn = draw.outline(
            draw.heat(image, shares.view(grid).numpy(), brightest), (row, column), grid
        )
        target = args.out / f'{path.stem}_layer-{layer:02d}_patch-{column + 1}-{row + 1}_{name}.png'
        cv2.imwrite(str(target), drawn[..., ::-1])
    print(
        f'  patch in column {column + 1}, row {row + 1}: {len(maps)} pictures, {target.parent / target.name.replace(name, "*")}'
    )


def _fill(args: Namespace) -> None:
    weights, codes = Weights(args.checkpoint), Weights(args.tokenizer)
    backbone, head, tokenizer = weights.backbone(), weights.mim_head(), codes.tokenizer()
    if head.out_features != tokenizer.vocab_size:
        raise ValueError(
            f'{args.checkpoint} predicts {head.out_features} channels, {args.tokenizer} has {tokenizer.vocab_size} codes: '
            'give the tokenizer that it was trained with'
        )
    learned = weights.learned_fingerprint()
    if learned and learned != codes.token_target().fingerprint():
        raise ValueError(
            f'{args.checkpoint} learned the tokens of another tokenizer than {args.tokenizer}: give the one that '
            'model.target.checkpoint of its run named'
        )
    masks = fill.masks_of(args.ratios, args.masks, backbone.grid, args.seed)
    parts = ['<h1>What pre-training guesses</h1><p>Above what BEiT sees, below what the tokenizer draws: from the true tokens, '
             'and with the likeliest guess in each hidden place; visible tokens are as they are.</p>']  # fmt: skip
    for path in args.images:
        parts.append(f'<h2>{draw.text(Path(path).name)}</h2>')
        image = read_image(path, weights.facts.in_channels)
        parts.append(
            fill.table(backbone, head, tokenizer, image, masks, weights.normalization, args.bands)
        )
    _write(args.out, 'What pre-training guesses', parts)


def _tokens(args: Namespace) -> None:
    tokenizer = Weights(args.tokenizer).tokenizer()
    images = {}
    for path in args.images:
        image = read_image(path, tokenizer.in_channels)
        size = fitting_size(image.shape[:2], args.size or 14 * tokenizer.stride, tokenizer.stride)
        images[path] = resized(image, size, 'lanczos')
    _write(
        args.out,
        'What the tokenizer keeps',
        ['<h1>What the tokenizer keeps</h1>', *tokens.sections(tokenizer, images, args.bands)],
    )


def _segment(args: Namespace) -> None:
    from mmengine.config import Config

    import beit_mm.registry  # noqa: F401  before mmseg
    from beit_mm.viz import segments  # mmseg is needed for this alone

    if not Path(args.config).is_file():
        raise FileNotFoundError(f'no config at {args.config}')
    model, parts, seen, matrix = (
        segments.Segmentor(Config.fromfile(args.config), args.checkpoint),
        [],
        set(),
        0,
    )
    for path in args.images:
        labels = args.labels / f'{Path(path).stem}.png' if args.labels else None
        image = shown(read_image(path, model.channels), args.bands)
        scene = segments.scene(model, path, image, labels)
        print(scene.text)
        seen |= scene.classes
        parts.append(
            f'<h3>{draw.text(scene.text)}</h3>{draw.picture_table(scene.columns, [scene.pictures])}'
        )
        if args.labels:
            matrix = matrix + scene.confusion
    colours = {model.classes[i]: 'rgb({},{},{})'.format(*model.palette[i]) for i in sorted(seen)}
    if args.labels:
        colours['errors: another class than the truth'] = 'rgb({},{},{})'.format(*model.error_color)
        words = f'all images: mIoU {segments.mean_iou(matrix)}'
        print(words)
        rows = [
            (model.classes[i], f'{segments.iou(matrix)[i]:.1%}', str(matrix[i].sum()))
            for i in sorted(seen)
        ]
        parts.append(
            f'<h2>{draw.text(words)}</h2>' + draw.text_table(['class', 'IoU', 'pixels'], rows)
        )
    _write(
        args.out,
        'What the segmentor sees',
        ['<h1>What the segmentor sees</h1>', draw.legend(colours), *parts],
    )


def _write(path: Path, title: str, parts: list[str]) -> None:
    page.write(path, title, parts)
    print(f'{path}: open it in a browser')


if __name__ == '__main__':
    main()
