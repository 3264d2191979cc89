"""Integrity of checkpoint files: torch.load does not check the CRC-32 of their zip entries."""

import re
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

_SAVED = b'beit_mm saved:'


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a file that `torch.save` wrote, or None if it is intact.

    An entry that is marked as a folder is damaged, too: torch would return uninitialized memory.
    """
    try:
        if not zipfile.is_zipfile(path):
            size = path.stat().st_size
            return f'it is cut off or no checkpoint: {size} bytes without the end of a zip file'
        with zipfile.ZipFile(path) as archive:
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & 0x10]
            entry = folders[0] if folders else archive.testzip()
    except Exception as error:  # zipfile, zlib and struct raise many types for damaged bytes
        return f'it is damaged: {error}'
    return f'it is damaged: its entry {entry} does not match its checksum' if entry else None


def find_newest(paths: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """Return the intact file that was saved last, or None, and one line per newer damaged file."""
    files, damaged = [path for path in paths if path.is_file()], []
    for path in sorted(files, key=lambda path: (read_save_time(path), path.name), reverse=True):
        problem = find_damage(path)
        if problem is None:
            return path, damaged
        damaged.append(f'{path}: {problem}')
    return None, damaged


def add_save_time(archive: bytes) -> list[bytes | memoryview]:
    """Return the parts of the zip file `archive`, with the current time as its comment.

    The comment survives copying, unlike the time of the file system. Readers, also torch.load,
    ignore it.
    """
    comment = _SAVED + b'%020d' % time.time_ns()
    return [memoryview(archive)[:-2], len(comment).to_bytes(2, 'little') + comment]


def read_save_time(path: Path) -> int:
    """Return when a checkpoint was saved, in ns since 1970: by its comment or the file system."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = re.match(_SAVED + rb'(\d{20})', archive.comment)
    except Exception:  # a damaged file, which `find_damage` describes
        found = None
    return int(found[1]) if found else path.stat().st_mtime_ns
