"""Local copies of checkpoints: of a URL, of `hf://ORG/NAME[@REVISION]`, or of a published name."""

import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.logging import print_log

from .published import published
from .state_dicts import EMA

HUB = 'hf://'

# torch.hub puts the first digits of the SHA-256 into a name: name-1a2b3c4d.pth. Digits without a
# letter are a date.
_HASH = re.compile(r'-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.')
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60


def is_remote(source: str) -> bool:
    """Return whether `source` names a checkpoint that may have to be downloaded."""
    is_name = source.removesuffix(EMA) in published() and not Path(source).exists()
    return '://' in source or is_name


def is_missing(source: str) -> bool:
    """Return whether `source` is neither remote nor a file or folder on this machine."""
    return not is_remote(source) and not Path(source.removesuffix(EMA)).expanduser().exists()


def get_local_path(source: str | os.PathLike) -> Path:
    """Return the file or folder of `source`. A URL is downloaded once, into torch's hub folder.

    Raises FileNotFoundError if it cannot be downloaded, ImportError for `hf://` without
    huggingface_hub.
    """
    source = str(source).removesuffix(EMA)
    path = Path(source).expanduser()
    if path.exists():
        return path
    source = published().get(source, {}).get('address', source)
    if source.startswith(HUB):
        return _download_from_hub(source)
    if urlparse(source).scheme in ('http', 'https'):
        return _download_from_url(source)
    return Path(source)


def _download_from_url(url: str) -> Path:
    name = Path(urlparse(url).path).name or 'checkpoint'
    key = hashlib.sha256(url.encode()).hexdigest()[:16]  # several URLs have the same file name
    path = Path(torch.hub.get_dir(), 'checkpoints', 'beit_mm', key, name)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path.parent):  # one process downloads, the others wait
                if not path.exists():
                    _download(url, path)
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f'{url} could not be downloaded ({error}). Run again, check the address, or download '
            f'it by hand and save it as {path} or pass the path of your copy'
        ) from error
    return path


def _download(url: str, path: Path) -> None:
    """Write a temporary file beside `path`, check its content, rename it. Raises OSError."""
    print_log(f'Downloading {url} to {path}', logger='current')
    temporary = path.with_name(f'.{socket.gethostname()}.tmp')
    headers = {'User-Agent': 'beit_mm', 'Accept-Encoding': 'identity'}
    digest, start = hashlib.sha256(), b''
    try:
        request = Request(url, headers=headers)
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer, temporary.open('wb') as file:
            while chunk := answer.read(_CHUNK_BYTES):
                start = start or chunk[:100]
                file.write(chunk)
                digest.update(chunk)
            expected, size = answer.headers.get('Content-Length'), file.tell()
        if not size or (expected is not None and size != int(expected)):
            raise OSError(f'interrupted after {size} of {expected or "?"} bytes')
        if start.lstrip()[:1] == b'<':
            raise OSError('it is a web page, not a file')
        named = _HASH.search(path.name)
        if named and not digest.hexdigest().startswith(named[1]):
            raise OSError(f'its SHA-256 is {digest.hexdigest()}, its name says {named[1]}…')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / '.lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download_from_hub(source: str) -> Path:
    """Download weights and configs at the top of a repository; return its folder in the cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ImportError(f'{source} needs huggingface_hub: pip install huggingface_hub') from error
    repository, _, revision = source.removeprefix(HUB).partition('@')
    for weights in ('*.safetensors', 'pytorch_model*.bin'):
        try:
            folder = snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=['*.json', weights],
                ignore_patterns='*/*',
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f'{source} could not be downloaded ({reason}). Expected {HUB}ORG/NAME[@REVISION] '
                'of a public repository or of one that your token may read. Offline, only the '
                'cache is used. Otherwise download the folder and pass its path'
            ) from error
        if any(Path(folder).glob(weights)):
            return Path(folder)
    raise FileNotFoundError(
        f'{source} holds no weights: expected *.safetensors or pytorch_model*.bin'
    )
