from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader


@pytest.fixture(autouse=True)
def without_layout(unformatted):
    """Runners, and their forks, without laying out their configs."""


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Runner]:
    """Train a model on batches of samples with one hook, and return the Runner."""
    runs = count()

    def call(
        model, samples: list, hook: Hook, iters: int, resume: bool = False, **loader
    ) -> Runner:
        runner = Runner(
            model=model,
            work_dir=str(tmp_path),
            train_dataloader=DataLoader(samples, **loader),
            train_cfg=dict(by_epoch=False, max_iters=iters),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
                logger=dict(type='LoggerHook', interval=3),
            ),
            custom_hooks=[hook],
            resume=resume,
            randomness=dict(seed=1),
            experiment_name=f'{tmp_path.name}_{next(runs)}',
            cfg=Config({}),
        )
        runner.train()
        return runner

    return call
