"""Real torchrun and gloo: a fault of one rank ends or stops all of them, in time and by name; a restart goes on."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beit_mm.checkpoint.files import read_file

ROOT = Path(__file__).parents[2]
TIMEOUT = 15  # seconds, of a collective, and of ranks that wait for each other at the start
# Started by torchrun on each rank: python toy.py FAULT WORK_DIR. The fault is rank 1's, at iteration 5; 'apart': NaN there,
# and another weight at iteration 7.
TOY = """
import math, os, signal, sys, time
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from beit_mm.engine import launch
from beit_mm.registry import DATASETS, HOOKS, MODELS

fault, work_dir = sys.argv[1:]
rank, restart = int(os.environ['RANK']), int(os.environ['TORCHELASTIC_RESTART_COUNT'])
open(f'{work_dir}/pid_{rank}_{restart}', 'w').write(str(os.getpid()))

@MODELS.register_module()
class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(2, 2)
    def forward(self, inputs, data_samples=None, mode='loss'):
        if 'forward' in at: time.sleep(600)
        x = torch.stack(list(inputs)) * (math.nan if 'apart' in at else 1.0)
        return dict(loss=self.body(x).square().mean())

@DATASETS.register_module()
class Numbers(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i):
        sample = BaseDataElement(metainfo=dict(img_path=f'{i}.jpg'))
        return dict(inputs=torch.full((2,), i / 64), data_samples=sample)

at = set()

@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(0.05)
        at.clear()
        if runner.iter + 1 == 7 and rank == 1 and fault == 'apart':
            runner.model.module.body.bias.data[0] += 1e-6
        if runner.iter + 1 == 5 and rank == 1 and not restart:
            at.add(fault)
            if fault == 'raise': raise OSError('the disk of rank 1')
            if fault == 'kill': os.kill(os.getpid(), signal.SIGKILL)
            if fault == 'stop': os.kill(os.getpid(), signal.SIGSTOP)
        if fault == 'orphan': time.sleep(0.5)

cfg = Config(dict(
    default_scope='beit_mm', work_dir=work_dir, launcher='pytorch', model=dict(type='Toy'),
    train_dataloader=dict(dataset=dict(type='Numbers'), batch_size=2, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False)),
    train_cfg=dict(by_epoch=False, max_iters=8), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=TIMEOUT)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
    custom_hooks=[dict(type='Fault'), dict(type='Watchdog', interval=2, checksum_interval=2, patience=3)]))
if fault == 'orphan': cfg.train_cfg.max_iters = 500
launch.build_runner(cfg).train()
launch.leave()
"""


@pytest.fixture(autouse=True)
def nothing_lives_on(tmp_path):
    yield
    for pid in filter(alive, pids(tmp_path)):
        os.kill(pid, signal.SIGKILL)


def start(folder: Path, fault: str, ranks: int = 2, *words: str, port: int | None = None) -> subprocess.Popen:
    (folder / 'toy.py').write_text(TOY.replace('TIMEOUT', str(TIMEOUT)))
    if port is None:
        port = free_port()
    path = os.pathsep.join(filter(None, [os.environ.get('PYTHONPATH'), str(ROOT)]))
    env = os.environ | dict(PYTHONPATH=path, CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1')
    torchrun = [sys.executable, '-m', 'torch.distributed.run', f'--nproc-per-node={ranks}', '--master-addr=127.0.0.1']
    return subprocess.Popen(
        [*torchrun, f'--master-port={port}', *words, str(folder / 'toy.py'), fault, str(folder)],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def until(condition, seconds: float) -> float:
    """Waits for it, and gives how long that took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f'not within {seconds} s'
        time.sleep(0.1)
    return time.monotonic() - begin


def pids(folder: Path) -> list[int]:
    return [int(path.read_text() or 0) for path in folder.glob('pid_*')]


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def end(processes: list[subprocess.Popen], folder: Path, faulty: int, seconds: float) -> str:
    """Of runs whose rank `faulty` has its fault at iteration 5: what they print; none of them lives so long after it."""
    until((folder / 'iter_4.pth').is_file, 120)
    took = until(lambda: not any(map(alive, pids(folder))), seconds + 2)  # from iteration 4 to 5, on a busy machine
    words = ''.join(process.communicate(timeout=40)[0] for process in processes)
    assert all(process.returncode for process in processes), words
    print(f'{faulty=}: ended after {took:.1f} s')
    return words


@pytest.mark.parametrize(
    ('fault', 'seconds', 'said'),
    [
        ('kill', 10, r'rank +: 1 .*\n +exitcode +: -9|rank 1 is ended without a word'),
        ('raise', 10, 'the disk of rank 1'),
        pytest.param(
            'forward',
            TIMEOUT + 10,
            r'rank 1 is behind the others: .*rank 1 at iteration 5, forward \(toy\.py:\d+ forward\)',
            marks=pytest.mark.long,
        ),
        pytest.param(
            'stop', TIMEOUT + 10, 'rank 1 is behind the others: rank 0 at iteration 5, backward', marks=pytest.mark.long
        ),
    ],
)
def test_a_fault_of_one_rank_ends_all_in_time_and_names_it(fault, seconds, said, tmp_path):
    words = end([start(tmp_path, fault)], tmp_path, 1, seconds)
    assert re.search(said, words), words
    assert not (tmp_path / 'iter_6.pth').exists()


def test_no_rank_outlives_torchrun(tmp_path):
    torchrun = start(tmp_path, 'orphan')
    until((tmp_path / 'iter_2.pth').is_file, 120)
    torchrun.send_signal(signal.SIGKILL)
    torchrun.wait()
    took = until(lambda: not any(map(alive, pids(tmp_path))), 10)
    print(f'torchrun killed: ended after {took:.1f} s')


def test_a_restart_goes_on_from_the_last_checkpoint(tmp_path):
    run = start(tmp_path, 'kill', 2, '--max-restarts=1', '--monitor-interval=0.5')
    words = run.communicate(timeout=120)[0]
    assert run.returncode == 0, words
    assert len(pids(tmp_path)) == 4 and 'iter: 4' in words and (tmp_path / 'iter_8.pth').is_file()
    assert read_file(tmp_path / 'iter_8.pth')['meta']['iter'] == 8


def test_ranks_leave_out_the_same_update_and_stop_when_their_weights_part(tmp_path):
    run = start(tmp_path, 'apart')
    words = run.communicate(timeout=120)[0]
    assert re.search(r'iteration 5: rank 1: losses loss; samples: 17\.jpg, 19\.jpg\n', words), words
    assert all(value.isfinite().all() for value in read_file(tmp_path / 'iter_6.pth')['state_dict'].values())
    stop = 'iteration 8: ranks no longer hold the same weights, in 1 of 2 parameters, body.bias first: rank 0 ≠ rank 1'
    assert run.returncode and stop in words, words
    assert not (tmp_path / 'iter_8.pth').exists()


@pytest.mark.long
@pytest.mark.parametrize('fault', ['kill', 'raise', 'forward', 'stop'])
@pytest.mark.parametrize('nodes', [1, 2])
def test_four_ranks_and_two_agents_end_too(nodes, fault, tmp_path):
    port = free_port()
    agents = [
        start(tmp_path, fault, 4 // nodes, f'--nnodes={nodes}', f'--node-rank={node}', port=port)
        for node in range(nodes)
    ]
    words = end(agents, tmp_path, 1, 10 + (TIMEOUT if fault in ('forward', 'stop') else 0))
    assert re.search(r'rank 1 is behind' if fault in ('forward', 'stop') else r'rank +: 1 |rank 1', words), words
