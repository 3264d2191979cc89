"""tools/cache_tokens.py from the command line, on one and several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_token_cache import FILES, config
from small import ROOT

from beit_mm.data.token_cache import TokenCache
from beit_mm.engine import cache_tokens
from beit_mm.registry import MODELS

pytestmark = pytest.mark.any_stack


@pytest.fixture
def run(few_shapes, tmp_path):
    """Run the tool in this process, with changes to the config."""

    def call(*words: object, changes: dict | None = None, out: str = 'tokens') -> Path:
        cfg = config(few_shapes, tmp_path / 'work')
        cfg.merge_from_dict(changes or {})
        cfg.dump(tmp_path / 'config.py')
        folders = [tmp_path / 'config.py', '--out', tmp_path / out]
        cache_tokens.main([str(word) for word in (*folders, *words)])
        return tmp_path / out

    return call


@pytest.mark.long
def test_two_processes_write_what_one_writes(run, tmp_path):
    one, two = run('--crops', 3, '--jobs', 0, out='one'), tmp_path / 'two'
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    launcher = ['-m', 'torch.distributed.run', '--nproc-per-node=2', f'--master-port={port}']
    tool = ['tools/cache_tokens.py', tmp_path / 'config.py', '--launcher', 'pytorch']
    command = [sys.executable, *launcher, *tool, '--crops', '3', '--jobs', '0', '--out', two]
    env = os.environ | dict(CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1')
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in FILES)
    assert done.stdout.count('3 crops of 12 images') == 1
    run('--crops', 3, '--jobs', 0, out='two')  # has nothing left to do
    assert len(TokenCache(two).list_missing()) == 0


def test_the_number_of_crops_is_the_number_of_epochs(run):
    loop = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)
    path = run('--jobs', 2, changes=dict(train_cfg=loop))
    assert TokenCache(path).num_crops == 2
    ids = np.fromfile(path / 'ids', '<u2').reshape(2 * 12, 64)
    assert len(np.unique(ids, axis=0)) == 24
    with pytest.raises(SystemExit, match='has 2 crops per image, not 3'):
        run('--crops', 3, '--jobs', 0)
    with pytest.raises(SystemExit, match='seed: the cache has 0, the run 1'):
        run('--crops', 2, '--jobs', 0, '--cfg-options', 'train_dataloader.dataset.seed=1')


@pytest.mark.parametrize('changes, message', [
    ({}, 'the run counts iterations, not epochs: .*--crops N'),
    ({'model.target': dict(_delete_=True, type='PixelTarget')}, 'PixelTarget'),
    ({'model.target.checkpoint': None}, 'tokenizer'),
    ({'train_dataloader.dataset': dict(_delete_=True, type='CustomDataset')}, r'beit_mm\.SeededDataset'),
])  # fmt: skip
def test_what_cannot_be_cached_is_named(changes, message, run, tmp_path):
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        run(*(['--crops', 1] if changes else []), changes=changes)
    assert not (tmp_path / 'tokens').exists()


def test_more_codes_than_16_bits_are_an_error(few_shapes, run, tmp_path):
    tokenizer = config(few_shapes, tmp_path / 'work').model.target.tokenizer
    tokenizer.vocab_size = (1 << 16) + 1
    large = str(tmp_path / 'large.pth')
    torch.save(dict(state_dict=MODELS.build(tokenizer).state_dict()), large)
    changes = {'model.target.checkpoint': large, 'model.target.tokenizer': tokenizer}
    with pytest.raises(SystemExit, match='error: 65537 codes'):
        run('--crops', 1, changes=changes)
