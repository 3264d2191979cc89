"""Initialization of a tokenizer's codebook from data."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ...registry import HOOKS
from ...utils.arguments import check_integers, check_numbers, pretrained_checkpoint
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class InitCodebook(Hook):
    """Hook that calls the tokenizer's `init_codebook` with training images before a new run starts.

    A short run then uses the whole codebook. Runs that resume or load weights keep their codebook.

    Args:
        num_images: number of images, rounded up to whole batches.
        sharpness: argument of `DiscreteVAE.init_codebook`; None: its default.

    Raises ValueError before training if the model has no codebook.
    """

    def __init__(self, num_images: int = 192, sharpness: float | None = None):
        check_integers(1, num_images=num_images)
        if sharpness is not None:
            check_numbers(1e-6, sharpness=sharpness)
        self.num_images, self.sharpness = num_images, sharpness

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        if not hasattr(model, 'init_codebook'):
            raise ValueError(
                f'InitCodebook: {type(model).__name__} has no codebook. Train a '
                'DiscreteVAE or VQKD, or run without the hook: --cfg-options custom_hooks=[]'
            )
        pretrained = pretrained_checkpoint(model.init_cfg, type(model).__name__)
        if runner.iter or runner.cfg.get('load_from') or pretrained:
            return
        stock, images = runner.train_dataloader, []
        # The workers of the training loader may persist: training would start after these images.
        loader = DataLoader(
            stock.dataset,
            batch_sampler=stock.batch_sampler,
            collate_fn=stock.collate_fn,
            generator=stock.generator,
        )
        for batch in loader:
            images += model.data_preprocessor(batch)['inputs']
            if len(images) >= self.num_images:
                break
        options = {} if self.sharpness is None else dict(sharpness=self.sharpness)
        model.init_codebook(torch.stack(images), **options)
        runner.logger.info(f'{model.vocab_size} codes were initialized from {len(images)} images')
