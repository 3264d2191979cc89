"""What a stock checkpoint lacks for a resumed run to go on as if it had never stopped; all of it is in `ExactResume`."""

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..data.seeded import SeededDataset
from ..registry import HOOKS
from ..utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class ExactResume(Hook):
    """Keep in the checkpoint, and restore, the place in an epoch, the sampler's seed and gradients that are being accumulated.

    - `meta['samples_of_epoch']`: samples of the epoch that all ranks have trained on; the sampler skips them (`skip`).
    - `meta['sampler_seed']`: without one in the config it was drawn at random.
    - `meta['data_seed']`: of a SeededDataset; ValueError where the run that goes on has another.
    - `gradients`: name → mean over ranks, only between two updates. Saving there makes every rank's gradient that mean, so
      that the file holds one model's, any number of ranks can go on with it, and the run that goes on does as the resumed
      one will. All ranks have to call `runner.save_checkpoint`, as CheckpointHook's do.

    `launch.build_runner` adds this hook to every run.
    """

    def __init__(self):
        self.loaded: dict = {}
        self.batches, self.epoch = 0, 0  # batches of which epoch, trained on
        self.gradients: dict = {}

    # -- save ------------------------------------------------------------------------------------------------------------

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        self.batches, self.epoch = batch_idx + 1, runner.epoch

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta, loader = checkpoint['meta'], runner.train_dataloader
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            # A best checkpoint is saved by the validation behind an epoch, when the next one has no batch yet.
            batches = self.batches if meta['epoch'] == runner.epoch == self.epoch else 0
            meta['samples_of_epoch'] = batches * _global_batch(loader)
        if hasattr(loader.sampler, 'seed'):
            meta['sampler_seed'] = loader.sampler.seed
        if isinstance(loader.dataset, SeededDataset):
            meta['data_seed'] = loader.dataset.seed
        if self.gradients and 'optimizer' in checkpoint:
            checkpoint['gradients'] = self.gradients

    def _share_gradients_before_saving(self, runner: Runner) -> None:
        """On all ranks: `before_save_checkpoint` is called on one, which cannot ask the others there."""
        save = runner.save_checkpoint

        def save_checkpoint(*args, **kwargs) -> None:
            between = (
                isinstance(runner.optim_wrapper, OptimWrapper)
                and not runner.optim_wrapper.should_update()
            )
            self.gradients = _mean_gradients(unwrap_model(runner)) if between else {}
            save(*args, **kwargs)

        runner.save_checkpoint = save_checkpoint

    # -- resume ----------------------------------------------------------------------------------------------------------

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            self._refuse_incomplete(runner, checkpoint)
        self.loaded = dict(checkpoint.get('meta') or {}, gradients=checkpoint.get('gradients', {}))

    @staticmethod
    def _refuse_incomplete(runner: Runner, checkpoint: dict) -> None:
        """mmengine would begin with a new optimizer, and its schedules at step 0, without a word."""
        needed = [
            'meta',
            'message_hub',
            'optimizer',
            *(['param_schedulers'] if runner.param_schedulers else []),
        ]
        if missing := [key for key in needed if not checkpoint.get(key)]:
            raise ValueError(
                f'--resume: {runner._load_from} has no {", ".join(missing)}, so a run cannot continue from it (best_*.pth and '
                'published weights hold no training state). Resume from a checkpoint that CheckpointHook saved with '
                'save_optimizer=True and save_param_scheduler=True, or start a new run from these weights: --cfg-options '
                f'load_from={runner._load_from}, without --resume'
            )

    def before_train(self, runner: Runner) -> None:
        self._share_gradients_before_saving(runner)
        if not runner.iter:  # a new run, from these weights
            self.loaded = {}
        if 'sampler_seed' in self.loaded:
            runner.train_dataloader.sampler.seed = self.loaded['sampler_seed']
        own = getattr(runner.train_dataloader.dataset, 'seed', None)
        if own is not None and self.loaded.get('data_seed', own) != own:
            raise ValueError(
                f'resume: the run drew its crops by seed {self.loaded["data_seed"]}, now it would by {own}: set randomness.seed, '
                'or train_dataloader.dataset.seed, back'
            )
        parameters = dict(unwrap_model(runner).named_parameters())
        for name, gradient in self.loaded.get('gradients', {}).items():
            parameters[name].grad = gradient.to(parameters[name])
        if self.loaded.get('gradients'):  # mmengine has just warned that they are lost
            runner.logger.info('the gradients of the update that was broken off were restored')

    def before_train_epoch(self, runner: Runner) -> None:
        loop, loader = runner.train_loop, runner.train_dataloader
        loop.first_batch, self.batches, self.epoch = 0, 0, runner.epoch
        samples, self.loaded = self.loaded.get('samples_of_epoch', 0), {}
        if not samples:
            return
        if not hasattr(loader.sampler, 'skip'):
            runner.logger.warning(
                f'{type(loader.sampler).__name__} cannot start inside an epoch, so epoch {runner.epoch + 1} begins anew: use '
                'sampler=dict(type="beit_mm.KeyedSampler")'
            )
            return
        loop.first_batch = self.batches = samples // _global_batch(loader)
        loader.sampler.skip(self.batches * loader.batch_size)


def _global_batch(loader: DataLoader) -> int:
    return loader.batch_sampler.batch_size * get_world_size()


def _mean_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of parameters that have one on any rank, on the CPU; all ranks' become their mean."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    present = torch.tensor([p.grad is not None for p in parameters.values()], dtype=torch.uint8)
    all_reduce(present, 'max')
    found = {}
    for (name, p), there in zip(parameters.items(), present.tolist(), strict=True):
        if there:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            all_reduce(p.grad, 'mean')
            found[name] = p.grad.cpu().clone()
    return found
