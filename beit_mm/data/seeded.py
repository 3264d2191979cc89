"""Randomness of the data is a function of (seed, epoch, sample): for any data set, pipeline and number of workers."""

import copy
import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmengine.dist import all_reduce, get_dist_info, sync_random_seed
from mmengine.logging import print_log
from torch.utils.data import Dataset, Sampler, get_worker_info

from ..registry import DATA_SAMPLERS, DATASETS
from ..utils.arguments import check_choices, check_integers, check_numbers
from .guard import guard, leaves, list_readable
from .reading import MAX_PIXELS, BadSample
from .token_cache import TokenCache
from .two_views import TwoViews

MASK = (
    2  # a fourth number in the key of what follows the crop, where that crop has been made before
)


def seed_all(*key: int) -> int:
    """Make the global generators of python, NumPy and torch's CPU a function of `key`; gives torch's seed, for a device's."""
    python, numpy, seed = map(int, np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(seed)
    return seed


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, the global generators of python, NumPy and torch's CPU are a function of `key`; afterwards as before.

    In a worker of a DataLoader they are left: nothing else draws from them there, and to restore them takes six times as
    long as to seed them.
    """
    if get_worker_info():
        seed_all(*key)
        yield
        return
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*key)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Any OpenMMLab data set whose transforms draw from (seed, epoch, index) and whose files are guarded (`guard`).

    `KeyedSampler` hands out (epoch, index); with another sampler's plain indices the epoch is 0 (validation).

    Args:
        seed: the run's, `randomness.seed`, unless it is given (`launch.seed_data`).
        on_bad_sample: `raise` BadSample, which names the file; or `skip` to another sample, a function of (seed, epoch,
            index) too, and log the file, once in a run.
        max_bad_share: `skip` stops the run with a ValueError when more than this share of the data set is bad. The workers
            of a process count together, and the processes of a distributed run every 500 iterations (`CheckSamples`).
        max_pixels: larger images are bad.
        num_crops: make so many crops of an image and no more, with flip and jitter: all up to `TwoViews` depends on (seed,
            view, index), view = epoch mod `num_crops`, and only what follows, the mask, on the epoch too. Up to the epoch of
            that number nothing is different.
        token_cache: folder of `tools/cache_tokens.py`. The ids of the crop are read there, as `token_ids`, in place of a
            token view; `num_crops` is the cache's.
        pipeline: replaces that of `dataset`; mmpretrain's kfold-cross-valid.py gives it.

    Raises ValueError when the data set is empty, or the cache is unfinished or of other crops.
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
        if pipeline is not None:
            dataset = dict(dataset, pipeline=pipeline)
        check_integers(0, seed=seed)
        check_integers(1, max_pixels=max_pixels)
        check_choices(('raise', 'skip'), on_bad_sample=on_bad_sample)
        check_numbers(0, max_bad_share=max_bad_share)
        if max_bad_share >= 1:
            raise ValueError(
                f'max_bad_share={max_bad_share}: a share of 0 up to, not including, 1 is possible'
            )
        if num_crops is not None:
            check_integers(1, num_crops=num_crops)
        self.seed, self.skip, self.max_bad_share = seed, on_bad_sample == 'skip', max_bad_share
        self.about = dict(seed=seed, pipeline=_up_to_the_views(dataset))
        try:
            self.dataset = DATASETS.build(list_readable(dataset))
            empty = not len(self.dataset)
        except (
            RuntimeError,
            ValueError,
        ) as error:  # how the hosts' data sets say it, without the place
            empty = any(
                words in str(error) for words in ('Found 0 files', 'need at least one array')
            )
            if not empty:
                raise
        if empty:
            place = {
                key: dataset[key]
                for key in ('data_root', 'data_prefix', 'ann_file')
                if dataset.get(key)
            }
            raise ValueError(
                f'no sample was found in {place or dataset}: check the paths, and that images are there'
            )
        guard(self.dataset, max_pixels, skip=self.skip)
        self.bad = torch.zeros(
            len(self.dataset) if self.skip else 0, dtype=torch.bool
        ).share_memory_()  # by all workers
        self.num_crops, self.tokens, self.rekeys = num_crops, None, []
        if token_cache is not None:
            self._open(TokenCache(token_cache))
        if self.num_crops:
            self._key_what_follows_the_views()

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    METAINFO = metainfo  # mmseg's misc/browse_dataset.py reads this name

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)

    # -- what mmpretrain's and mmseg's tools and wrappers ask of a data set -------------------------------------------

    def __getattr__(self, name: str) -> object:
        """Return an attribute or method of the wrapped data set, such as `full_init` or `get_cat_ids`."""
        if name.startswith('__') or 'dataset' not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def pipeline(self) -> Compose:
        return next(leaves(self.dataset)).pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Compose) -> None:
        for leaf in leaves(self.dataset):
            leaf.pipeline = pipeline

    def get_subset(self, indices: list[int] | int) -> 'SeededDataset':
        """Return a copy with these samples, drawn as samples 0, 1, … of it."""
        subset = copy.copy(self)
        subset.dataset = self.dataset.get_subset(indices)
        subset.bad = self.bad.new_zeros(len(subset.dataset) if self.skip else 0).share_memory_()
        subset.rekeys = [
            step
            for leaf in leaves(subset.dataset)
            for step in leaf.pipeline.transforms
            if isinstance(step, Rekey)
        ]
        return subset

    @property
    def paths(self) -> Sequence[str]:
        return _Paths(self.dataset)

    def keep_views(self, *names: str) -> None:
        """Of `patch_view` and `token_view`, make these only."""
        for leaf in leaves(self.dataset):
            for step in leaf.pipeline.transforms:
                if isinstance(step, TwoViews):
                    step.views = [view for view in step.views if view[0] in names]

    def token_views(self, keys: list[tuple[int, int]]) -> np.ndarray:
        """uint8 [n, 3, H, W]. Raises ValueError where the pipeline makes none."""
        inputs = [self[key]['inputs'] for key in keys]
        if any('token_view' not in each for each in inputs):
            raise ValueError(
                'the pipeline makes no token views to compute ids of: set TwoViews.token_size'
            )
        return torch.stack([each['token_view'] for each in inputs]).numpy()

    def _open(self, cache: TokenCache) -> None:
        if self.num_crops not in (None, cache.num_crops):
            raise ValueError(
                f'num_crops={self.num_crops}, but the token cache {cache.path} has {cache.num_crops}: remove num_crops'
            )
        cache.check(self.about, self.paths)
        cache.check_finished()
        cache.check_views(self.token_views(cache.probe_keys()))
        self.keep_views('patch_view')
        self.num_crops, self.tokens = cache.num_crops, cache

    def _key_what_follows_the_views(self) -> None:
        for leaf in leaves(self.dataset):
            steps = leaf.pipeline.transforms
            place = next((i for i, step in enumerate(steps) if isinstance(step, TwoViews)), None)
            if place is None:
                raise ValueError(
                    f'num_crops={self.num_crops} needs beit_mm.TwoViews in the pipeline: what precedes it is repeated'
                )
            steps.insert(place + 1, Rekey())
            self.rekeys.append(steps[place + 1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        others = None
        while True:
            try:
                return self._sample(epoch, index)
            except BadSample as error:
                if not self.skip:
                    raise
                self._note(index, error)
            others = others or np.random.default_rng((self.seed, epoch, index))
            index = int(others.integers(len(self)))

    def _sample(self, epoch: int, index: int) -> dict:
        view = epoch % self.num_crops if self.num_crops else epoch
        for step in self.rekeys:
            step.key = None if view == epoch else (self.seed, epoch, index, MASK)
        with seeded(self.seed, view, index):
            sample = self.dataset[index]
        if self.tokens:
            ids = self.tokens.read(view, index, sample['data_samples'].img_path)
            sample['inputs']['token_ids'] = torch.from_numpy(ids)
        return sample

    def _note(self, index: int, error: BadSample) -> None:
        if self.bad[index]:
            return
        self.bad[index] = True
        print_log(f'skipped: {error}', 'current', logging.WARNING)
        self._check_share(f'; the last: {error}')

    def share_bad(self) -> None:
        """All ranks call it: what is bad for one is bad for all, and counts. ValueError, on all, when that is too much."""
        if self.skip:
            bad = self.bad.to(torch.uint8)
            all_reduce(bad, 'max')
            self.bad.copy_(bad)
            self._check_share()

    def _check_share(self, words: str = '') -> None:
        if (count := int(self.bad.sum())) > self.max_bad_share * len(self):
            raise ValueError(
                f'{count} of {len(self)} samples are bad, more than max_bad_share={self.max_bad_share} allows{words}. List all '
                'with `python tools/check_data.py CONFIG`'
            )


class Rekey(BaseTransform):
    """Seeds what follows it by `key`, unless that is None."""

    key: tuple[int, ...] | None = None

    def transform(self, results: dict) -> dict:
        if self.key:
            seed_all(*self.key)
        return results


class _Paths(Sequence):
    """Of a data set's images; each is looked up when it is asked for."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return str(self.dataset.get_data_info(index)['img_path'])


def _up_to_the_views(tree: object) -> list:
    """The pipelines of a data set's config as far as they make the views, as JSON."""
    if isinstance(tree, dict):
        steps = list(tree.get('pipeline') or ())
        kinds = [
            str(step.get('type')).rpartition('.')[2] if isinstance(step, dict) else ''
            for step in steps
        ]
        own = steps[: kinds.index('TwoViews') + 1] if 'TwoViews' in kinds else []
        found = (
            [
                json.loads(
                    json.dumps(own, sort_keys=True, default=lambda thing: type(thing).__name__)
                )
            ]
            if own
            else []
        )
        return found + [
            each
            for key, child in tree.items()
            if key != 'pipeline'
            for each in _up_to_the_views(child)
        ]
    return (
        [each for child in tree for each in _up_to_the_views(child)]
        if isinstance(tree, (list, tuple))
        else []
    )


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """Hands (epoch, index) to a `SeededDataset`; ranks take turns, so a global batch does not depend on their number.

    Args:
        infinite: never end (IterBasedTrainLoop): epoch after epoch. Otherwise one epoch, `set_epoch` chooses which, and
            the last indices are repeated until ranks have equally many.
    """

    def __init__(
        self,
        dataset: Dataset,
        shuffle: bool = True,
        seed: int | None = None,
        infinite: bool = False,
    ):
        if seed is not None:
            check_integers(0, seed=seed)
        self.rank, self.world_size = get_dist_info()
        self.size, self.shuffle, self.infinite = len(dataset), shuffle, infinite
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.infinite else epoch

    def skip(self, num_samples: int) -> None:
        """Begin the next iteration, and only that one, behind this rank's first `num_samples` draws, without making them."""
        self.start = num_samples

    def __len__(self) -> int:
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw, self.start = self.rank + self.start * self.world_size, 0
        end = None if self.infinite else len(self) * self.world_size
        order, order_of = None, None
        while end is None or draw < end:
            epoch, place = (
                (divmod(draw, self.size)) if self.infinite else (self.epoch, draw % self.size)
            )
            if order_of != epoch:
                order, order_of = self._order(epoch), epoch
            yield epoch, int(order[place])
            draw += self.world_size

    def _order(self, epoch: int) -> np.ndarray:
        return (
            np.random.default_rng((self.seed, epoch)).permutation(self.size)
            if self.shuffle
            else np.arange(self.size)
        )
