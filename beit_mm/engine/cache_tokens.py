"""Computes the visual tokens of a pre-training config's crops once, for any number of runs.

    python tools/cache_tokens.py CONFIG --crops 8 --out data/tokens --cfg-options model.target.checkpoint=TOKENIZER
    python tools/train.py CONFIG --cfg-options model.target.checkpoint=TOKENIZER train_dataloader.dataset.token_cache=data/tokens

Stopped or killed it goes on where it was, by the same command. Several processes share the work:

    torchrun --nproc-per-node 8 tools/cache_tokens.py CONFIG --launcher pytorch …
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import barrier, get_dist_info
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from ..data.seeded_dataset import SeededDataset
from ..data.token_cache import BLOCK, TokenCache, probe_keys
from ..models import TokenTarget
from ..registry import DATASETS, MODELS
from ..utils.cfg_options import Options
from . import launch, process_group
from .cpu import adapt_to_cpu


def dataset_of(cfg: ConfigDict, split: str, num_crops: int) -> SeededDataset:
    """Of crops that a run with a cache of `num_crops` crops per image will make. ValueError where the config has no such data set."""
    node = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
    if str(node.get('type')).rpartition('.')[2] != 'SeededDataset':
        raise ValueError(
            f'{split}_dataloader.dataset is no beit_mm.SeededDataset, whose crops can be made again'
        )
    return DATASETS.build(
        {key: node[key] for key in node if key != 'token_cache'} | dict(num_crops=num_crops)
    )


def open_cache(path: Path, dataset: SeededDataset, target: TokenTarget) -> TokenCache:
    """The cache at `path`, begun if there is none. ValueError where it is of something else."""
    # A run does not ask for the precision, which is its device's; one cache has one.
    about = (
        dict(tokenizer=target.fingerprint(), dtype=str(getattr(target, 'dtype', None)))
        | dataset.about
    )
    probe = dataset.token_views(probe_keys(dataset.num_crops, len(dataset)))
    if not (path / 'about.json').exists() and get_dist_info()[0] == 0:
        if target.channels > 1 << 16:
            raise ValueError(f'{target.channels} codes do not fit the 16 bits of an id')
        grid = ids_of(target, probe[:1]).shape[1:]
        TokenCache.create(
            path, (dataset.num_crops, len(dataset), *grid), about, dataset.path_of, probe
        )
    barrier()
    cache = TokenCache(path)
    if cache.num_crops != dataset.num_crops:
        raise ValueError(
            f'{path} has {cache.num_crops} crops per image, not {dataset.num_crops}: make another cache in another folder'
        )
    cache.check(about)
    cache.check_names(len(dataset), dataset.path_of)
    cache.check_probe(probe)
    return cache


def ids_of(target: TokenTarget, views: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Token views uint8 [n, 3, H, W] → ids [n, h, w], as the model would compute them."""
    device = get_device()
    with torch.no_grad():
        parts = torch.from_numpy(views).split(batch_size)
        return torch.cat(
            [target(dict(token_view=part.to(device).float() / 255)).cpu() for part in parts]
        ).numpy()


class Views(torch.utils.data.Dataset):
    """The token views of (view, block)."""

    def __init__(self, dataset: SeededDataset):
        self.dataset = dataset

    def __getitem__(self, place: tuple[int, int]) -> np.ndarray:
        view, block = place
        images = range(block * BLOCK, min((block + 1) * BLOCK, len(self.dataset)))
        return self.dataset.token_views([(view, index) for index in images])


def tokenize(
    cache: TokenCache, dataset: SeededDataset, target: TokenTarget, jobs: int, batch_size: int
) -> Iterator[int]:
    """Computes this rank's share of what is missing; gives the number of blocks that are left after each."""
    rank, ranks = get_dist_info()
    places = [(int(view), int(block)) for view, block in cache.list_missing()]
    barrier()  # all have read what is missing before one writes
    places = places[rank::ranks]
    loader = DataLoader(Views(dataset), batch_size=None, sampler=places, num_workers=jobs)
    for done, (place, views) in enumerate(zip(places, loader, strict=True), 1):
        cache.write(*place, ids_of(target, np.asarray(views), batch_size))
        yield len(places) - done


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a pre-training')
    parser.add_argument('--out', type=Path, required=True, help='folder of the cache')
    parser.add_argument(
        '--crops', type=int, help='crops per image (default: the number of epochs of the run)'
    )
    parser.add_argument(
        '--split', choices=('train', 'val', 'test'), default='train', help='of which data loader'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        help="processes that read images (default: the data loader's num_workers)",
    )
    parser.add_argument(
        '--batch-size', type=int, default=32, help='images that the tokenizer sees at once'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, help='ignored: the environment tells'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, help='KEY=VALUE … over the config'
    )
    args = parser.parse_args(arguments)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope(cfg.get('default_scope', 'beit_mm'))
    launch.seed_data(cfg)
    if args.launcher != 'none':
        process_group.join(args.launcher, 'gloo')
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    if get_device() == 'cpu':
        adapt_to_cpu(cfg)  # as a run here would do
    first = get_dist_info()[0] == 0
    try:
        num_crops = args.crops or (
            1 if args.split != 'train' else (cfg.get('train_cfg') or {}).get('max_epochs')
        )
        if not num_crops:
            raise ValueError(
                'the run counts iterations, not epochs: pass the number of crops per image, --crops N'
            )
        dataset, target = dataset_of(cfg, args.split, num_crops), MODELS.build(cfg.model.target)
        if not isinstance(target, TokenTarget):
            raise ValueError(f'model.target is a {type(target).__name__}, which has no tokens')
        dataset.keep_views('token_view')
        cache = open_cache(args.out, dataset, target)
        jobs = (
            cfg[f'{args.split}_dataloader'].get('num_workers', 0)
            if args.jobs is None
            else args.jobs
        )
        for left in tokenize(cache, dataset, target, jobs, args.batch_size):
            if first:
                print(
                    f'\r{left} blocks of {BLOCK} images left ', end='', file=sys.stderr, flush=True
                )
        process_group.leave()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    if first:
        print(
            f'\n{args.out}: {cache.num_crops} crops of {cache.images} images. Use it by train_dataloader.dataset.token_cache'
        )


if __name__ == '__main__':
    main()
