"""The report of a loaded checkpoint: what happened to each of its keys."""

import re
from dataclasses import dataclass, field

from mmengine.logging import print_log


@dataclass
class KeyReport:
    """Table of the status of each key: loaded, new, skipped, resized, expanded or adapted."""

    title: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # status, key, note

    def add(self, status: str, key: str, note: str = '') -> None:
        self.rows.append((status, key, note))

    def __str__(self) -> str:
        """Return one row per status and kind of key. Blocks of different numbers are one kind."""
        counts: dict[tuple[str, str, str], int] = {}
        for status, key, note in self.rows:
            kind = '' if status == 'loaded' else re.sub(r'(blocks|layers?)\.\d+\.', r'\1.*.', key)
            counts[status, kind, note] = counts.get((status, kind, note), 0) + 1
        lines = [f'{self.title}:', f'  {"keys":>5}  {"status":<9}  which']
        for (status, kind, note), count in counts.items():
            which = f'{kind} ({note})' if note else kind
            lines.append(f'  {count:>5}  {status:<9}  {which}'.rstrip())
        return '\n'.join(lines)

    def log(self) -> None:
        print_log(str(self), logger='current')
