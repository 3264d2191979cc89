"""Rank 0 watches the other ranks and ends the run if one of them dies or hangs."""

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

from ..utils.arguments import join_names

_BEAT_SECONDS = 1.0
_DEATH_SECONDS = 3.0  # after a rank's death the others may raise an error with a traceback
_START = dict(ticks=0, place='start', machine=None, pid=0, finished=False)


class RankMonitor(threading.Thread):
    """Thread that ends this process when a rank dies or makes no progress for `timeout` seconds.

    Each rank writes its own heartbeat. Rank 0 reads all of them in one request and, if a rank died
    or hangs, writes a verdict that names it; the others read the verdict. A rank whose main thread
    moves on calls `tick`. The death of a rank is noticed on rank 0's machine only: on other
    machines the launcher ends the run.
    """

    def __init__(self, timeout: float):
        super().__init__(name='rank monitor', daemon=True)
        self.rank = torch.distributed.get_rank()
        # A connection of its own: the main thread may block the shared one while it waits.
        self.store = torch.distributed.distributed_c10d._get_default_store().clone()
        prefix = f'beit_mm/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}'
        world_size = torch.distributed.get_world_size()
        self.heartbeats = [f'{prefix}/{rank}' for rank in range(world_size)]
        self.verdict = f'{prefix}/verdict'
        # Rank 0 decides before the others give up on it, and they before a collective times out,
        # whose error names no rank.
        margin = min(5.0, timeout / 10)
        self.deadline = timeout - margin * (2 if self.rank == 0 else 1)
        self.machine = _machine_id()
        self.seen: dict[int, tuple[int, float]] = {}  # of each rank: ticks, and since when
        self.death_time: float | None = None
        self.ticks, self.finished, self.stopped = 0, False, threading.Event()
        self.tick('start')
        if self.rank == 0:
            for key in self.heartbeats:
                self.store.compare_set(key, '', json.dumps(_START))  # unless the rank was faster
        self._write_heartbeat()
        atexit.register(self.stop)

    def tick(self, place: str) -> None:
        """Note that the main thread has reached a place, such as 'iteration 7, forward'."""
        self.place, self.since = place, time.monotonic()
        self.ticks += 1

    def finish(self) -> None:
        """Stop watching and being watched, at the end of training."""
        self.stop()
        self.finished = True
        with suppress(RuntimeError):
            self._write_heartbeat()

    def stop(self) -> None:
        """Stop the thread: at exit, one that uses the store would abort the process (SIGABRT)."""
        self.stopped.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        with suppress(RuntimeError):  # the store's process has ended, and so will this one
            while not self.stopped.wait(_BEAT_SECONDS):
                self._write_heartbeat()
                if self.rank == 0:
                    self._judge()
                elif self.store.check([self.verdict]):
                    self._end(**json.loads(self.store.get(self.verdict)))
                elif time.monotonic() - self.since > self.deadline:
                    self._end_without_verdict()

    # -- heartbeats

    def _write_heartbeat(self) -> None:
        state = dict(ticks=self.ticks, place=self.place, machine=self.machine, pid=os.getpid())
        self.store.set(self.heartbeats[self.rank], json.dumps(state | dict(finished=self.finished)))

    # -- rank 0

    def _judge(self) -> None:
        states = dict(enumerate(map(json.loads, self.store.multi_get(self.heartbeats))))
        running = {rank: state for rank, state in states.items() if not state['finished']}
        dead = [rank for rank, state in running.items() if self._is_dead(state)]
        if dead:
            self.death_time = self.death_time or time.monotonic()
            if time.monotonic() - self.death_time > _DEATH_SECONDS:
                self._give_verdict(f'{_names(dead)} ended unexpectedly', dead, states)
            return

        longest = max(map(self._seconds_at_one_place, running, running.values()), default=0)
        if longest > self.deadline:
            least = min(state['ticks'] for state in running.values())
            behind = [rank for rank, state in running.items() if state['ticks'] == least]
            where = f'{_names(behind)} behind the others'
            if len(behind) == len(running):
                where = 'all ranks at the same place'
            self._give_verdict(f'no progress for {longest:.0f} s, {where}', behind, states)

    def _seconds_at_one_place(self, rank: int, state: dict) -> float:
        now = time.monotonic()
        if rank not in self.seen or self.seen[rank][0] != state['ticks']:
            self.seen[rank] = state['ticks'], now
        return now - self.seen[rank][1]

    def _is_dead(self, state: dict) -> bool:
        if state['machine'] != self.machine:
            return False
        try:
            os.kill(state['pid'], 0)
        except (ProcessLookupError, PermissionError):  # the latter: another user's process by now
            return True
        return False

    def _give_verdict(self, words: str, culprits: list[int], states: dict[int, dict]) -> None:
        places = '; '.join(f'rank {rank} at {states[rank]["place"]}' for rank in culprits[:8])
        others = [state['place'] for rank, state in states.items() if rank not in culprits]
        words = f'{words}: {places}' + (f'; others at {others[-1]}' if others else '')
        processes = [(states[rank]['machine'], states[rank]['pid']) for rank in culprits]
        verdict = dict(words=words, culprits=culprits, processes=processes)
        self.store.set(self.verdict, json.dumps(verdict))
        self._end(**verdict)

    # -- end

    def _end_without_verdict(self) -> None:
        state = json.loads(self.store.get(self.heartbeats[0]))
        if not state['finished']:
            words = f'no progress, rank 0 behind the others: rank 0 at {state["place"]}, it hangs'
            self._end(words, [0], [(state['machine'], state['pid'])])

    def _end(self, words: str, culprits: list[int], processes: list[tuple[str, int]]) -> None:
        sys.stderr.write(f'beit_mm, rank {self.rank}: {words}\n')
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        if self.rank not in culprits:
            time.sleep(2 * _BEAT_SECONDS)  # a culprit that can read the verdict ends by itself
            for machine, pid in processes:  # a stopped process cannot: it needs SIGKILL
                if machine == self.machine:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
        os._exit(1)


def _machine_id() -> str:
    """Return an id of this machine or container: two of them may have the same host name."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return boot + os.readlink('/proc/self/ns/pid')
    except OSError:
        return f'{socket.gethostname()} {uuid.getnode()}'


def _names(ranks: list[int]) -> str:
    return f'rank{"s" if len(ranks) > 1 else ""} {join_names(list(map(str, ranks)))}'
