"""Randomness of the model is a function of (seed, rank, iteration): dropout, drop path, Gumbel noise, mixup and cutmix."""

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..data.seeded import seed_all
from ..registry import HOOKS

MODEL = 1  # a fourth number in the key: no sample, whose key is (seed, epoch, index), shares the draws of an iteration


@HOOKS.register_module()
class KeyedRandomness(Hook):
    """Before each training iteration, seed python, NumPy, torch's CPU and every CUDA device by (seed, rank, iteration).

    The seed is the Runner's, `randomness.seed` of the config, which a checkpoint keeps. With accumulation each micro-batch
    is an iteration. `launch.build_runner` adds this hook to every run. It comes first, so that other hooks draw from it too.
    """

    priority = 'HIGHEST'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        torch.cuda.manual_seed_all(seed_all(runner.seed, get_rank(), runner.iter, MODEL))
