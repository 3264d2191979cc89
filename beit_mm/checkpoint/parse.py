"""Parse a checkpoint of any project: weights in our names, and what else the file says."""

from dataclasses import dataclass, field
from typing import Any

from mmengine.runner import checkpoint
from torch import Tensor

from ..utils.model_hub import SCHEME
from .files import read_file
from .origins import identify, to_ours
from .published import find_normalization
from .state_dicts import find_weights, list_unused_copies, select_part


@dataclass
class Checkpoint:
    """Weights of a checkpoint under our names.

    Args:
        source: path, URL or name, for messages.
        state: parameter names → tensors.
        origin: the project that wrote the file, one of `origins.ORIGINS`.
        skipped: keys of the file that are not in `state`, with the reason.
        meta: `normalization` (mean and std, 0 … 255), `num_heads`, `out_indices`, as far as known.
    """

    source: str
    state: dict[str, Tensor]
    origin: str
    skipped: dict[str, str] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights whose keys start with `prefix`, without it."""
        return select_part(self.state, prefix)


def read_checkpoint(source: str) -> Checkpoint:
    """Read a file, a folder, a URL or a name.

    Raises FileNotFoundError, or ValueError if it holds no state dict, more than weights, or no
    BEiT.
    """
    return parse_checkpoint(read_file(source), str(source))


def parse_checkpoint(raw: Any, source: str) -> Checkpoint:
    """Parse what `read_file(source)` returned. Raises ValueError, see `read_checkpoint`."""
    state, wrapper = find_weights(raw, source)
    try:
        origin = identify(state, wrapper)
        state, skipped = to_ours(state, origin)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    meta = raw.get('meta') if wrapper else None
    meta = dict(meta) if isinstance(meta, dict) else {}
    if origin != 'beit_mm' and (known := find_normalization(source)):
        meta.setdefault('normalization', known)
    return Checkpoint(source, state, origin, list_unused_copies(raw) | skipped, meta)


def load(source: str) -> tuple[dict[str, Tensor], str]:
    """Return (state dict in our names, the project that wrote it). Raises as `read_checkpoint`."""
    checkpoint = read_checkpoint(source)
    return checkpoint.state, checkpoint.origin


def load_for_mmengine(filename: str, map_location: Any) -> Any:
    """Return what mmengine's loaders get for a path or a URL.

    After `beit_mm://` the keys have our names.
    """
    if not filename.startswith(SCHEME):
        return read_file(filename, map_location)
    found = read_checkpoint(filename.removeprefix(SCHEME))
    return dict(state_dict=found.state, meta=found.meta)


checkpoint.CheckpointLoader.register_scheme(
    ('', 'http://', 'https://'), load_for_mmengine, force=True
)
