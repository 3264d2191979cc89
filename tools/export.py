"""Export a trained model for other runtimes: `python tools/export.py CONFIG CHECKPOINT OUT --format {onnx,torch}`.

Tokenizers, classifiers, segmentors, and backbones; what goes in and comes out is in `beit_mm/apis/deploy.py`. The file is
run beside the model before this ends.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import sys
from argparse import ArgumentParser
from pathlib import Path

from mmengine.config import Config

from beit_mm.apis import deploy
from beit_mm.checkpoint.loading import load_model
from beit_mm.utils.cfg_options import Options

TOLERANCE = 1e-4


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config', help='what the model was trained with')
    parser.add_argument(
        'checkpoint', help='what training wrote, or another project, for the same model'
    )
    parser.add_argument('out', type=Path, help='file to write: .onnx, or .pt2 with --format torch')
    parser.add_argument('--format', choices=list(deploy.FORMATS), default='onnx')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='default: what it was trained for',
    )
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, help='KEY=VALUE … over the config'
    )
    args = parser.parse_args(arguments)
    if args.out.suffix != deploy.FORMATS[args.format]:
        parser.error(
            f'OUT={args.out}: a file of --format {args.format} ends with {deploy.FORMATS[args.format]}'
        )
    try:
        _export(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')


def _export(args) -> None:
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    deployed = deploy.Deployed(load_model(cfg, args.checkpoint), args.backbone).eval()
    size = tuple(args.size or deploy.size_of(deployed))
    deploy.export(deployed, args.out, args.format, size)
    free = (
        f'any multiple of {deployed.model.stride}'
        if deployed.kind == 'tokenizer'
        else f'{size[0]}×{size[1]}'
    )
    image = f'float32 [B, {deployed.channels}, H, W]{" RGB" if deployed.channels == 3 else ""} 0 … 255 of {free}'
    print(f'{args.out}: a {deployed.kind}, image {image} → {", ".join(deployed.names)}')
    found = deploy.difference(deployed, args.out, args.format, size)
    print(f'difference={found:.3g} of the largest output')
    if not found <= TOLERANCE:
        sys.exit(
            f'error: the file computes something else than the model, by {found:.3g} of its largest output, {TOLERANCE} is allowed'
        )


if __name__ == '__main__':
    main()
