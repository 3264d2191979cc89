"""The local copy of a checkpoint that is named by a URL, by `hf://ORG/NAME[@REVISION]`, or by a published file's name."""

import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
import yaml
from mmengine.logging import print_log

HUB = 'hf://'
EMA = '#ema'  # at the end of a checkpoint's name: take the averaged weights in the file
# As torch.hub names files: name-1a2b3c4d.pth begins with so much of its SHA-256. Eight digits alone are a date.
_HASH = re.compile(r'-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.')
_PIECE = 1 << 20  # bytes read at a time


@cache
def published() -> dict[str, dict]:
    """Return the table of published weights, name → what `published.yml` says of it, with its family's entries."""
    families = yaml.safe_load(Path(__file__).with_name('published.yml').read_text(encoding='utf-8'))
    models = {}
    for family in families:
        common = {key: value for key, value in family.items() if key != 'models'}
        for model in family['models']:
            entry = common | model
            models[model['name']] = entry | dict(
                address=entry['address'].format(name=model['name'])
            )
    return models


def is_remote(source: str) -> bool:
    """Return whether `source` names a checkpoint that may have to be downloaded."""
    return '://' in source or (
        source.removesuffix(EMA) in published() and not Path(source).exists()
    )


def is_missing(source: str) -> bool:
    """Return whether `source` names neither a file or folder on this machine nor a checkpoint to download."""
    return not is_remote(source) and not Path(source.removesuffix(EMA)).expanduser().exists()


def local_path(source: str | os.PathLike) -> Path:
    """Return the file or folder that `source` names; a URL is downloaded once, into torch's hub folder.

    Raises FileNotFoundError if it cannot be downloaded, ValueError if what came is not what the name says, ImportError for
    `hf://` without huggingface_hub.
    """
    source = str(source).removesuffix(EMA)
    path = Path(source).expanduser()
    if path.exists():
        return path
    source = published().get(source, {}).get('address', source)
    if source.startswith(HUB):
        return _from_hub(source)
    return _from_url(source) if urlparse(source).scheme in ('http', 'https') else Path(source)


def _from_url(url: str) -> Path:
    name = Path(urlparse(url).path).name or 'checkpoint'
    key = hashlib.sha256(url.encode()).hexdigest()[:16]  # files of one name come from many places
    path = Path(torch.hub.get_dir(), 'checkpoints', 'beit_mm', key, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):  # the first process of all downloads, the others wait
            if not path.exists():
                _download(url, path)
    return path


def _download(url: str, path: Path) -> None:
    """Write beside `path`, check length and hash, then rename."""
    print_log(f'Downloading {url} to {path}', logger='current')
    beside, digest, advice = (
        path.with_name(f'.{socket.gethostname()}.tmp'),
        hashlib.sha256(),
        _advice(path),
    )
    try:
        request = Request(url, headers={'User-Agent': 'beit_mm'})
        with urlopen(request, timeout=60) as answer, beside.open('wb') as file:
            while piece := answer.read(_PIECE):
                file.write(piece)
                digest.update(piece)
            expected, size = answer.headers.get('Content-Length'), file.tell()
        if expected is not None and size != int(expected):
            raise FileNotFoundError(
                f'{url} was interrupted after {size} of {expected} bytes. Run again, or {advice}'
            )
        named = _HASH.search(path.name)
        if named and not digest.hexdigest().startswith(named[1]):
            raise ValueError(
                f'{url}: its SHA-256 is {digest.hexdigest()}, its name says {named[1]}…. {advice}'
            )
        os.replace(beside, path)
    except (OSError, HTTPException) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileNotFoundError(
            f'{url} could not be downloaded ({error}). Check the address, or {advice}'
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _advice(path: Path) -> str:
    return f'download it by hand and save it as {path}, or give the path of your copy'


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / '.lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_hub(source: str) -> Path:
    """Return the folder of a repository in Hugging Face's cache: its weights, preferably safetensors, and its configs."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ImportError(f'{source} needs huggingface_hub: pip install huggingface_hub') from error
    repository, _, revision = source.removeprefix(HUB).partition('@')
    for weights in ('*.safetensors', 'pytorch_model*.bin'):
        try:
            folder = Path(
                snapshot_download(
                    repository, revision=revision or None, allow_patterns=['*.json', weights]
                )
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f'{source} could not be downloaded ({reason}). Expected {HUB}ORG/NAME[@REVISION] of a public repository, or of '
                'one that your token may read; offline only what is in the cache. Or download the folder and give its path'
            ) from error
        if any(folder.glob(weights)):
            return folder
    raise FileNotFoundError(
        f'{source} has no *.safetensors and no pytorch_model*.bin: it holds no weights to load'
    )
