"""Export a trained model: `python tools/export.py CONFIG CHECKPOINT OUT --format {onnx,torch}`.

Exports tokenizers, classifiers, segmentors and backbones; `beit_mm/apis/deploy.py` lists their
outputs. The outputs of the written file are compared with those of the model.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
from pathlib import Path

from command_line import errors_on_one_line, make_parser
from conversion.verify import TOLERANCE
from mmengine.config import Config

from beit_mm.apis import deploy
from beit_mm.checkpoint.loading import load_model
from beit_mm.utils.cfg_options import Options


@errors_on_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('config', help='config of the training')
    add('checkpoint', help='of the training, or of another project for this model')
    add('out', type=Path, help='file to write: .onnx, or .pt2 with --format torch')
    add('--format', choices=list(deploy.FORMATS), default='onnx')
    add('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='default: as in training')
    add('--backbone', action='store_true', help='the backbone alone')
    add('--cfg-options', nargs='+', action=Options, help='KEY=VALUE … of the config')
    args = parser.parse_args(arguments)
    suffix = deploy.FORMATS[args.format]
    if args.out.suffix != suffix:
        parser.error(f'OUT={args.out}: expected a file that ends with {suffix} for {args.format}')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    deployed = deploy.Deployed(load_model(cfg, args.checkpoint), args.backbone).eval()
    size = tuple(args.size or deploy.image_size(deployed))
    deploy.export(deployed, args.out, args.format, size)
    free = f'{size[0]}×{size[1]}'
    if deployed.any_size:
        free = f'any multiple of {deployed.model.stride}'
    order = ' RGB' if deployed.channels == 3 else ''
    image = f'float32 [B, {deployed.channels}, H, W]{order} 0 … 255 of {free}'
    print(f'{args.out}: a {deployed.kind}, image {image} → {", ".join(deployed.names)}')
    difference = deploy.largest_difference(deployed, args.out, args.format, size)
    print(f'difference={difference:.3g} of the largest output')
    if not difference <= TOLERANCE:
        raise ValueError(
            f'the outputs of the file differ from those of the model by {difference:.3g} of '
            f'the largest output, expected at most {TOLERANCE}: try --format torch or another '
            'version of torch'
        )


if __name__ == '__main__':
    main()
