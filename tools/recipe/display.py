"""Terminal output of the chain runner: a bar while a stage runs, one line when it has ended."""

import re
import time
from contextlib import suppress
from pathlib import Path

from reports.summary import metrics
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# `Iter(train) [ 50/1400]`, `Epoch(train)  [2][ 50/1000]` and `Epoch(test)  [ 50/100]` of mmengine,
# and a counter that rewrites its line.
_PROGRESS = re.compile(rb'(?:\((?:train|test)\)\s+|\r)(?:\[(\d+)\])?\[?\s*(\d+)/(\d+)')
_REFRESH_SECONDS = 0.5
_TAIL_LINES, _TAIL_BYTES = 20, 20_000
_HEADLINES = {
    'top1': 'top-1 {:.1f} %',
    'mIoU': 'mIoU {:.1f} %',
    'psnr': 'PSNR {:.1f} dB',
    'codes_used': '{:.0f} codes used',
    'masked_accuracy': '{:.1f} % of the masked tokens correct',
}


def say(text: str) -> None:
    print(text, flush=True)


class StageDisplay:
    """Context that shows on a terminal how far a command is, as read from its log.

    Elsewhere it prints one line with the log's path. `epochs` is the number of epochs if the log
    counts the iterations of each epoch.
    """

    def __init__(self, title: str, log: Path, epochs: int = 1):
        self.title, self.log, self.epochs = title, log, epochs
        self._read_bytes = log.stat().st_size if log.exists() else 0  # those of an earlier run
        self._next_refresh = 0.0
        self._bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn('eta'),
            TimeRemainingColumn(),
            console=Console(),
            transient=True,
            auto_refresh=False,  # a thread would not survive the fork of the stage
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> 'StageDisplay':
        if self._bar.console.is_terminal:
            self._bar.start()
            self._bar.refresh()
        else:
            say(f'{self.title}: started, log: {self.log}')
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar.live.is_started:
            with suppress(OSError):  # the terminal may be closed
                self._bar.stop()

    def update(self) -> None:
        """Read what is new in the log and redraw the bar, at most twice per second."""
        if not self._bar.live.is_started or time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + _REFRESH_SECONDS
        with suppress(OSError):
            if (share := self._new_share()) is not None:
                self._bar.update(self._task, completed=share, total=1)
            self._bar.refresh()

    def _new_share(self) -> float | None:
        """Return the finished share of the work if the log shows a new one."""
        with self.log.open('rb') as log:
            log.seek(self._read_bytes)
            text = log.read()
        self._read_bytes += len(text)
        found = _PROGRESS.findall(text)
        if not found:
            return None
        epoch, done, total = (int(number or 1) for number in found[-1])
        epochs = self.epochs if found[-1][0] else 1
        return (epoch - 1 + done / total) / epochs


def log_tail(log: Path) -> str:
    """Return the last lines of a log, indented."""
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors='replace').splitlines()
    return '\n'.join(f'   {line}' for line in lines[-_TAIL_LINES:])


def headline(stage_dir: Path) -> str:
    """Return the main metrics of a finished stage as text, '' if it has none of them."""
    found = metrics(stage_dir)
    return ', '.join(text.format(found[key]) for key, text in _HEADLINES.items() if key in found)
