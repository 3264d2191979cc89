"""A checkpoint on disk: written whole or not at all, sealed by a checksum, and the newest whole one found again.

A sealed file is the zip that `torch.save` makes, with a comment at its end: when it was written, with a CRC of its own, and
SHA-256 of every byte before the digest. Zip readers pass over a comment, so torch, and whatever else reads a .pth, loads
the file as before.
"""

import hashlib
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_MARK = b'beit_mm saved:'
_SEAL = re.compile(_MARK + rb'(\d{20}) crc32:([0-9a-f]{8}) sha256:[0-9a-f]{64}')
_LENGTH = len(_MARK) + 20 + len(' crc32:') + 8 + len(' sha256:') + 64  # of a seal, bytes
_DIGEST = 64  # of these
_END = b'PK\5\6'  # begins the last 22 bytes of a zip without a comment; the last two are the comment's length
_PIECE = 1 << 24  # bytes hashed or written at a time


# -- the seal ----------------------------------------------------------------------------------------------------------


def seal(archive: bytes) -> list[bytes | memoryview]:
    """The pieces of a sealed file, from what `torch.save` wrote. Raises ValueError when that is no zip."""
    if archive[-22:-18] != _END or archive[-2:] != b'\0\0':
        raise ValueError(
            'only the zip that torch.save writes can be sealed: leave _use_new_zipfile_serialization on'
        )
    when = b'%020d' % time.time_ns()
    start = _MARK + when + b' crc32:%08x sha256:' % zlib.crc32(when)
    pieces = [memoryview(archive)[:-2], _LENGTH.to_bytes(2, 'little') + start]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return [*pieces, digest.hexdigest().encode()]


def damage(path: Path) -> str | None:
    """Why a file is not what was sealed; None when every byte is, and for a file that was never sealed.

    One flipped bit is found wherever it is: before the digest by the digest; what is left of a seal, or of a zip that
    announces one, is a broken seal. A cut file ends in neither: `unreadable` tells. Raises OSError as reading does.
    """
    with path.open('rb') as file:
        end = _end(file)
        if not _sealed(end):
            return None
        if (
            _SEAL.fullmatch(end[22:])
            and _sha256(file, path.stat().st_size - _DIGEST) == end[-_DIGEST:]
        ):
            return None
    return 'it is damaged: its bytes do not match its checksum'


def unreadable(path: Path) -> str | None:
    """Why a run cannot go on from this file; None when it can. Where there is no seal, the zip's own CRC-32 must be right."""
    try:
        if words := damage(path):
            return words
        with path.open('rb') as file:
            if _sealed(_end(file)):
                return None
            file.seek(max(0, path.stat().st_size - 22))
            end = file.read()
            if end[:4] != _END or end[-2:] != b'\0\0':
                return f'it is cut off or no checkpoint: {path.stat().st_size} bytes without the end of one'
            with zipfile.ZipFile(file) as archive:
                broken = broken_in(archive)
        return f'it is damaged: {broken} in it is not what was written' if broken else None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return f'it cannot be read: {error}'


def broken_in(archive: zipfile.ZipFile) -> str | None:
    """The first entry whose bytes do not match its CRC-32, or that is marked as a folder: of such a one torch reads nothing
    and gives what lies in memory as weights."""
    folders = [entry.filename for entry in archive.infolist() if entry.external_attr & 0x10]
    return folders[0] if folders else archive.testzip()


def written(path: Path) -> int:
    """When it was written, ns since 1970: as its seal says, which copying does not change, or else as the folder says.

    A broken seal is later than any: who looks for the newest then finds the damage, and says it.
    """
    with path.open('rb') as file:
        end = _end(file)
    if not _sealed(end):
        return path.stat().st_mtime_ns
    found = _SEAL.fullmatch(end[22:])
    return int(found[1]) if found and b'%08x' % zlib.crc32(found[1]) == found[2] else 2**63


def newest(folder: Path, names: str) -> tuple[Path | None, list[str]]:
    """(the last written of the readable files whose whole name matches `names`, a line for each newer one passed over)."""
    files = [path for path in folder.glob('*') if re.fullmatch(names, path.name) and path.is_file()]
    passed = []
    for path in sorted(files, key=lambda path: (written(path), path.name), reverse=True):
        if not (words := unreadable(path)):
            return path, passed
        passed.append(f'{path}: {words}')
    return None, passed


def _end(file: BinaryIO) -> bytes:
    """The last 22 bytes of the zip and the seal, if there is one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LENGTH - 22))
    return file.read()


def _sealed(end: bytes) -> bool:
    return (end[:4] == _END and end[20:22] == _LENGTH.to_bytes(2, 'little')) or end[22:].startswith(
        _MARK
    )


def _sha256(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest().encode()


# -- writing -----------------------------------------------------------------------------------------------------------


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Make `path` hold the pieces: whoever looks sees the old file or the new one, whenever the process or power fails.

    A file beside it is written, flushed to disk, read back, and renamed. Raises OSError that names the path and the bytes,
    with nothing left behind.
    """
    pieces = list(pieces)
    size, beside = sum(map(len, pieces)), _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for piece in pieces:
                _write(descriptor, memoryview(piece))
            os.fsync(descriptor)
            _read_back(descriptor, pieces)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
        flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # swept at the next start
            os.unlink(beside)
        if not isinstance(error, OSError):
            raise
        free = (
            f'{shutil.disk_usage(path.parent).free} are free'
            if path.parent.is_dir()
            else 'the folder is not there'
        )
        raise OSError(
            error.errno,
            f'{path} of {size} bytes could not be written ({error.strerror or error}; {free}); what was written before is '
            'untouched: make room, or name another folder with --work-dir, and go on with --resume',
        ) from error


def remove(path: Path) -> None:
    """Remove a file and flush that to disk; one that is gone is no error. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)
        flush_folder(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed runs left half written; gives what it was."""
    left = [path for path in folder.glob('.*.tmp') if path.is_file()]
    for path in left:
        remove(path)
    return left


def flush_folder(folder: Path) -> None:
    """A renamed or removed file is so for good only when its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f'.{path.name}.tmp')


def _write(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece[:_PIECE]) :]


def _read_back(descriptor: int, pieces: list[bytes | memoryview]) -> None:
    """Raises OSError where the disk gives other bytes than it was given."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
    os.lseek(descriptor, 0, os.SEEK_SET)
    for piece in map(memoryview, pieces):
        while piece:
            found = os.read(descriptor, min(len(piece), _PIECE))
            if not found or found != piece[: len(found)]:
                raise OSError('the disk gave back other bytes than were written')
            piece = piece[len(found) :]
