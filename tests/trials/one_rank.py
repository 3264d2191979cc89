"""One rank of a small run with a fault, started by torchrun.

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

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from beit_mm.engine import StopOnSignal, launch, process_group
from beit_mm.registry import DATASETS, HOOKS, MODELS

FAULT, WORK_DIR = sys.argv[1], Path(sys.argv[6])
FAULTY, ITERATION, ITERATIONS, TIMEOUT = map(int, sys.argv[2:6])
RANK, RESTART = int(os.environ['RANK']), int(os.environ['TORCHELASTIC_RESTART_COUNT'])


@MODELS.register_module()
class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(2, 2)
        self.fault = ''  # of this iteration

    def forward(self, inputs: list, data_samples: object = None, mode: str = 'loss') -> dict:
        if self.fault == 'forward':
            time.sleep(3600)
        x = torch.stack(list(inputs)) * (math.nan if self.fault == 'nan' else 1.0)
        return dict(loss=self.body(x).square().mean())


@DATASETS.register_module()
class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict:
        sample = BaseDataElement(metainfo=dict(img_path=f'{i}.jpg'))
        return dict(inputs=torch.full((2,), i / 64), data_samples=sample)


@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, batch_idx: int, data_batch: object = None) -> None:
        time.sleep(0.05)
        model = runner.model.module
        model.fault = ''
        if (runner.iter + 1, RANK, RESTART) != (ITERATION, FAULTY, 0):
            return
        model.fault = FAULT
        saved = [path.name for path in WORK_DIR.glob('iter_*.pth')]
        (WORK_DIR / 'fault.tmp').write_text(json.dumps(dict(time=time.monotonic(), saved=saved)))
        (WORK_DIR / 'fault.tmp').rename(WORK_DIR / 'fault')
        if FAULT == 'diverge':
            model.body.bias.data[0] += 1e-6
        if FAULT == 'raise':
            raise OSError(f'the disk of rank {RANK}')
        if FAULT in ('kill', 'stop'):
            os.kill(os.getpid(), signal.SIGKILL if FAULT == 'kill' else signal.SIGSTOP)


(WORK_DIR / f'pid_{RANK}_{RESTART}').write_text(str(os.getpid()))
loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
cfg = dict(
    default_scope='beit_mm',
    work_dir=str(WORK_DIR),
    launcher='pytorch',
    model=dict(type='Toy'),
    train_dataloader=dict(loader, dataset=dict(type='Numbers')),
    train_cfg=dict(by_epoch=False, max_iters=ITERATIONS),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    param_scheduler=[dict(type='ConstantLR', by_epoch=False, factor=1.0)],
    env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=TIMEOUT)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
    custom_hooks=[dict(type='Fault'), dict(type='Watchdog', interval=2, checksum_interval=2)],
)
runner = launch.build_runner(Config(cfg))
runner.register_hook(StopOnSignal())
runner.train()
process_group.leave()
