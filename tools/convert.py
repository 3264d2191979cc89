"""Convert a BEiT checkpoint from any project to any other: `python tools/convert.py SRC DST --to PROJECT`.

SRC is a file, a URL or a Hugging Face folder of the official code, Hugging Face, timm, mmpretrain, mmseg, DALL-E or this
project; DST a file, for Hugging Face a folder. docs/checkpoints.md shows a command for each.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import sys
from argparse import ArgumentParser
from pathlib import Path

import torch

from beit_mm.checkpoint import load_with_meta
from beit_mm.checkpoint.export import TARGETS, export
from beit_mm.checkpoint.facts import Facts
from beit_mm.checkpoint.fit import PARTS, few


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('src', metavar='SRC', help='file, URL or folder to read')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write; a folder with --to hf')
    parser.add_argument('--to', required=True, choices=list(TARGETS), help='who shall read it')
    parser.add_argument('--format', choices=['safetensors', 'pth'], help='default: safetensors for hf, pth otherwise')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    parser.add_argument(
        '--verify', action='store_true', help='run both models on a random image, print their difference'
    )
    args = parser.parse_args(arguments)
    try:
        _convert(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')


def _convert(args) -> None:
    state, origin, left, meta = load_with_meta(args.src)
    alien = sorted({k.split('.')[1] for k in state if k.startswith('backbone.') and k.split('.')[1] not in PARTS})
    if alien and not args.backbone:
        raise ValueError(
            f'{args.src}: BEiT has no {few(alien)}, which an adapter adds: --backbone takes the backbone without it'
        )
    if args.backbone:
        state = {k: v for k, v in state.items() if k.startswith('backbone.') and k.split('.')[1] not in alien}
        left |= {f'backbone.{part}.*': 'BEiT has no such part' for part in alien}
    safetensors = (args.format or ('safetensors' if args.to == 'hf' else 'pth')) == 'safetensors'
    facts, notes = export(state, args.to, args.dst, meta, safetensors)
    notes = [f'left out: {key} ({why})' for key, why in left.items() if not key.endswith('_index')] + notes
    if 'taps' in meta:
        notes.append(f'{origin} reads the output of blocks {meta["taps"]}: set backbone.out_indices to that')
    print(f'{args.src}, a {facts.kind} written by {origin} → {args.dst}, for {args.to}', *notes, sep='\n  ')
    if args.verify:
        print(f'max_abs_diff={_difference(args, state, origin, facts, meta.get("taps")):.3g}')


@torch.no_grad()
def _difference(args, state: dict, origin: str, facts: Facts, taps: list[int] | None) -> float:
    """Between the model that read SRC and the one that reads DST, each of its own project where that is a library."""
    from beit_mm.checkpoint.export import fit_target
    from beit_mm.checkpoint.facts import describe
    from beit_mm.checkpoint.peers import ours, peer

    generator = torch.Generator().manual_seed(0)
    size = (112, 112) if facts.kind == 'tokenizer' else facts.img_size
    image = torch.rand(1, 3, *size, generator=generator)
    mask = torch.rand(1, *facts.grid, generator=generator) < 0.4
    source_state = fit_target(state, describe(state), args.to)[0]
    source = None if args.backbone or args.to != 'beit_mm' else peer(origin, Path(args.src), facts)
    target = peer(args.to, args.dst, facts)
    names = [origin if source else 'ours', args.to if target else 'ours']
    source, target = source or ours(source_state), target or ours(load_with_meta(str(args.dst))[0], taps=taps)
    print(f'verified: {names[0]} on {args.src}, {names[1]} on {args.dst}')
    return (source(image, mask) - target(image, mask)).abs().max().item()


if __name__ == '__main__':
    main()
