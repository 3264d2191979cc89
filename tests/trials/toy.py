"""A run small enough to be killed hundreds of times, forked after all imports."""

import importlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from beit_mm.engine import StopOnSignal, launch, process_group
from beit_mm.engine.signals import SIGNALS
from beit_mm.registry import DATASETS, METRICS, MODELS

ROOT = Path(__file__).parents[2]
WIDTH = 256  # a checkpoint has 3 × 4 × width² bytes
runners: list[Runner] = []  # of `train`; the last one is running


@DATASETS.register_module(force=True)
class ToyNoise(Dataset):
    """Eight vectors, drawn anew each time."""

    def __init__(self, width: int):
        self.width = width

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.randn(self.width) + index)


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    def __init__(self, width: int):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, inputs: torch.Tensor, mode: str = 'loss') -> object:
        loss = (self.linear(inputs) - inputs).square().mean()
        return dict(loss=loss) if mode == 'loss' else [dict(loss=loss)]


@METRICS.register_module(force=True)
class ToyLoss(BaseMetric):
    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        self.results.append(float(data_samples[0]['loss']))

    def compute_metrics(self, results: list[float]) -> dict:
        return dict(loss=sum(results))


def config(
    work_dir: Path,
    iters: int = 8,
    epochs: bool = False,
    interval: int = 1,
    val: int = 2,
    workers: int = 0,
    **settings: object,
) -> Config:
    """Return a config that keeps the last and the best checkpoint.

    It saves every `interval` and validates every `val` iterations, or every epoch of four.
    """
    data = dict(type='SeededDataset', dataset=dict(type='ToyNoise', width=WIDTH))
    loader = dict(batch_size=2, dataset=data, collate_fn=dict(type='default_collate'))
    sampler = dict(type='KeyedSampler', seed=0, infinite=not epochs)
    by_iteration = dict(by_epoch=False, max_iters=iters, val_interval=val)
    cfg = dict(
        default_scope='beit_mm',
        model=dict(type='ToyModel', width=WIDTH),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, num_workers=workers, sampler=sampler),
        val_dataloader=dict(
            loader, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_evaluator=dict(type='ToyLoss'),
        val_cfg=dict(),
        train_cfg=dict(by_epoch=True, max_epochs=iters // 4) if epochs else by_iteration,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=iters)],
        randomness=dict(seed=0),
        log_level='INFO',
        resume=True,
    )
    checkpoint = dict(type='CheckpointHook', interval=interval, by_epoch=epochs, max_keep_ckpts=1)
    checkpoint.update(save_best='loss', rule='less')
    return Config(cfg | dict(default_hooks=dict(checkpoint=checkpoint)) | settings)


def write_config(cfg: Config, path: Path) -> dict[str, str]:
    """Write a config file; return the environment in which the tools train it without a GPU."""
    cfg.custom_imports = dict(imports=['trials.toy'])
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    folders = [str(ROOT / 'tests'), os.environ.get('PYTHONPATH', ''), str(ROOT)]
    env = os.environ | dict(PYTHON=sys.executable, PORT=str(free_port()))
    env |= dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
    return env | dict(PYTHONPATH=os.pathsep.join(filter(None, folders)))


def train(cfg: Config, each: Callable | None = None) -> None:
    """Train as tools/train.py does; `each(iteration)` is called after every iteration."""

    class Each(Hook):
        priority = 95  # after the checkpoint, before StopOnSignal

        def after_train_iter(self, runner: Runner, **_: object) -> None:
            each(runner.iter + 1)

    runner = launch.build_runner(cfg)
    runners.append(runner)
    runner.register_hook(StopOnSignal())
    if each:
        runner.register_hook(Each())
    runner.train()
    process_group.leave()


def run(work_dir: Path, each: Callable | None = None, **settings: object) -> int:
    """Return the exit code of a run in its own process, which appends to `log` beside work_dir."""
    process = start(train, config(work_dir, **settings), each, log=work_dir.parent / 'log')
    process.join()
    return process.exitcode


def start(
    call: Callable, *args: object, log: Path, rank: int | None = None, ranks: int = 1, port: int = 0
) -> BaseProcess:
    """Fork a process, one of `ranks`, that calls a function and prints to `log`."""

    def become() -> None:
        sys.stdout = sys.stderr = log.open('a', buffering=1)  # instead of pytest's capture
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        if rank is not None:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
            os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        torch.set_num_threads(1)  # replaces the thread pool, which did not survive the fork
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as tools/train.py does
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            call(*args)
        except Exception:
            traceback.print_exc()
            os._exit(1)

    process = multiprocessing.get_context('fork').Process(target=become)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # early signals wait
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process


def run_ranks(call: Callable[[int], None], ranks: int, folder: Path) -> None:
    """Call a function with each rank, in processes of their own; all have to succeed."""
    port, logs = free_port(), [folder / f'log_{rank}' for rank in range(ranks)]
    processes = [
        start(call, rank, log=log, rank=rank, ranks=ranks, port=port)
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs, strict=True):
        process.join(300)
        assert process.exitcode == 0, log.read_text()[-3000:]


def free_port() -> int:
    """Return a free port below the range of outgoing connections."""
    while True:
        with socket.socket() as free:
            try:
                free.bind(('127.0.0.1', random.SystemRandom().randrange(20_000, 32_768)))
            except OSError:
                continue
            return free.getsockname()[1]


def light() -> None:
    """Use one thread and do not format configs, which takes seconds, also in forks."""
    torch.set_num_threads(1)
    for name in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
        importlib.import_module(name).FormatCode = lambda text, **_: (text, True)
