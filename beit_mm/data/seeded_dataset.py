"""Data set whose samples are a function of (seed, epoch, index), for any pipeline and workers."""

import copy
import json
import logging

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..registry import DATASETS
from ..utils.arguments import check_choices, check_integers, check_numbers
from ..utils.config_tree import kind, nodes
from ..utils.installation import command
from .check_samples import check_samples
from .image_files import MAX_PIXELS, BadSample
from .image_folders import list_readable
from .loaders import leaves
from .seeded import seed_all, seeded
from .token_cache import TokenCache
from .two_views import TwoViews

MASK_KEY = 2  # fourth number of the key of a mask whose crop was made in an earlier epoch


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Data set that seeds the transforms of another one and checks its files (`check_samples`).

    What the transforms draw depends only on (seed, epoch, index), which `KeyedSampler` gives. For
    plain indices the epoch is 0, as in validation.

    Args:
        seed: by default `randomness.seed` of the run.
        on_bad_sample: 'raise' a BadSample, or 'skip' to another sample, which is a function of
            (seed, epoch, index) too, and log each file once.
        max_bad_share: a run with 'skip' stops if a larger share of the samples is bad.
        max_pixels: larger images are bad.
        num_crops: number of different crops per image. The transforms up to `TwoViews` then depend
            on (seed, epoch mod `num_crops`, index).
        token_cache: folder of `tools/cache_tokens.py`, from which `token_ids` are read in place of
            the token view. It determines `num_crops`.
        pipeline: replaces the pipeline of `dataset`, as mmpretrain's kfold-cross-valid.py needs.
    """

    def __init__(
        self,
        dataset: dict,
        seed: int = 0,
        on_bad_sample: str = 'raise',
        max_bad_share: float = 0.01,
        max_pixels: int = MAX_PIXELS,
        num_crops: int | None = None,
        token_cache: str | None = None,
        pipeline: list | None = None,
    ):
        check_integers(0, seed=seed)
        check_integers(1, max_pixels=max_pixels, num_crops=1 if num_crops is None else num_crops)
        check_choices(('raise', 'skip'), on_bad_sample=on_bad_sample)
        check_numbers(0, max_bad_share=max_bad_share)
        if max_bad_share >= 1:
            raise ValueError(f'max_bad_share={max_bad_share}: expected a share below 1')
        if pipeline is not None:
            dataset = dict(dataset, pipeline=pipeline)
        self.seed, self.num_crops, self.tokens = seed, num_crops, None
        self.skip, self.max_bad_share = on_bad_sample == 'skip', max_bad_share
        self.about = dict(seed=seed, pipeline=_crop_pipelines(dataset))
        self.dataset = check_samples(_build(dataset), max_pixels, skip=self.skip)
        self.bad = self._no_bad_samples()
        if token_cache is not None:
            self._open(TokenCache(token_cache))
        if self.num_crops:
            self._reseed_after_views()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        others = None
        while True:
            try:
                return self._sample(epoch, index)
            except BadSample as error:
                if not self.skip:
                    raise
                if not self.bad[index]:
                    self.bad[index] = True
                    print_log(f'skipped: {error}', 'current', logging.WARNING)
                    self._check_share(f'. The last one: {error}')
            others = others or np.random.default_rng((self.seed, epoch, index))
            index = int(others.integers(len(self)))

    def _sample(self, epoch: int, index: int) -> dict:
        crop = epoch % self.num_crops if self.num_crops else epoch
        Reseed.key = None if crop == epoch else (self.seed, epoch, index, MASK_KEY)
        with seeded(self.seed, crop, index):
            sample = self.dataset[index]
        if self.tokens:
            ids = self.tokens.read(crop, index, sample['data_samples'].img_path)
            sample['inputs']['token_ids'] = torch.from_numpy(ids)
        return sample

    # -- bad samples -------------------------------------------------------------------------------

    def _no_bad_samples(self) -> torch.Tensor:
        """Return one flag per sample, shared by all workers."""
        size = len(self.dataset) if self.skip else 0
        return torch.zeros(size, dtype=torch.bool).share_memory_()

    def share_bad(self) -> None:
        """Count the bad samples of all ranks together. All ranks have to call this."""
        if self.skip and get_world_size() > 1:
            bad = self.bad.to(torch.uint8)
            all_reduce(bad, 'max')
            self.bad.copy_(bad)
            self._check_share()

    def _check_share(self, last: str = '') -> None:
        count = int(self.bad.sum())
        if count > self.max_bad_share * len(self):
            given = f'{count} of {len(self)} samples are bad, more than max_bad_share='
            advice = f'List all with `{command("check_data")} CONFIG`'
            raise ValueError(f'{given}{self.max_bad_share}{last}. {advice}')

    # -- repeated crops and the token cache --------------------------------------------------------

    def _open(self, cache: TokenCache) -> None:
        if self.num_crops not in (None, cache.num_crops):
            given = f'num_crops={self.num_crops}, but the token cache {cache.path}'
            raise ValueError(f'{given} has {cache.num_crops}: remove num_crops')
        cache.check_dataset(self)
        cache.check_finished()
        self.keep_views('patch_view')
        self.num_crops, self.tokens = cache.num_crops, cache

    def _reseed_after_views(self) -> None:
        for leaf in leaves(self.dataset):
            steps = leaf.pipeline.transforms
            places = [i for i, step in enumerate(steps) if isinstance(step, TwoViews)]
            if not places:
                raise ValueError(f'num_crops={self.num_crops} needs TwoViews in the pipeline')
            steps.insert(places[0] + 1, Reseed())

    def path_of(self, index: int) -> str:
        return str(self.dataset.get_data_info(index)['img_path'])

    def keep_views(self, *names: str) -> None:
        """Make only these of `patch_view` and `token_view`."""
        for leaf in leaves(self.dataset):
            for step in leaf.pipeline.transforms:
                if isinstance(step, TwoViews):
                    step.views = [view for view in step.views if view[0] in names]

    def token_views(self, keys: list[tuple[int, int]]) -> np.ndarray:
        """Return the token views, uint8 [n, 3, H, W], of samples (epoch, index)."""
        inputs = [self[key]['inputs'] for key in keys]
        if any('token_view' not in sample for sample in inputs):
            raise ValueError('the pipeline makes no token views: set token_size of TwoViews')
        return torch.stack([sample['token_view'] for sample in inputs]).numpy()

    # -- what tools and wrappers of mmpretrain and mmseg expect of a data set ----------------------

    def __getattr__(self, name: str) -> object:
        if name.startswith('__') or 'dataset' not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    METAINFO = property(lambda self: self.metainfo)  # for mmseg's browse_dataset.py

    @property
    def pipeline(self) -> Compose:
        return next(leaves(self.dataset)).pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Compose) -> None:
        for leaf in leaves(self.dataset):
            leaf.pipeline = pipeline

    def get_subset(self, indices: list[int] | int) -> 'SeededDataset':
        """Return a copy with these samples, which are drawn as samples 0, 1, … of the copy."""
        subset = copy.copy(self)
        subset.dataset = self.dataset.get_subset(indices)
        subset.bad = subset._no_bad_samples()
        return subset


class Reseed(BaseTransform):
    """Transform that seeds the transforms after it by `key`, unless `key` is None."""

    key: tuple[int, ...] | None = None

    def transform(self, results: dict) -> dict:
        if self.key:
            seed_all(*self.key)
        return results


def _build(config: dict) -> Dataset:
    """Build a data set. Raises ValueError with its folders if it is empty."""
    try:
        dataset = DATASETS.build(list_readable(config))
        if len(dataset):
            return dataset
    except (RuntimeError, ValueError) as error:  # as mmpretrain and mmengine say that it is empty
        if not any(text in str(error) for text in ('Found 0 files', 'need at least one array')):
            raise
    keys = ('data_root', 'data_prefix', 'ann_file')
    place = {key: config[key] for key in keys if config.get(key)}
    raise ValueError(f'no images were found in {place}: check these paths')


def _crop_pipelines(config: dict) -> list:
    """Return the pipelines of a data set's config up to `TwoViews`, as JSON."""
    found = []
    for node in nodes(config):
        kinds = [kind(step) for step in node.get('pipeline') or ()]
        if 'TwoViews' in kinds:
            found.append(node['pipeline'][: kinds.index('TwoViews') + 1])
    return json.loads(json.dumps(found, default=lambda value: type(value).__name__))
