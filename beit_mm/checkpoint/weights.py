"""Read a checkpoint of any project as weights under our names."""

import re
from pathlib import Path
from typing import Any

from mmengine.runner import checkpoint
from torch import Tensor

from ..utils.model_hub import SCHEME
from .files import read_file, state_of, unused_copies
from .origins import identify, to_ours

# Mean and std of the published weights of BEiT v2 and of pt1k_800ep; their files do not hold them. Names: official and timm's.
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def load(source: str) -> tuple[dict[str, Tensor], str]:
    """(state dict under our names, who wrote it) of a file, a URL, or a folder; see `files.read_file`, `origins`.

    Raises FileNotFoundError; ValueError where there is no state dict, more than weights, or no BEiT.
    """
    return load_with_meta(source)[:2]


def load_with_meta(source: str) -> tuple[dict[str, Tensor], str, dict[str, str], dict]:
    """`load`, and: the keys left out with the reason; what the file says of itself (`normalization`: mean and std, 0 … 255)."""
    return parse(read_file(source), str(source))


def parse(raw: Any, source: str) -> tuple[dict[str, Tensor], str, dict[str, str], dict]:
    """`load_with_meta` of what `read_file` returned for `source`."""
    state, wrapper = state_of(raw, source)
    try:
        origin = identify(state, wrapper)
        state, left = to_ours(state, origin)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    meta = raw.get('meta') if wrapper else None
    meta = dict(meta) if isinstance(meta, dict) else {}
    if origin in ('unilm', 'timm') and re.search('beitv2|_pt1k', Path(source).name):
        meta.setdefault('normalization', IMAGENET)
    return state, origin, unused_copies(raw) | left, meta


def load_for_mmengine(filename: str, map_location: Any) -> Any:
    """Return what mmengine's loaders get for a path or a URL; after `beit_mm://` the keys have this project's names."""
    if not filename.startswith(SCHEME):
        return read_file(filename, map_location)
    state, _, _, meta = load_with_meta(filename.removeprefix(SCHEME))
    return dict(state_dict=state, meta=meta)


checkpoint.CheckpointLoader.register_scheme(
    ('', 'http://', 'https://'), load_for_mmengine, force=True
)
