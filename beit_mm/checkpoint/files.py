"""Read a checkpoint file of any kind without running code from it: what it holds, not yet whose it is."""

import json
import os
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from . import pickled_modules, store
from .download import local_path


def read_file(source: str | os.PathLike, map_location: Any = None) -> Any:
    """Return what a file or folder holds, also one to download (`local_path`). Never runs code from it.

    Files: torch's (.pth, .pt, .bin), .safetensors, a module that was pickled whole (DALL-E's .pkl). Folders: Hugging Face's,
    with one or more weight files; one with DALL-E's `encoder.pkl` and `decoder.pkl`. What is inside decides, not the name.

    Raises FileNotFoundError, or ValueError that says what else than weights the file holds, or that it is no checkpoint.
    """
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
            return load_file(path, device=str(map_location) if isinstance(map_location, str | torch.device) else 'cpu')
        except SafetensorError as error:
            raise ValueError(f'{path} is a broken safetensors file, it may be incomplete: {error}') from error
    return _read_torch(path, map_location)


def state_of(raw: Any, source: str) -> tuple[dict[str, Tensor], str | None]:
    """(parameter names → tensors, the wrapper they lay in) of what `read_file` gave. ValueError where there are none."""
    state, wrapper = raw, None
    for name in ('state_dict', 'model', 'module'):  # OpenMMLab's, the official code's, DeepSpeed's
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state, wrapper = state[name], wrapper or name
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f'{source} holds no state dict (parameter names → tensors)')
    return {k.removeprefix('module.'): v for k, v in state.items()}, wrapper


def _is_safetensors(path: Path) -> bool:
    """An eight-byte length, then JSON of that length."""
    with path.open('rb') as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b'{' and int.from_bytes(start[:8], 'little') < path.stat().st_size


def _read_torch(path: Path, map_location: Any) -> Any:
    if words := store.damage(path):
        raise ValueError(f'{path} was not loaded: {words}. Take another copy, or an earlier checkpoint')
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals([Namespace]):  # the official code keeps its arguments; inert
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        try:
            return pickled_modules.read(path)
        except Exception:
            raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # broken bytes come out as whatever they meet first
        raise ValueError(f'{path} could not be read as a checkpoint, it may be incomplete: {error}') from error


def _check_archive(path: Path) -> None:
    """torch does not look at the checksums of its files: a flipped bit would be loaded. Nor is a TorchScript archive one."""
    try:
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith('/constants.pkl') for name in archive.namelist())
            broken = None if script else store.broken_in(archive)
    except Exception as error:  # zlib's, zipfile's and struct's
        raise ValueError(f'{path} is damaged: {error}. Take another copy, or an earlier checkpoint') from error
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
    reason = message.split('WeightsUnpickler error: ')[-1].strip().split('\n')[0].split('. Please')[0]
    return (
        f'{path} was not loaded, because more than weights would have to be trusted: {reason}\n'
        'Nothing of it was run. If you trust where it comes from and the name above is a type to keep, call '
        'torch.serialization.add_safe_globals([that type]) before loading; otherwise get a file of plain tensors.'
    )


def _read_folder(folder: Path, map_location: Any) -> dict:
    pickles = {part: folder / f'{part}.pkl' for part in ('encoder', 'decoder')}
    if all(path.is_file() for path in pickles.values()):
        parts = {part: state_of(read_file(path), str(path))[0] for part, path in pickles.items()}
        return {f'{part}.{k}': v for part, state in parts.items() for k, v in state.items()}
    files = next(
        (found for kind in ('*.safetensors', 'pytorch_model*.bin') if (found := sorted(folder.glob(kind)))), []
    )
    if not files:
        raise FileNotFoundError(
            f'{folder} is a folder without weights: a Hugging Face folder has model.safetensors or pytorch_model.bin in '
            "it, DALL-E's encoder.pkl and decoder.pkl"
        )
    state = {k: v for file in files for k, v in read_file(file, map_location).items()}
    meta = {}
    processor = folder / 'preprocessor_config.json'
    if processor.is_file():
        settings = json.loads(processor.read_text())
        if settings.get('do_normalize', True) and 'image_mean' in settings:
            kinds = dict(mean='image_mean', std='image_std')
            meta['normalization'] = {k: [255 * v for v in settings[name]] for k, name in kinds.items()}
    config = json.loads((folder / 'config.json').read_text()) if (folder / 'config.json').is_file() else {}
    if 'decode_head.classifier.weight' in state and config.get('out_indices'):
        meta['taps'] = [i - 2 for i in config['out_indices']]  # as it computes: see export.hf_config
    return dict(state_dict=state, meta=meta)
