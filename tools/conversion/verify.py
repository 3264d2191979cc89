"""Compare the model of a source file with the model of its converted file."""

from pathlib import Path

import torch

from beit_mm.checkpoint.download import get_local_path
from beit_mm.checkpoint.export import fit_target
from beit_mm.checkpoint.model_spec import infer_spec
from beit_mm.checkpoint.parse import Checkpoint, read_checkpoint

from .libraries import library_model, our_model

TOLERANCE = 1e-4  # of the largest output


@torch.no_grad()
def verify(checkpoint: Checkpoint, target: str, path: Path, backbone_only: bool) -> None:
    """Run both models on one random image and mask, and print the largest difference.

    Raises ValueError if an output differs by more than TOLERANCE of the largest output.
    """
    num_heads = checkpoint.meta.get('num_heads')
    spec = infer_spec(checkpoint.state, num_heads)
    fitted, _ = fit_target(checkpoint.state, spec, target)
    target_spec = infer_spec(fitted, num_heads)
    generator = torch.Generator().manual_seed(0)
    size = (112, 112) if spec.kind == 'tokenizer' else spec.img_size
    image = torch.rand(1, spec.in_channels, *size, generator=generator)
    mask = torch.rand(1, *spec.grid, generator=generator) < 0.4

    source_model, source_name = None, 'ours'
    # mmseg's backbone has no last norm, and most libraries lack patch aggregation: then the output
    # of the source's library is not comparable.
    comparable = not backbone_only and all(
        getattr(spec, name) == getattr(target_spec, name)
        for name in ('out_type', 'aggregation_blocks')
    )
    if comparable and (file := _library_path(checkpoint)):
        try:
            source_model = library_model(checkpoint.origin, file, spec)
        except ImportError as error:
            source_name = f'ours ({error})'
    target_model = library_model(target, path, target_spec)
    source_name = checkpoint.origin if source_model else source_name
    target_name = target if target_model else 'ours'
    print(f'verified: {source_name} on {checkpoint.source}, {target_name} on {path}')

    source_model = source_model or our_model(fitted, num_heads=num_heads)
    if target_model is None:
        written = read_checkpoint(str(path))
        out_indices = checkpoint.meta.get('out_indices')
        target_model = our_model(written.state, out_indices=out_indices, num_heads=num_heads)
    expected = source_model(image, mask)
    difference = (expected - target_model(image, mask)).abs().max().item()
    largest = expected.abs().max().item()
    print(f'max_abs_diff={difference:.3g}')
    if not difference <= TOLERANCE * largest:  # also for NaN
        raise ValueError(
            f'the outputs of {checkpoint.source} and {path} differ by {difference:.3g}, more than '
            f'{TOLERANCE:g} of the largest output ({largest:.3g}): do not use {path}'
        )


def _library_path(checkpoint: Checkpoint) -> str | Path | None:
    """Return what the library of the source reads; for Hugging Face a folder or None."""
    if checkpoint.origin != 'hf':
        return checkpoint.source
    path = get_local_path(checkpoint.source)
    folder = path.parent if path.is_file() else path
    return folder if (folder / 'config.json').is_file() else None
