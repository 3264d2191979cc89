"""Hooks that make a resumed run identical, bit by bit, to one that was not interrupted."""

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..data.seeded import seed_all
from ..data.seeded_dataset import SeededDataset
from ..registry import HOOKS
from ..utils.unwrap_model import unwrap_model

_MODEL_KEY = 1  # a fourth number, since samples are keyed by three: (seed, epoch, index)


@HOOKS.register_module()
class KeyedRandomness(Hook):
    """Hook that seeds each training iteration by (seed, rank, iteration).

    Dropout, drop path, noise and mixup depend on nothing else.

    Seeds Python, NumPy, torch's CPU and every CUDA device. The seed is the Runner's
    (`randomness.seed`), which checkpoints keep. With gradient accumulation, each micro-batch is an
    iteration. `launch.build_runner` adds this hook to every run.
    """

    priority = 'HIGHEST'  # other hooks draw from these generators, too

    def before_train_iter(self, runner: Runner, batch_idx: int, **_: object) -> None:
        seed = seed_all(runner.seed, get_rank(), runner.iter, _MODEL_KEY)
        torch.cuda.manual_seed_all(seed)


@HOOKS.register_module()
class ExactResume(Hook):
    """Hook that saves and restores what mmengine's checkpoints lack for an exact resume.

    - `meta['samples_of_epoch']`: samples of the epoch that all ranks have trained on. The sampler
      skips them.
    - `meta['sampler_seed']`: a sampler without a seed in the config draws one at random.
    - `meta['data_seed']` of a SeededDataset. Resuming with another seed raises ValueError.
    - `gradients`: name → gradient accumulated since the last optimizer step, averaged over ranks.
      Saving inside an accumulation replaces the gradients of every rank by this average, so that
      the saving run and a resumed one, with any number of ranks, continue alike. All ranks have to
      call `runner.save_checkpoint`, as CheckpointHook does.

    `launch.build_runner` adds this hook to every run.
    """

    def __init__(self):
        self.loaded: dict = {}
        self.epoch, self.batches = 0, 0  # batches of this epoch that were trained on
        self.gradients: dict = {}

    # -- save

    def before_train_iter(self, runner: Runner, batch_idx: int, **_: object) -> None:
        self.epoch, self.batches = runner.epoch, batch_idx + 1

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta, loader = checkpoint['meta'], runner.train_dataloader
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            # The validation after an epoch saves when the next epoch has no batch yet.
            inside_epoch = meta['epoch'] == runner.epoch == self.epoch
            meta['samples_of_epoch'] = self.batches * _global_batch(loader) if inside_epoch else 0
        if hasattr(loader.sampler, 'seed'):
            meta['sampler_seed'] = loader.sampler.seed
        if isinstance(loader.dataset, SeededDataset):
            meta['data_seed'] = loader.dataset.seed
        if self.gradients and 'optimizer' in checkpoint:
            checkpoint['gradients'] = self.gradients

    def _average_gradients_before_saving(self, runner: Runner) -> None:
        """Wrap `runner.save_checkpoint`, since only one rank calls `before_save_checkpoint`."""
        save = runner.save_checkpoint

        def save_checkpoint(*args, **kwargs) -> None:
            wrapper = runner.optim_wrapper
            accumulating = isinstance(wrapper, OptimWrapper) and not wrapper.should_update()
            self.gradients = _average_gradients(unwrap_model(runner)) if accumulating else {}
            save(*args, **kwargs)

        runner.save_checkpoint = save_checkpoint

    # -- resume

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            _check_training_state(runner, checkpoint)
        self.loaded = dict(checkpoint.get('meta') or {}, gradients=checkpoint.get('gradients', {}))

    def before_train(self, runner: Runner) -> None:
        self._average_gradients_before_saving(runner)
        if not runner.iter:  # a new run that starts from these weights
            self.loaded = {}
        if 'sampler_seed' in self.loaded:
            runner.train_dataloader.sampler.seed = self.loaded['sampler_seed']
        seed = getattr(runner.train_dataloader.dataset, 'seed', None)
        if seed is not None and self.loaded.get('data_seed', seed) != seed:
            raise ValueError(
                f'--resume: the run drew its crops with seed {self.loaded["data_seed"]}, this '
                f'config has seed {seed}: set randomness.seed or train_dataloader.dataset.seed back'
            )
        parameters = dict(unwrap_model(runner).named_parameters())
        gradients = self.loaded.get('gradients', {})
        for name, gradient in gradients.items():
            parameters[name].grad = gradient.to(parameters[name])
        if gradients:  # mmengine has just warned that they are lost
            runner.logger.info('the accumulated gradients were restored')

    def before_train_epoch(self, runner: Runner) -> None:
        loop, loader = runner.train_loop, runner.train_dataloader
        loop.first_batch, self.epoch, self.batches = 0, runner.epoch, 0
        samples, self.loaded = self.loaded.get('samples_of_epoch', 0), {}
        if not samples:
            return
        if not hasattr(loader.sampler, 'skip'):
            runner.logger.warning(
                f'{type(loader.sampler).__name__} cannot start inside an epoch, so epoch '
                f'{runner.epoch + 1} starts anew: use sampler=dict(type="beit_mm.KeyedSampler")'
            )
            return
        loop.first_batch = self.batches = samples // _global_batch(loader)
        loader.sampler.skip(self.batches * loader.batch_size)


def _check_training_state(runner: Runner, checkpoint: dict) -> None:
    """Raise ValueError for weights alone: mmengine would resume with a new optimizer."""
    needed = ['meta', 'message_hub', 'optimizer']
    needed += ['param_schedulers'] if runner.param_schedulers else []
    missing = [key for key in needed if not checkpoint.get(key)]
    if missing:
        raise ValueError(
            f'--resume: {runner._load_from} has no {", ".join(missing)}, so a run cannot continue '
            'from it (best_*.pth and published weights hold no training state). Resume from a '
            'checkpoint that CheckpointHook saved with save_optimizer=True and '
            'save_param_scheduler=True, or start a new run from these weights: --cfg-options '
            f'load_from={runner._load_from}, without --resume'
        )


def _global_batch(loader: DataLoader) -> int:
    return loader.batch_sampler.batch_size * get_world_size()


def _average_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Average gradients over ranks, in place; return copies of them on the CPU."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    exists = torch.tensor([p.grad is not None for p in parameters.values()], dtype=torch.uint8)
    all_reduce(exists, 'max')  # a parameter may have a gradient on some ranks only
    copies = {}
    for (name, p), on_any_rank in zip(parameters.items(), exists.tolist(), strict=True):
        if on_any_rank:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            all_reduce(p.grad, 'mean')
            copies[name] = p.grad.cpu().clone()
    return copies
