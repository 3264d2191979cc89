"""Read checkpoint folders: of a run, of Hugging Face, of DALL-E."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .state_dicts import find_weights


def read_folder(folder: Path, read: Callable[[Path], Any]) -> Any:
    """Return the content of a folder; `read` returns the content of a file.

    - The work_dir of a run: its last checkpoint.
    - A folder with DALL-E's `encoder.pkl` and `decoder.pkl`: both, as one state dict.
    - A folder of Hugging Face or timm: all weight files, and `meta` with what its configs say.

    Raises FileNotFoundError for other folders, ValueError if two files hold the same key.
    """
    if path := find_last_checkpoint(folder):
        return read(path)
    parts = {part: folder / f'{part}.pkl' for part in ('encoder', 'decoder')}
    if all(path.is_file() for path in parts.values()):
        state = {}
        for part, path in parts.items():
            weights, _ = find_weights(read(path), str(path))
            state |= {f'{part}.{key}': value for key, value in weights.items()}
        return state
    files = sorted(folder.glob('*.safetensors')) or sorted(folder.glob('pytorch_model*.bin'))
    if not files:
        raise FileNotFoundError(
            f'{folder} is a folder without weights. Expected the work_dir of a run, which has '
            'last_checkpoint, a Hugging Face folder with model.safetensors or pytorch_model.bin, '
            "or DALL-E's encoder.pkl and decoder.pkl"
        )
    state, written = {}, {}
    for file in files:
        for key, value in read(file).items():
            if key in state:
                files = f'{written[key]} and {file.name}'
                raise ValueError(f'{folder}: {files} both hold {key}. Pass the file to load')
            state[key], written[key] = value, file.name
    return dict(state_dict=state, meta=_read_meta(folder, state))


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the file that `last_checkpoint` in a run's folder names; None without that pointer.

    If the folder was moved, the file of that name in the folder is returned. Raises
    FileNotFoundError if the file is gone.
    """
    named = read_last_checkpoint(folder)
    if named is None:
        return None
    for path in (folder / named.name, named):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f'{folder}/last_checkpoint names {named}, which was not found, nor was {named.name} beside '
        'it. Pass a .pth file'
    )


def read_last_checkpoint(folder: Path) -> Path | None:
    """Return the path in mmengine's file `last_checkpoint`. Its folder may have been moved."""
    pointer = folder / 'last_checkpoint'
    text = pointer.read_text().strip() if pointer.is_file() else ''
    return Path(text) if text else None


def _read_meta(folder: Path, state: dict) -> dict:
    """Return `Checkpoint.meta`: what the configs of the folder say."""
    meta = {}
    config = _read_json(folder / 'config.json')
    processor = _read_json(folder / 'preprocessor_config.json')
    timm = config.get('pretrained_cfg') or {}
    if processor.get('do_normalize', True) and 'image_mean' in processor:
        mean_std = processor['image_mean'], processor['image_std']
    else:
        mean_std = timm.get('mean'), timm.get('std')
    if all(mean_std):
        scaled = ([255 * value for value in values] for values in mean_std)
        meta['normalization'] = dict(zip(('mean', 'std'), scaled, strict=True))
    if 'decode_head.classifier.weight' in state and config.get('out_indices'):
        # Hugging Face counts from the input of the first block: see `export.make_hf_config`.
        meta['out_indices'] = [index - 2 for index in config['out_indices']]
    if 'num_attention_heads' in config:
        meta['num_heads'] = config['num_attention_heads']
    return meta


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}
