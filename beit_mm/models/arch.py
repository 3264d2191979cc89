"""Sizes of BEiT, and the blocks whose outputs it reads."""

from collections.abc import Sequence
from numbers import Integral

from ..utils.arguments import check_choices, check_integers

ARCHS = dict(
    base=dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
    large=dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096),
)


def resolve_arch(arch: str | dict) -> dict:
    """Return the sizes of an architecture."""
    if isinstance(arch, str):
        check_choices(ARCHS, arch=arch)
        return ARCHS[arch]
    if not isinstance(arch, dict) or set(arch) != set(ARCHS['base']):
        keys = ', '.join(ARCHS['base'])
        raise ValueError(f"arch={arch!r}: expected 'base', 'large' or a dict with exactly {keys}")
    check_integers(1, **arch)
    if arch['embed_dims'] % arch['num_heads']:
        raise ValueError(f'arch={arch}: expected embed_dims to be a multiple of num_heads')
    return arch


def resolve_out_indices(out_indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Return block numbers 0 … depth − 1; negative ones count from the last block."""
    given = out_indices if isinstance(out_indices, list | tuple) else [out_indices]
    if all(isinstance(i, Integral) and -depth <= i < depth for i in given):
        resolved = [i % depth for i in given]
        if resolved and resolved == sorted(set(resolved)):
            return tuple(resolved)
    raise ValueError(
        f'out_indices={out_indices!r}: expected rising block numbers, {-depth} … {depth - 1}'
    )


def resolve_aggregation(settings: dict | None, depth: int) -> tuple[int, int]:
    """Return (layer, number of further blocks) of `patch_aggregation`; (0, 0) for None."""
    if settings is None:
        return 0, 0
    if not isinstance(settings, dict) or not {'layer'} <= set(settings) <= {'layer', 'num_blocks'}:
        raise ValueError(
            f'patch_aggregation={settings!r}: expected dict(layer=…) or dict(layer=…, num_blocks=…)'
        )
    settings = dict(num_blocks=2) | settings
    check_integers(1, **{f'patch_aggregation.{key}': value for key, value in settings.items()})
    if settings['layer'] >= depth:
        raise ValueError(
            f'patch_aggregation.layer={settings["layer"]}: expected a block before the last one, '
            f'1 … {depth - 1}. The paper takes 9 of 12 (base) and 21 of 24 (large)'
        )
    return settings['layer'], settings['num_blocks']
