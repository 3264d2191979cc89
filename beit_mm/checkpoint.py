"""Weights in: read a checkpoint safely, fit it to the model, and account for every key."""

import math
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .models.beit import BEiT, resize_pos_embed
from .models.relative_position import resize_bias_table

SHARED = 'rel_pos_bias.relative_position_bias_table'
TABLE = 'relative_position_bias_table'


def read(path: str) -> dict[str, Tensor]:
    """The state dict of a checkpoint (file or URL), its EMA weights if it has them. Never runs code of the file.

    Raises FileNotFoundError naming the path, or ValueError when the file holds no state dict.
    """
    if '://' not in str(path) and not Path(path).is_file():
        raise FileNotFoundError(
            f'no checkpoint at {path}: give the .pth file that an earlier stage wrote into its work_dir'
        )
    loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    state = loaded
    for wrapper in ('state_dict', 'model'):  # mmengine's, the official code's
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f'{path} holds no state dict (parameter names → tensors)')
    return {k.removeprefix('module.'): v for k, v in state.items()}


def load_backbone(model: BEiT, path: str) -> None:
    """Load a BEiT of ours, from pre-training, classification or segmentation, into another one.

    A shared position table is copied into every layer, positions are resized to the model's grid. Every key is loaded,
    left out for a reason that is logged, or an error: ValueError names keys that are missing, unexpected or of another shape.
    """
    source = read(path)
    prefixed = {k.removeprefix('backbone.'): v for k, v in source.items() if k.startswith('backbone.')}
    outside = sorted({k.split('.')[0] for k in source if not k.startswith('backbone.')}) if prefixed else []
    state, left = fit_backbone(prefixed or source, model)
    own = model.state_dict()
    new = sorted(k for k in own if k not in state)
    missing = [k for k in new if not k.startswith(('fc_norm.', 'norm.'))]
    unexpected = sorted(k for k in state if k not in own)
    wrong = [
        f'{k}: {tuple(v.shape)} ≠ {tuple(own[k].shape)}'
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        raise ValueError(
            f'{path} does not fit this BEiT. Missing: {_few(missing)}; unexpected: {_few(unexpected)}; of another shape: '
            f'{_few(wrong)}. Use the arch, positions and layer_scale that it was trained with'
        )
    model.load_state_dict(state, strict=False)
    lines = [f'{len(state)} of {len(own)} backbone tensors loaded from {path}']
    lines += [f'  left out: {key} ({reason})' for key, reason in left.items()]
    lines += [f'  left out: {name}.* (no part of the backbone)' for name in outside]
    lines += [f'  new: {key} (this task adds it)' for key in new]
    print_log('\n'.join(lines), logger='current')


def fit_backbone(source: dict[str, Tensor], model: BEiT) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state dict made to fit `model`, keys left out with the reason)."""
    state, left = dict(source), {}
    if SHARED in state and model.rel_pos_bias is None and model.blocks[0].attn.grid:
        table = state.pop(SHARED)
        state |= {f'blocks.{i}.attn.{TABLE}': table.clone() for i in range(len(model.blocks))}
    own = model.state_dict()
    for key, value in state.items():
        if key in own and value.shape == own[key].shape:
            continue  # of the same grid, square or not
        if key.endswith(TABLE):
            side = _side(len(value) - 3, lambda s: (2 * s - 1) ** 2)
            state[key] = resize_bias_table(value, (side, side), model.grid) if side else value
        elif key == 'pos_embed':
            side = _side(value.shape[1] - 1, lambda s: s * s)
            state[key] = resize_pos_embed(value, (side, side), model.grid) if side else value
    reasons = dict(
        mask_token='hides patches in pre-training only', norm='mean pooling and feature maps are taken before it'
    )
    reasons['fc_norm'] = 'belongs to the pooled feature'
    for key in list(state):
        if (name := key.split('.')[0]) in reasons and getattr(model, name) is None:
            left[key] = reasons[name]
            del state[key]
    return state, left


def load_tokenizer(model: nn.Module, path: str) -> None:
    """Load a `DiscreteVAE` of ours; ValueError names every key that does not match."""
    state = {k: v for k, v in read(path).items() if not k.startswith('data_preprocessor.')}
    own = {k: v for k, v in model.state_dict().items() if not k.startswith('data_preprocessor.')}
    odd = sorted(state.keys() ^ own.keys()) + [k for k in state if k in own and state[k].shape != own[k].shape]
    if odd:
        raise ValueError(
            f'{path} is no tokenizer of this shape (vocab_size, width, groups, blocks): {_few(odd)} differ'
        )
    model.load_state_dict(state, strict=False)
    print_log(f'{len(state)} tokenizer tensors loaded from {path}, all keys matched', logger='current')


def _side(count: int, of_side) -> int | None:
    """The side of the square grid whose `of_side(side)` is `count`, None when there is none."""
    guess = math.isqrt(count)
    return next((s for s in (guess, (guess + 1) // 2) if s > 0 and of_side(s) == count), None)


def _few(names: list[str]) -> str:
    return ', '.join(names[:8]) + (f' … ({len(names)})' if len(names) > 8 else '') if names else 'none'
