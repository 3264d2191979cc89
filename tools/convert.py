"""Convert a checkpoint of BEiT between projects: `python tools/convert.py SRC DST --to PROJECT`.

SRC is a file, a folder, a URL or a name of the official code, Hugging Face, timm, mmpretrain,
mmseg, DALL-E or this project. DST is a file, for Hugging Face a folder. See docs/checkpoints.md.

--verify runs the models of SRC and DST on one random image (and mask) in float32. The exit code is
1 if an output differs by more than 1e-4 of the largest output. Each model comes from its own
library: transformers (for folders), timm, mmpretrain, mmseg. Otherwise, and for SRC with
--backbone, it is this project's model. The line "verified: …" states which.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
from pathlib import Path

from command_line import errors_on_one_line, make_parser
from conversion.card import write_card

from beit_mm.checkpoint import read_checkpoint
from beit_mm.checkpoint.export import TARGETS, export_checkpoint
from beit_mm.checkpoint.fit import BACKBONE_PARTS
from beit_mm.checkpoint.parse import Checkpoint
from beit_mm.utils.arguments import join_names

KNOWN = (
    'backbone', 'head', 'neck', 'decode_head', 'auxiliary_head', 'encoder', 'decoder',
    'encoder_head', 'decoder_head', 'codebook',
)  # fmt: skip


@errors_on_one_line(RuntimeError)
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('src', metavar='SRC', help='file, folder, URL or name to read')
    add('dst', metavar='DST', type=Path, help='file to write; a folder for hf')
    add('--to', required=True, choices=list(TARGETS), help='project to write for')
    add('--format', choices=['safetensors', 'pth'], help='default: safetensors for hf, else pth')
    add('--backbone', action='store_true', help='convert the backbone alone')
    add('--verify', action='store_true', help='compare the outputs; exit with 1 if they differ')
    args = parser.parse_args(arguments)

    checkpoint = read_checkpoint(args.src)
    remove_unknown_parts(checkpoint, args.backbone)
    safetensors = args.format == 'safetensors' or (args.to == 'hf' and not args.format)
    spec, notes = export_checkpoint(
        checkpoint.state, args.to, args.dst, checkpoint.meta, safetensors
    )
    if args.to == 'hf':
        write_card(args.dst, checkpoint, spec)
    skipped = {k: why for k, why in checkpoint.skipped.items() if not k.endswith('_index')}
    notes = [f'skipped: {key} ({why})' for key, why in skipped.items()] + notes
    if indices := checkpoint.meta.get('out_indices'):
        notes.append(
            f'{checkpoint.origin} reads blocks {indices}: set backbone.out_indices to this'
        )
    title = f'{args.src}, a {spec.kind} written by {checkpoint.origin} → {args.dst}, for {args.to}'
    print(title, *notes, sep='\n  ')
    if args.verify:
        from conversion.verify import verify

        verify(checkpoint, args.to, args.dst, args.backbone)


def remove_unknown_parts(checkpoint: Checkpoint, backbone_only: bool) -> None:
    """Reduce a checkpoint to its backbone with --backbone; otherwise refuse unknown parts."""
    parts = {}  # key → its first name that BEiT does not have
    for key in checkpoint.state:
        first, second, *_ = *key.split('.'), ''
        if first not in KNOWN:
            parts[key] = first
        elif first == 'backbone' and second not in BACKBONE_PARTS:
            parts[key] = second
    names = sorted(set(parts.values()))
    if names and not backbone_only:
        raise ValueError(
            f'{checkpoint.source}: BEiT has no {join_names(names)}, which an adapter may have '
            'added. To convert the backbone alone, pass --backbone'
        )
    if backbone_only:
        state = {f'backbone.{key}': value for key, value in checkpoint.part('backbone.').items()}
        checkpoint.state = {key: value for key, value in state.items() if key not in parts}
        checkpoint.skipped |= {f'{name}.*': 'BEiT has no such part' for name in names}


if __name__ == '__main__':
    main()
