"""Show what a model does with your images; docs/look.md explains the pictures.

python tools/visualize.py attention IMAGE… --checkpoint C [--patch X,Y] [--layer L] [--html PAGE]
python tools/visualize.py fill IMAGE… --checkpoint C --tokenizer T
python tools/visualize.py tokens IMAGE… --tokenizer T
python tools/visualize.py segment CONFIG C IMAGE… [--labels FOLDER]

A checkpoint may come from any project in docs/checkpoints.md: a file, a Hugging Face folder, a URL.
"""

from argparse import ArgumentParser
from pathlib import Path

from command_line import errors_on_one_line, make_parser, positive
from visualization import attention, models


def make_visualize_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest='command', required=True)

    def add(name: str, help: str, out: str, *positionals: str) -> ArgumentParser:
        command = commands.add_parser(name, help=help)
        for positional in positionals:
            command.add_argument(positional, metavar=positional.upper())
        command.add_argument('images', type=Path, nargs='+', metavar='IMAGE')
        command.add_argument('--out', type=Path, default=Path(out), help='(%(default)s)')
        bands = 'channels to draw as red, green and blue, counted from 1 (the first three)'
        command.add_argument('--bands', type=int, nargs=3, metavar=('R', 'G', 'B'), help=bands)
        return command

    command = add('attention', 'what a patch attends to in each head', 'work_dirs/attention')
    command.set_defaults(run=attention.show_attention)
    command.add_argument('--checkpoint', required=True, help='a BEiT of any project')
    command.add_argument('--patch', metavar='X,Y', help='a pixel in the patch (the middle)')
    command.add_argument('--layer', type=int, metavar='L', help='1 is the first (the last)')
    command.add_argument('--size', type=positive, help='shorter side in pixels (as in training)')
    command.add_argument('--heads', type=positive, help='number of heads (64 channels per head)')
    command.add_argument('--html', type=Path, metavar='PAGE', help='write a page for all patches')

    command = add('fill', 'what pre-training predicts under masks', 'work_dirs/fill.html')
    command.set_defaults(run=models.fill)
    command.add_argument('--checkpoint', required=True, help='a pre-training with its head')
    command.add_argument('--tokenizer', required=True, help='the tokenizer of this pre-training')
    config = 'of a tokenizer of your own'
    command.add_argument('--config', type=Path, help=config)
    ratios = [0.2, 0.4, 0.6]
    command.add_argument('--ratios', type=float, nargs='+', default=ratios, help='masked patches')
    command.add_argument('--masks', type=positive, default=2, help='per ratio (%(default)s)')
    command.add_argument('--seed', type=int, default=0, help='of the masks (%(default)s)')

    command = add('tokens', 'tokens, reconstructions, use of the codes', 'work_dirs/tokens.html')
    command.set_defaults(run=models.tokens)
    command.add_argument('--tokenizer', required=True, help="a checkpoint, or DALL-E's folder")
    command.add_argument('--config', type=Path, help=config)
    command.add_argument('--size', type=positive, help='shorter side in pixels (14 tokens)')

    names = 'config', 'checkpoint'
    command = add('segment', 'predicted classes and errors', 'work_dirs/segment.html', *names)
    command.set_defaults(run=models.segment)
    command.add_argument('--labels', type=Path, metavar='FOLDER', help='of label maps IMAGE.png')
    return parser


@errors_on_one_line()
def main(arguments: list[str] | None = None) -> None:
    args = make_visualize_parser().parse_args(arguments)
    args.run(args)
    if args.out.suffix == '.html':
        print(f'{args.out}: open it in a browser')


if __name__ == '__main__':
    main()
