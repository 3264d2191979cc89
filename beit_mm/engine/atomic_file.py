"""Files that are written completely or not at all, even if the process or the power fails."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_WRITE_BYTES = 1 << 24  # per call
_open_descriptors: set[int] = set()


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a temporary file, flush it to disk and rename it to `path`.

    Raises OSError that names the path, the size and the free space, and leaves `path` unchanged.
    """
    parts = list(parts)
    partial = path.with_name(f'.{path.name}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_flush(partial, parts)
        os.replace(partial, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # removed by the next run, see `remove_partial_files`
            os.unlink(partial)
        if not isinstance(error, OSError):
            raise
        raise OSError(error.errno, _explain(path, sum(map(len, parts)), error)) from error


def remove_file(path: Path) -> None:
    """Remove a file, if it exists, and flush the removal to disk."""
    with suppress(FileNotFoundError):
        os.unlink(path)
        _flush_folder(path.parent)


def remove_partial_files(folder: Path) -> list[Path]:
    """Remove the temporary files of killed runs; return their paths."""
    partial = [path for path in folder.glob('.*.tmp') if path.is_file()]
    for path in partial:
        remove_file(path)
    return partial


def _write_and_flush(path: Path, parts: list[bytes | memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    _open_descriptors.add(descriptor)
    try:
        for part in map(memoryview, parts):
            while part:
                part = part[os.write(descriptor, part[:_WRITE_BYTES]) :]
        os.fsync(descriptor)
    finally:
        _open_descriptors.discard(descriptor)
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make a renaming or removal in `folder` permanent."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(path: Path, size: int, error: OSError) -> str:
    free = 'the folder was not found'
    if path.parent.is_dir():
        free = f'{shutil.disk_usage(path.parent).free} are free'
    return (
        f'{path} of {size} bytes could not be written ({error.strerror or error}; {free}). Earlier '
        'files are unchanged: free some space, or choose another folder with --work-dir, and '
        'continue with --resume'
    )


def _close_descriptors() -> None:
    """Close files of the parent: a worker would keep the disk space of a removed checkpoint."""
    for descriptor in _open_descriptors:
        os.close(descriptor)
    _open_descriptors.clear()


os.register_at_fork(after_in_child=_close_descriptors)
