"""Convert a BEiT checkpoint from any project to any other: `python tools/convert.py SRC DST --to PROJECT`.

SRC is a file, a URL or a Hugging Face folder of the official code, Hugging Face, timm, mmpretrain, mmseg, DALL-E or this
project; DST a file, for Hugging Face a folder. docs/checkpoints.md shows a command for each.

--verify runs the model of SRC and the model of DST on one random image (and mask), in float32. It exits with 1 if an output
differs by more than 1e-4 of the largest output. Each model is that of its own library if there is one: transformers (its
folders), timm, mmpretrain, mmseg. Otherwise, and for SRC with --backbone, it is this project's model with the weights as they
were read; the line "verified: …" says which.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import torch

from beit_mm.checkpoint import load_with_meta
from beit_mm.checkpoint.download import local_path
from beit_mm.checkpoint.export import TARGETS, export
from beit_mm.checkpoint.facts import Facts
from beit_mm.checkpoint.fit import PARTS
from beit_mm.utils.arguments import join_names

TOLERANCE = 1e-4  # of the largest output


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='file, URL or folder to read')
    parser.add_argument(
        'dst', metavar='DST', type=Path, help='file to write; a folder with --to hf'
    )
    parser.add_argument('--to', required=True, choices=list(TARGETS), help='who shall read it')
    parser.add_argument(
        '--format',
        choices=['safetensors', 'pth'],
        help='default: safetensors for hf, pth otherwise',
    )
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    parser.add_argument(
        '--verify',
        action='store_true',
        help='compare the outputs of both models; exit with 1 if they differ',
    )
    args = parser.parse_args(arguments)
    try:
        _convert(args)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')


def _convert(args) -> None:
    state, origin, left, meta = load_with_meta(args.src)
    alien = sorted(
        {
            k.split('.')[1]
            for k in state
            if k.startswith('backbone.') and k.split('.')[1] not in PARTS
        }
    )
    if alien and not args.backbone:
        raise ValueError(
            f'{args.src}: BEiT has no {join_names(alien)}, which an adapter adds: --backbone takes the backbone without it'
        )
    if args.backbone:
        state = {
            k: v
            for k, v in state.items()
            if k.startswith('backbone.') and k.split('.')[1] not in alien
        }
        left |= {f'backbone.{part}.*': 'BEiT has no such part' for part in alien}
    safetensors = (args.format or ('safetensors' if args.to == 'hf' else 'pth')) == 'safetensors'
    facts, notes = export(state, args.to, args.dst, meta, safetensors)
    notes = [
        f'left out: {key} ({why})' for key, why in left.items() if not key.endswith('_index')
    ] + notes
    if 'taps' in meta:
        notes.append(
            f'{origin} reads the output of blocks {meta["taps"]}: set backbone.out_indices to that'
        )
    print(
        f'{args.src}, a {facts.kind} written by {origin} → {args.dst}, for {args.to}',
        *notes,
        sep='\n  ',
    )
    if args.verify:
        difference, largest = _difference(args, state, origin, facts, meta)
        print(f'max_abs_diff={difference:.3g}')
        if not difference <= TOLERANCE * largest:  # also for NaN
            raise ValueError(
                f'the outputs of {args.src} and {args.dst} differ by {difference:.3g}, more than {TOLERANCE:g} of the largest '
                f'({largest:.3g}): do not use {args.dst}'
            )


@torch.no_grad()
def _difference(args, state: dict, origin: str, facts: Facts, meta: dict) -> tuple[float, float]:
    """Return the largest difference between the outputs of the models of SRC and DST, and the largest output."""
    from beit_mm.checkpoint.export import fit_target
    from beit_mm.checkpoint.facts import describe
    from beit_mm.checkpoint.peers import ours, peer

    generator = torch.Generator().manual_seed(0)
    size = (112, 112) if facts.kind == 'tokenizer' else facts.img_size
    image = torch.rand(1, facts.in_channels, *size, generator=generator)
    mask = torch.rand(1, *facts.grid, generator=generator) < 0.4
    heads = meta.get('num_heads')
    source_facts = describe(state, heads)
    comparable = (
        not args.backbone and source_facts.out_type == facts.out_type
    )  # mmseg's backbone has no last norm
    source, name = None, 'ours'
    if comparable and (path := _library_path(args.src, origin)):
        try:
            source = peer(origin, path, source_facts)
        except ImportError as error:
            name = f'ours ({error})'
    target = peer(args.to, args.dst, facts)
    print(
        f'verified: {origin if source else name} on {args.src}, {args.to if target else "ours"} on {args.dst}'
    )
    source = source or ours(fit_target(state, source_facts, args.to)[0], heads=heads)
    target = target or ours(load_with_meta(str(args.dst))[0], taps=meta.get('taps'), heads=heads)
    expected = source(image, mask)
    return (expected - target(image, mask)).abs().max().item(), expected.abs().max().item()


def _library_path(source: str, origin: str) -> str | Path | None:
    """Return SRC as its library reads it. Hugging Face's needs a folder with config.json; None without."""
    if origin != 'hf':
        return source
    path = local_path(source)
    folder = path.parent if path.is_file() else path
    return folder if (folder / 'config.json').is_file() else None


if __name__ == '__main__':
    main()
