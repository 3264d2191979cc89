"""Processes that train together end together: a parent's death, a restart, a rank that is gone or stands still, weights apart."""

import atexit
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor

from ..utils.processes import end_with_parent
from .atomic_checkpoint import earlier_checkpoints

_PARENT = os.getppid()  # as early as can be: torchrun may die while this process starts
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_UNKNOWN = dict(
    ticks=0, place='its start', line='nothing was heard of it', host=None, pid=0, finished=False
)
_GRACE = 3.0  # seconds in which the others may raise an error of their own, with a traceback


def die_with_parent() -> None:
    """Of a process that torchrun started: end as soon as torchrun does, whatever this process is at (Linux: by the kernel)."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return
    end_with_parent(signal.SIGKILL)

    def look() -> None:
        while os.getppid() == _PARENT:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=look, name='parent', daemon=True).start()


def resume_after_restart(cfg: Config) -> None:
    """Make a run that torchrun restarted resume from the newest checkpoint in its work_dir, in place."""
    restart = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))
    if not restart:
        return
    if earlier_checkpoints(cfg):
        cfg.resume, cfg.load_from = True, None
    else:
        print_log(
            f'restart {restart}: {cfg.work_dir} has no checkpoint yet, so the run starts again',
            'current',
            30,
        )


def restarted_store() -> dict:
    """What `init_process_group` needs after a restart; {} before any.

    The agent's store outlives its processes: without a prefix, ranks would find the addresses of those that are dead.
    """
    restart = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))
    if not restart or os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return {}
    rank, world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    store = torch.distributed.TCPStore(
        os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), is_master=False
    )
    return dict(
        store=torch.distributed.PrefixStore(f'restart {restart}', store),
        rank=rank,
        world_size=world_size,
    )


# -- weights apart -----------------------------------------------------------------------------------------------------


def checksums(tensors: list[Tensor]) -> Tensor:
    """int64 [N]: the sum of each tensor's bit patterns, exact in any order, on the device."""
    return torch.stack(
        [
            t.detach().contiguous().view(_BITS[t.element_size()]).sum(dtype=torch.int64)
            for t in tensors
        ]
    )


def apart(names: list[str], sums: list[list[int]]) -> str | None:
    """`sums`: a row of checksums a rank. Says which parameters differ first and between whom; None where none does."""
    differ = [i for i, column in enumerate(zip(*sums, strict=True)) if len(set(column)) > 1]
    if not differ:
        return None
    alike: dict[int, list[int]] = {}
    for rank, row in enumerate(sums):
        alike.setdefault(row[differ[0]], []).append(rank)
    groups = ' ≠ '.join(
        f'rank{"s" * (len(ranks) > 1)} {", ".join(map(str, ranks))}' for ranks in alike.values()
    )
    return f'{len(differ)} of {len(names)} parameters, {names[differ[0]]} first: {groups}'


# -- a rank that is gone or stands still -------------------------------------------------------------------------------


class Peers(threading.Thread):
    """Each rank tells the others where it is; who stands still for `timeout` seconds, or has lost a rank of its machine, ends.

    The last words name the rank that is behind. `tick(place)` is called by the main thread as it moves on.
    """

    def __init__(self, timeout: float):
        super().__init__(name='peers', daemon=True)
        self.rank, self.world_size = (
            torch.distributed.get_rank(),
            torch.distributed.get_world_size(),
        )
        # A connection of its own: the main thread may hold the other one while it waits.
        self.store = torch.distributed.distributed_c10d._get_default_store().clone()
        self.prefix = f'beit_mm/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}'
        self.deadline = timeout - min(
            5.0, timeout / 10
        )  # before a collective's own timeout, whose error names no rank
        self.main, self.host = threading.main_thread().ident, _machine()
        self.ticks, self.lost_at, self.finished, self.stopped = 0, None, False, threading.Event()
        self.tick('start')
        self._tell()
        atexit.register(self.halt)

    def tick(self, place: str) -> None:
        self.place, self.since = place, time.monotonic()
        self.ticks += 1

    def finish(self) -> None:
        """This rank is done: what it does from now on is its own affair, also to end."""
        self.halt()
        self.finished = True
        self._tell()

    def halt(self) -> None:
        """Before the interpreter ends: a thread that is in the store then takes the process with it, by SIGABRT."""
        self.stopped.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while not self.stopped.wait(0.5):
            self._tell()
            others = self._others()
            if gone := [rank for rank, state in others.items() if self._is_gone(state)]:
                self.lost_at = self.lost_at or time.monotonic()
                if time.monotonic() - self.lost_at > _GRACE:
                    self._end(f'{_ranks(gone)} ended without a word: {self._where(others)}')
            elif time.monotonic() - self.since > self.deadline:
                self._end(self._standing(others), others)

    def _standing(self, others: dict[int, dict]) -> str:
        everyone = others | {self.rank: self._state()}
        behind = [
            rank
            for rank, state in everyone.items()
            if state['ticks'] == min(s['ticks'] for s in everyone.values())
        ]
        who = (
            'all ranks are'
            if len(behind) == len(everyone)
            else f'{_ranks(behind)} behind the others'
        )
        return (
            f'no progress for {time.monotonic() - self.since:.0f} s, {who}: {self._where(everyone)}'
        )

    def _end(self, words: str, others: dict[int, dict] | None = None) -> None:
        sys.stderr.write(f'beit_mm, rank {self.rank}: {words}\n')
        faulthandler.dump_traceback(all_threads=False)
        sys.stderr.flush()
        for state in (others or {}).values():  # a stopped process does not look at the clock itself
            if state['ticks'] < self.ticks and state['host'] == self.host:
                os.kill(state['pid'], signal.SIGKILL)
        os._exit(1)

    def _state(self) -> dict:
        frame = sys._current_frames().get(self.main)
        line = (
            f'{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}'
            if frame
            else '?'
        )
        found = dict(ticks=self.ticks, place=self.place, line=line, host=self.host, pid=os.getpid())
        return found | dict(finished=self.finished)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # its server ended; then so does torchrun, or the collective
            self.store.set(f'{self.prefix}/{self.rank}', json.dumps(self._state()))

    def _others(self) -> dict[int, dict]:
        keys = {
            rank: f'{self.prefix}/{rank}' for rank in range(self.world_size) if rank != self.rank
        }
        try:
            told = {
                rank: self.store.get(key) if self.store.check([key]) else '{}'
                for rank, key in keys.items()
            }
            return {rank: _UNKNOWN | json.loads(state) for rank, state in told.items()}
        except RuntimeError:
            return {}

    def _is_gone(self, state: dict) -> bool:
        if state['finished'] or state['host'] != self.host:
            return False
        try:
            os.kill(state['pid'], 0)
        except (
            ProcessLookupError,
            PermissionError,
        ):  # the latter: its number went to another user's process
            return True
        return False

    @staticmethod
    def _where(states: dict[int, dict]) -> str:
        return '; '.join(
            f'rank {rank} at {state["place"]} ({state["line"]})'
            for rank, state in sorted(states.items())
        )


def _machine() -> str:
    """Where a process number means the same process; hosts of one name may be different machines, or containers."""
    try:
        return Path('/proc/sys/kernel/random/boot_id').read_text().strip() + os.readlink(
            '/proc/self/ns/pid'
        )
    except OSError:
        return f'{socket.gethostname()} {uuid.getnode()}'


def _ranks(ranks: list[int]) -> str:
    return f'rank{"s" * (len(ranks) > 1)} {", ".join(map(str, sorted(ranks)))} {"is" if len(ranks) == 1 else "are"}'
