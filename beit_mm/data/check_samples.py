"""Checks of all data sets of a run: every file is read correctly, or an error names it."""

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ..registry import HOOKS
from ..utils.unwrap_model import unwrap_model
from .class_numbers import describe_difference
from .image_files import MAX_PIXELS
from .image_folders import check_folder
from .loaders import CheckLabel, ReadImage, branches, leaves, replace_loaders

SHARE_INTERVAL = 500  # iterations


def check_samples(
    dataset: Dataset,
    max_pixels: int = MAX_PIXELS,
    num_classes: int | None = None,
    skip: bool = False,
) -> Dataset:
    """Make a data set raise BadSample for every file that it cannot read correctly.

    Replaces the loaders in place, and checks folders on rank 0. Calling it again changes nothing.
    `num_classes` is by default the number of classes that the data set names.
    """
    for leaf in leaves(dataset):
        steps = leaf.pipeline.transforms
        if any(isinstance(step, CheckLabel) for step in steps):
            continue
        if get_rank() == 0:
            check_folder(leaf, skip)
        known = num_classes or len(leaf.metainfo.get('classes') or ()) or None
        replace_loaders(steps, known, max_pixels)
        steps.insert(0, CheckLabel(known))
    return dataset


def expect_channels(dataset: Dataset, mean: object) -> None:
    """Make a checked data set refuse images with another number of channels than `mean` has."""
    if mean is None or len(mean) == 1:  # one mean for all channels
        return
    for leaf in leaves(dataset):
        for steps in branches(leaf.pipeline.transforms):
            for step in steps:
                if isinstance(step, ReadImage):
                    step.channels = len(mean)


@HOOKS.register_module()
class CheckSamples(Hook):
    """Hook of every run that checks the samples of all data sets (`check_samples`).

    Every `SHARE_INTERVAL` iterations it counts the skipped samples of all ranks together. It raises
    ValueError if a checkpoint is tested on data that numbers the same classes differently.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):  # a loop that this run does not need is still a dict
                expect_channels(check_samples(loop.dataloader.dataset), mean)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        dataset = runner.train_dataloader.dataset
        if self.every_n_train_iters(runner, SHARE_INTERVAL) and hasattr(dataset, 'share_bad'):
            dataset.share_bad()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        tested = getattr(getattr(runner._test_loop, 'dataloader', None), 'dataset', None)
        meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
        learned, own = meta.get('classes'), getattr(tested, 'metainfo', {}).get('classes')
        if not learned or not own:
            return
        places = {'the checkpoint': learned, 'test_dataloader': own}
        if difference := describe_difference(places, shared_only=True):
            raise ValueError(f'{difference}. Test it on data with the classes in the same order')
        if difference := describe_difference(places):
            runner.logger.warning(f'the classes differ: {difference}')
