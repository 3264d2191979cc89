"""One rank of the toy run with a fault, started by torchrun.

Usage: one_rank.py FAULT RANK ITERATION ITERATIONS TIMEOUT WORK_DIR

Rank RANK has its fault once, at the start of that iteration. It then writes WORK_DIR/fault: the
time and the checkpoints on disk. The run saves and compares weights every second iteration.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from mmengine.hooks import Hook
from trials import toy

from beit_mm.registry import HOOKS

FAULT, WORK_DIR = sys.argv[1], Path(sys.argv[6])
FAULTY, ITERATION, ITERATIONS, TIMEOUT = map(int, sys.argv[2:6])
RANK, RESTART = int(os.environ['RANK']), int(os.environ['TORCHELASTIC_RESTART_COUNT'])


@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, batch_idx: int, data_batch: dict) -> None:
        time.sleep(0.05)
        if (runner.iter + 1, RANK, RESTART) != (ITERATION, FAULTY, 0):
            return
        saved = [path.name for path in WORK_DIR.glob('iter_*.pth')]
        (WORK_DIR / 'fault.tmp').write_text(json.dumps(dict(time=time.monotonic(), saved=saved)))
        (WORK_DIR / 'fault.tmp').rename(WORK_DIR / 'fault')
        linear = runner.model.module.linear
        if FAULT == 'forward':
            linear.register_forward_pre_hook(lambda *_: time.sleep(3600))
        if FAULT == 'nan':
            data_batch['inputs'] *= math.nan
        if FAULT == 'diverge':
            linear.bias.data[0] += 1e-6
        if FAULT == 'raise':
            raise OSError(f'the disk of rank {RANK}')
        if FAULT in ('kill', 'stop'):
            os.kill(os.getpid(), signal.SIGKILL if FAULT == 'kill' else signal.SIGSTOP)


(WORK_DIR / f'pid_{RANK}_{RESTART}').write_text(str(os.getpid()))
toy.light()
cfg = toy.config(WORK_DIR, iters=ITERATIONS, interval=2, val=100, resume=False, launcher='pytorch')
cfg.env_cfg = dict(dist_cfg=dict(backend='gloo', timeout=TIMEOUT))
cfg.custom_hooks = [dict(type='Fault'), dict(type='Watchdog', interval=2, checksum_interval=2)]
toy.train(cfg)
