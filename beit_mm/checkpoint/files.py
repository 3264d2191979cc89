"""Read a checkpoint file of any kind without running code from it: what it holds, not yet whose it is."""

import json
import os
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from . import pickled_modules
from .download import EMA, local_path
from .integrity import damaged_entry

# Keys of a file that hold weights (OpenMMLab's, the official code's, DeepSpeed's), or their average (official, timm's, mmengine's).
_PLAIN = ('state_dict', 'model', 'module')
_AVERAGED = ('model_ema', 'state_dict_ema', 'ema_state_dict')
WRAPPERS = re.compile(
    r'^((module|model|_orig_mod)\.)+'
)  # DDP's, Lightning's and torch.compile's prefixes


def read_file(source: str | os.PathLike, map_location: Any = None) -> Any:
    """Return what a file or folder holds, also one to download (`local_path`). Never runs code from it.

    Files: torch's (.pth, .pt, .bin), .safetensors, a module that was pickled whole (DALL-E's .pkl). Folders: a run's, of which
    the last checkpoint is read; Hugging Face's, with one or more weight files; one with DALL-E's `encoder.pkl` and
    `decoder.pkl`. What is inside decides, not the name. If `source` ends with '#ema', the averaged weights of the file take the
    place of the weights.

    Raises FileNotFoundError, or ValueError that says what else than weights the file holds, that it is no checkpoint, or that
    it holds no average.
    """
    if str(source).endswith(EMA):
        return _averaged(read_file(str(source).removesuffix(EMA), map_location), str(source))
    path = local_path(source)
    if path.is_dir():
        return _read_folder(path, map_location)
    if not path.is_file():
        raise FileNotFoundError(
            f'no checkpoint at {source}: give the .pth file that an earlier stage wrote into its work_dir, one of another '
            'project, a Hugging Face folder, a URL, hf://ORG/NAME, or a name that `python tools/weights.py list` shows'
        )
    if _is_safetensors(path):
        try:
            return load_file(
                path,
                device=str(map_location) if isinstance(map_location, str | torch.device) else 'cpu',
            )
        except SafetensorError as error:
            raise ValueError(
                f'{path} is a broken safetensors file, it may be incomplete: {error}'
            ) from error
    return _read_torch(path, map_location)


def state_of(raw: Any, source: str) -> tuple[dict[str, Tensor], str | None]:
    """Return (parameter names → tensors, the key of the file that holds them) of what `read_file` returned.

    Of weights and their average (EMA), the weights. Raises ValueError that names `source` if there are none, or if two keys
    differ only in the prefix of a wrapper.
    """
    held = _held(raw, _PLAIN) + _held(raw, _AVERAGED)
    state, wrapper = raw, held[0] if held else None
    if wrapper:
        state = raw[wrapper]
    for name in _PLAIN:  # one within another
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        raise ValueError(f'{source} holds no state dict (parameter names → tensors)')
    try:
        return renamed(state, lambda key: WRAPPERS.sub('', key)), wrapper
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error


def unused_copies(raw: Any) -> dict[str, str]:
    """Return the copy of the weights in a file that `state_of` does not take, with the reason."""
    if not _held(raw, _PLAIN):
        return {}
    why = "the averaged weights: to load them, add #ema to the checkpoint's name"
    if _is_swapped(raw):
        why = 'the weights without averaging'
    return {f'{name}.*': why for name in _held(raw, _AVERAGED)}


def _averaged(raw: Any, source: str) -> dict:
    """Return what a file holds with the average as the weights, for any loader."""
    names = _held(raw, _AVERAGED)
    if not names:
        raise ValueError(
            f'{source}: the file holds no averaged weights ({", ".join(_AVERAGED)}): name it without {EMA}'
        )
    place = 'model' if names[0] == 'model_ema' else 'state_dict'
    average = raw[place if _is_swapped(raw) else names[0]]
    return {key: value for key, value in raw.items() if key not in (*_PLAIN, *_AVERAGED)} | {
        place: average
    }


def _held(raw: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if isinstance(raw, dict) and isinstance(raw.get(name), dict)]


def _is_swapped(raw: dict) -> bool:
    """Return whether mmengine's EMAHook wrote the file: the averages as state_dict, what it averages as ema_state_dict."""
    return 'meta' in raw and 'state_dict' in raw and 'ema_state_dict' in raw


def renamed(tensors: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the tensors under new names. Raises ValueError that names two keys that would become one."""
    named, origin = {}, {}
    for key, value in tensors.items():
        name = rename(key)
        if name in named:
            raise ValueError(
                f'its keys {origin[name]} and {key} are both {name} here, and only one of them can be loaded: remove the one '
                'that its model does not use'
            )
        named[name], origin[name] = value, key
    return named


def _is_safetensors(path: Path) -> bool:
    """An eight-byte length, then JSON of that length."""
    with path.open('rb') as file:
        start = file.read(9)
    return (
        len(start) == 9
        and start[8:] == b'{'
        and int.from_bytes(start[:8], 'little') < path.stat().st_size
    )


def _read_torch(path: Path, map_location: Any) -> Any:
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(
            [Namespace]
        ):  # the official code keeps its arguments; inert
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        try:
            return pickled_modules.read(path)
        except Exception:
            raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # broken bytes come out as whatever they meet first
        raise ValueError(
            f'{path} could not be read as a checkpoint, it may be incomplete: {error}'
        ) from error


def _check_archive(path: Path) -> None:
    """torch does not look at the checksums of its files: a flipped bit would be loaded. Nor is a TorchScript archive one."""
    try:
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith('/constants.pkl') for name in archive.namelist())
            broken = None if script else damaged_entry(archive)
    except Exception as error:  # zlib's, zipfile's and struct's
        raise ValueError(
            f'{path} is damaged: {error}. Take another copy, or an earlier checkpoint'
        ) from error
    if broken:
        raise ValueError(
            f'{path} is damaged: {broken} in it is not what was written. Take another copy, or an earlier checkpoint'
        )
    if script:
        raise ValueError(
            f'{path} is a TorchScript archive, which is a program: nothing of it was run. Get its plain weights, '
            '`torch.save(torch.jit.load(…).state_dict(), …)`, from who made it'
        )


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    message = str(error.__context__ or error)  # torch hides the first, which names the culprit
    reason = (
        message.split('WeightsUnpickler error: ')[-1].strip().split('\n')[0].split('. Please')[0]
    )
    return (
        f'{path} was not loaded, because more than weights would have to be trusted: {reason}\n'
        'Nothing of it was run. If you trust where it comes from and the name above is a type to keep, call '
        'torch.serialization.add_safe_globals([that type]) before loading; otherwise get a file of plain tensors.'
    )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the file that `last_checkpoint` in a run's folder names, in that folder if it was moved; None without it.

    Raises FileNotFoundError if the file is gone.
    """
    pointer = folder / 'last_checkpoint'
    if not pointer.is_file():
        return None
    named = Path(pointer.read_text().strip())
    for path in (folder / named.name, named):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f'{pointer} names {named}, which was not found, nor was {named.name} beside it: name a .pth file'
    )


def _read_folder(folder: Path, map_location: Any) -> Any:
    if path := last_checkpoint(folder):
        return read_file(path, map_location)
    pickles = {part: folder / f'{part}.pkl' for part in ('encoder', 'decoder')}
    if all(path.is_file() for path in pickles.values()):
        parts = {part: state_of(read_file(path), str(path))[0] for part, path in pickles.items()}
        return {f'{part}.{k}': v for part, state in parts.items() for k, v in state.items()}
    files = next(
        (
            found
            for kind in ('*.safetensors', 'pytorch_model*.bin')
            if (found := sorted(folder.glob(kind)))
        ),
        [],
    )
    if not files:
        raise FileNotFoundError(
            f'{folder} is a folder without weights: a run has written last_checkpoint into its work_dir, a Hugging Face folder '
            "has model.safetensors or pytorch_model.bin in it, DALL-E's encoder.pkl and decoder.pkl"
        )
    state, written = {}, {}
    for file in files:
        for key, value in read_file(file, map_location).items():
            if key in state:
                raise ValueError(
                    f'{folder}: {written[key]} and {file.name} both hold {key}: name the file to load'
                )
            state[key], written[key] = value, file.name
    meta = {}
    processor = folder / 'preprocessor_config.json'
    if processor.is_file():
        settings = json.loads(processor.read_text())
        if settings.get('do_normalize', True) and 'image_mean' in settings:
            kinds = dict(mean='image_mean', std='image_std')
            meta['normalization'] = {
                k: [255 * v for v in settings[name]] for k, name in kinds.items()
            }
    config = (
        json.loads((folder / 'config.json').read_text())
        if (folder / 'config.json').is_file()
        else {}
    )
    timm = config.get('pretrained_cfg') or {}
    if 'normalization' not in meta and 'mean' in timm and 'std' in timm:
        meta['normalization'] = {name: [255 * v for v in timm[name]] for name in ('mean', 'std')}
    if 'decode_head.classifier.weight' in state and config.get('out_indices'):
        meta['taps'] = [
            i - 2 for i in config['out_indices']
        ]  # as it computes: see export.hf_config
    if 'num_attention_heads' in config:
        meta['num_heads'] = config['num_attention_heads']
    return dict(state_dict=state, meta=meta)
