"""tools/cache_tokens.py from the command line: on several processes, and what it says of what cannot be."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_token_cache import config, data, whole  # noqa: F401
from small import ROOT

from beit_mm.data.token_cache import TokenCache
from beit_mm.engine import cache_tokens
from beit_mm.registry import MODELS

pytestmark = pytest.mark.any_stack


def run(*words: object, ranks: int = 0) -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    launcher = (
        ['-m', 'torch.distributed.run', f'--nproc-per-node={ranks}', f'--master-port={port}']
        if ranks
        else []
    )
    command = [sys.executable, *launcher, 'tools/cache_tokens.py', *map(str, words)]
    env = os.environ | dict(CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1')
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture
def file(data, tmp_path) -> Path:  # noqa: F811
    config(data, tmp_path / 'work').dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


@pytest.mark.long
def test_two_processes_share_the_work_and_make_what_one_makes(file, tmp_path):
    words = [file, '--crops', 3, '--jobs', 0]
    cache_tokens.main([*map(str, words), '--out', str(tmp_path / 'one')])
    said = run(*words, '--out', tmp_path / 'two', '--launcher', 'pytorch', ranks=2)
    assert whole(tmp_path / 'one') == whole(tmp_path / 'two')
    assert said.count('3 crops of 12 images. Use it by train_dataloader.dataset.token_cache') == 1
    cache_tokens.main([*map(str, words), '--out', str(tmp_path / 'two')])  # has nothing left to do
    assert len(TokenCache(tmp_path / 'two').todo()) == 0


def test_the_views_are_the_epochs_of_the_run(data, tmp_path):  # noqa: F811
    cfg = config(data, tmp_path / 'work')
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    cfg.dump(tmp_path / 'config.py')
    cache_tokens.main(
        [str(tmp_path / 'config.py'), '--out', str(tmp_path / 'tokens'), '--jobs', '2']
    )
    assert TokenCache(tmp_path / 'tokens').num_crops == 2
    ids = np.fromfile(tmp_path / 'tokens/ids', '<u2').reshape(2, 12, 64)
    assert len(np.unique(ids.reshape(24, 64), axis=0)) == 24


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (
            {},
            'the run counts iterations, not epochs: pass the number of crops per image, --crops N',
        ),
        (
            {'model.target': dict(type='PixelTarget')},
            'model.target is a PixelTarget, which has no tokens',
        ),
        (
            {'model.target.checkpoint': None},
            'visual tokens need a trained tokenizer, and none was given',
        ),
        (
            {'train_dataloader.dataset': dict(type='CustomDataset')},
            r'dataset is no beit_mm\.SeededDataset',
        ),
    ],
)
def test_what_cannot_be_is_told_with_the_mend(options, words, data, tmp_path):  # noqa: F811
    cfg = config(data, tmp_path / 'work')
    for key, value in options.items():
        place = cfg
        *way, last = key.split('.')
        for step in way:
            place = place[step]
        place[last] = value
    cfg.dump(tmp_path / 'config.py')
    views = ['--crops', '1'] if options else []
    with pytest.raises(SystemExit, match=f'error: .*{words}'):
        cache_tokens.main([str(tmp_path / 'config.py'), '--out', str(tmp_path / 'tokens'), *views])
    assert not (tmp_path / 'tokens').exists()


def test_more_codes_than_16_bits_tell_apart_are_an_error(data, tmp_path):  # noqa: F811
    cfg = config(data, tmp_path / 'work')
    cfg.model.target.update(checkpoint=str(tmp_path / 'large.pth'))
    cfg.model.target.tokenizer.vocab_size = (1 << 16) + 1
    torch.save(
        dict(state_dict=MODELS.build(cfg.model.target.tokenizer).state_dict()),
        tmp_path / 'large.pth',
    )
    cfg.dump(tmp_path / 'config.py')
    with pytest.raises(SystemExit, match='error: 65537 codes do not fit the 16 bits of an id'):
        cache_tokens.main(
            [str(tmp_path / 'config.py'), '--out', str(tmp_path / 'tokens'), '--crops', '1']
        )


def test_a_cache_of_other_crops_is_not_gone_on_with(file, tmp_path):
    words = [str(file), '--out', str(tmp_path / 'tokens'), '--jobs', '0']
    cache_tokens.main([*words, '--crops', '1'])
    with pytest.raises(
        SystemExit, match='has 1 crops per image, not 2: make another cache in another folder'
    ):
        cache_tokens.main([*words, '--crops', '2'])
    with pytest.raises(SystemExit, match='seed: the cache has 0, the run 1'):
        cache_tokens.main(
            [*words, '--crops', '1', '--cfg-options', 'train_dataloader.dataset.seed=1']
        )


def test_beside_this_tool_python_finds_its_own_module_of_the_name():
    """A tool's folder comes first among the modules that it imports."""
    code = 'import tokenize, linecache, inspect; print(tokenize.__file__, tokenize.generate_tokens.__name__)'
    said = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT / 'tools', text=True, capture_output=True, check=True
    )
    assert said.stdout.endswith('tokenize.py generate_tokens\n') and not said.stdout.startswith(
        str(ROOT)
    )
