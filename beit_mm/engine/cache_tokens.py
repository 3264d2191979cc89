r"""Compute the visual tokens of a pre-training config's crops once, for any number of runs.

    python tools/cache_tokens.py CONFIG --crops 8 --out data/tokens \
        --cfg-options model.target.checkpoint=TOKENIZER
    python tools/train.py CONFIG --cfg-options model.target.checkpoint=TOKENIZER \
        train_dataloader.dataset.token_cache=data/tokens

After an interruption the same command continues. Several processes share the work:

    torchrun --nproc-per-node 8 tools/cache_tokens.py CONFIG --launcher pytorch …
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, get_dist_info
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from ..data.seeded_dataset import SeededDataset
from ..data.token_cache import BLOCK, TokenCache
from ..models import TokenTarget
from ..registry import DATASETS, MODELS
from ..utils.cfg_options import Options
from ..utils.command_line import make_parser
from . import launch
from .cpu import adapt_to_cpu
from .process_group import LAUNCHERS, join, leave

BATCH_SIZE = 32  # images that the tokenizer reads at once


def main(arguments: list[str] | None = None) -> None:
    args = _make_parser().parse_args(arguments)
    cfg = _read_config(args)
    try:
        dataset, target = build_dataset(cfg, args.split, args.crops), MODELS.build(cfg.model.target)
        if not isinstance(target, TokenTarget):
            raise ValueError(f'model.target is a {type(target).__name__}, which has no tokens')
        cache = open_cache(args.out, dataset, target)
        num_workers = cfg[f'{args.split}_dataloader'].get('num_workers', 0)
        compute_tokens(cache, dataset, target, num_workers if args.jobs is None else args.jobs)
        leave()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    if get_dist_info()[0] == 0:
        print(
            f'\n{args.out}: {cache.num_crops} crops of {cache.images} images. To use them set '
            f'{args.split}_dataloader.dataset.token_cache={args.out}'
        )


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config of a pre-training run')
    parser.add_argument('--out', type=Path, required=True, help='folder of the cache')
    parser.add_argument('--crops', type=int, help='crops per image (default: one per epoch)')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train')
    parser.add_argument('--jobs', type=int, help='workers (default: num_workers of the config)')
    parser.add_argument('--launcher', choices=['none', *LAUNCHERS], default='none')
    parser.add_argument('--cfg-options', nargs='+', action=Options, help='KEY=VALUE of the config')
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def _read_config(args: argparse.Namespace) -> Config:
    """Return the config as a run on this machine would have it, and join the process group."""
    cfg = launch.load_config(args)
    init_default_scope(cfg.get('default_scope', 'beit_mm'))
    launch.seed_data(cfg)
    if args.launcher != 'none':
        join(args.launcher, 'gloo')
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    if get_device() == 'cpu':
        adapt_to_cpu(cfg)
    return cfg


def build_dataset(cfg: Config, split: str, num_crops: int | None) -> SeededDataset:
    """Return the data set of a split without a token cache, which makes the token views only."""
    node = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
    if str(node.get('type')).rpartition('.')[2] != 'SeededDataset':
        raise ValueError(
            f'{split}_dataloader.dataset is no beit_mm.SeededDataset, whose crops can be repeated'
        )
    if num_crops is None:
        num_crops = 1 if split != 'train' else cfg.get('train_cfg', {}).get('max_epochs')
    if num_crops is None:
        raise ValueError(
            'the run counts iterations, not epochs: set the number of crops per image, --crops N'
        )
    settings = {key: value for key, value in node.items() if key != 'token_cache'}
    dataset = DATASETS.build(settings | dict(num_crops=num_crops))
    dataset.keep_views('token_view')
    return dataset


def open_cache(path: Path, dataset: SeededDataset, target: TokenTarget) -> TokenCache:
    """Return the cache at `path`, or create it; ValueError if it has other contents."""
    tokenizer = dict(tokenizer=target.fingerprint(), dtype=str(target.dtype))
    if not (path / 'about.json').exists() and get_dist_info()[0] == 0:
        if target.channels > 1 << 16:
            raise ValueError(f'{target.channels} codes do not fit the 16 bits of an id')
        grid = compute_ids(target, dataset.token_views([(0, 0)])).shape[1:]
        TokenCache.create(path, grid, tokenizer, dataset)
    barrier()
    cache = TokenCache(path)
    if cache.num_crops != dataset.num_crops:
        raise ValueError(
            f'{path} has {cache.num_crops} crops per image, not {dataset.num_crops}: '
            'set another --out'
        )
    cache.check(tokenizer)
    cache.check_dataset(dataset)
    return cache


def compute_tokens(
    cache: TokenCache, dataset: SeededDataset, target: TokenTarget, num_workers: int
) -> None:
    """Write this rank's share of the missing blocks; rank 0 prints its progress."""
    rank, num_ranks = get_dist_info()
    missing = cache.list_missing()[rank::num_ranks].tolist()
    barrier()  # before a rank writes
    loader = DataLoader(_Blocks(dataset), batch_size=None, sampler=missing, num_workers=num_workers)
    for done, (place, views) in enumerate(zip(missing, loader, strict=True), 1):
        cache.write(*place, compute_ids(target, np.asarray(views)))
        if rank == 0:
            left = f'\r{len(missing) - done} blocks of {BLOCK} images left '
            print(left, end='', file=sys.stderr, flush=True)


class _Blocks(torch.utils.data.Dataset):
    """Data set of the token views of (crop, block), uint8 [n, 3, H, W]."""

    def __init__(self, dataset: SeededDataset):
        self.dataset = dataset

    def __getitem__(self, place: tuple[int, int]) -> np.ndarray:
        crop, block = place
        images = range(block * BLOCK, min((block + 1) * BLOCK, len(self.dataset)))
        return self.dataset.token_views([(crop, index) for index in images])


@torch.no_grad()
def compute_ids(target: TokenTarget, views: np.ndarray) -> np.ndarray:
    """Return the ids [n, h, w] of token views uint8 [n, 3, H, W], as a run computes them."""
    batches = torch.from_numpy(views).split(BATCH_SIZE)
    views = (batch.to(get_device()).float() / 255 for batch in batches)
    return torch.cat([target(dict(token_view=view)).cpu() for view in views]).numpy()
