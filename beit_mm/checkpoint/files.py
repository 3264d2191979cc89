"""Read the content of checkpoint files and folders. No code from a file is run."""

import os
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..utils.installation import command
from . import pickled_modules
from .download import get_local_path
from .folders import read_folder
from .integrity import find_damage
from .state_dicts import EMA, use_average


def read_file(source: str | os.PathLike, map_location: Any = None) -> Any:
    """Return the content of a checkpoint file or folder; `source` is downloaded if it is remote.

    - Files: torch's (.pth, .pt, .bin), .safetensors, or a pickled module (DALL-E's .pkl). The
      content decides, not the name.
    - Folders: see `folders.read_folder`.
    - If `source` ends with '#ema', the averaged weights replace the weights.

    Raises FileNotFoundError, or ValueError that names the source if the content is more than
    weights, damaged, or has no average.
    """
    if str(source).endswith(EMA):
        return use_average(read_file(str(source).removesuffix(EMA), map_location), str(source))
    path = get_local_path(source)
    if path.is_dir():
        return read_folder(path, lambda file: read_file(file, map_location))
    if not path.is_file():
        raise FileNotFoundError(
            f'no checkpoint at {source}. Expected the .pth file that an earlier stage wrote into '
            'its work_dir, a file of another project, a Hugging Face folder, a URL, hf://ORG/NAME, '
            f'or a name from `{command("weights")} list`'
        )
    try:
        if _is_safetensors(path):
            return _read_safetensors(path, map_location)
        return _read_torch(path, map_location)
    except ValueError as error:
        if str(path) == str(source) or Path(source).expanduser() == path:
            raise
        raise ValueError(
            f'{error}\n{path} was downloaded from {source}. Delete it to download it again'
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Return whether a file starts with a length in eight bytes and then a JSON header."""
    with path.open('rb') as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], 'little')
    return len(start) == 9 and start[8:] == b'{' and length < path.stat().st_size


def _read_safetensors(path: Path, map_location: Any) -> dict:
    device = str(map_location) if isinstance(map_location, str | torch.device) else 'cpu'
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f'{path} is a damaged or incomplete safetensors file: {error}') from error


def _read_torch(path: Path, map_location: Any) -> Any:
    with path.open('rb') as file:
        is_archive = file.read(4) == b'PK\x03\x04'  # torch's old format is a bare pickle
    if is_archive:
        _check_archive(path)
    try:
        with torch.serialization.safe_globals([Namespace]):  # arguments in files of unilm
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        try:
            return pickled_modules.read_module(path)
        except Exception:
            raise ValueError(_explain_refusal(path, error)) from error
    except Exception as error:  # damaged bytes raise many types
        raise ValueError(f'{path} is no checkpoint, or it is incomplete: {error}') from error


def _check_archive(path: Path) -> None:
    """Raise ValueError if a zip file is damaged or a TorchScript archive."""
    if problem := find_damage(path):
        raise ValueError(f'{path}: {problem}. Use another copy, or an earlier checkpoint')
    with zipfile.ZipFile(path) as archive:
        is_script = any(name.endswith('/constants.pkl') for name in archive.namelist())
    if is_script:
        raise ValueError(
            f'{path} is a TorchScript archive, which is a program. It was not run. Ask its author '
            'for the plain weights, `torch.save(torch.jit.load(…).state_dict(), …)`'
        )


def _explain_refusal(path: Path, error: pickle.UnpicklingError) -> str:
    message = str(error.__context__ or error)  # the context names the refused type
    reason = message.split('WeightsUnpickler error: ')[-1].strip().split('\n')[0]
    reason = reason.split('. Please')[0]
    return (
        f'{path} was not loaded, because it holds more than weights: {reason}. '
        'Nothing in it was run. If you trust its source, and it needs a type that is named here, '
        'call torch.serialization.add_safe_globals([TYPE]) before loading. Otherwise use a file of '
        'plain tensors'
    )
