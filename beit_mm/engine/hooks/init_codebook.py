"""Start a tokenizer's codebook from the data, so that a short run uses all of it."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ...registry import HOOKS
from ...utils.arguments import check_integers, check_numbers, pretrained_checkpoint
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class InitCodebook(Hook):
    """Before the first iteration of a run from scratch, give `DiscreteVAE.init_codebook` the first `num_images` training images.

    Raises ValueError when the model has no codebook.
    """

    def __init__(self, num_images: int = 192, sharpness: float = 4.0):
        check_integers(1, num_images=num_images)
        check_numbers(1e-6, sharpness=sharpness)
        self.num_images, self.sharpness = num_images, sharpness

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        if not hasattr(model, 'init_codebook'):
            raise ValueError(
                f'{type(model).__name__} has no codebook: InitCodebook is for beit_mm.DiscreteVAE'
            )
        if (
            runner.iter
            or runner.cfg.get('load_from')
            or pretrained_checkpoint(model.init_cfg, type(model).__name__)
        ):  # it has one
            return
        loader, views = runner.train_dataloader, []
        # A loader of its own: workers that persist would go on behind these images when training begins.
        same = dict(
            batch_sampler=loader.batch_sampler,
            collate_fn=loader.collate_fn,
            generator=loader.generator,
        )
        first = DataLoader(loader.dataset, **same)
        for batch in first:
            views.append(model.data_preprocessor(batch)['inputs'])
            if sum(map(len, views)) >= self.num_images:
                break
        model.init_codebook(torch.cat(views), self.sharpness)
        runner.logger.info(
            f'{model.vocab_size} codes start from the patches of {sum(map(len, views))} images'
        )
