"""tools/reproduce.py: all scales as printed commands, a tiny scale for real; nothing runs twice."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from reproduce import page, results
from reproduce.scale import Scale
from small import ROOT
from trials.ranks import until

pytestmark = pytest.mark.any_stack
TINY = """
_base_ = '{root}/configs/reproduce/shapes.py'
data = 'data/tiny'
prepare = ['python tools/draw_shapes.py {{data}} --wrapped --train 40 --val 4 --labels 20 --jobs 1 '
           '--segmentation-train 20 --segmentation-val 2']
seeds, ablations, curves = 2, ['scratch'], []
file = 'train_dataloader.dataset.dataset.ann_file'
few = {{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 1, 'param_scheduler.1.end': 20,
        'train_dataloader.batch_size': 4}}
warmup = {{'param_scheduler.0.end': 1, 'param_scheduler.1.begin': 1, 'train_cfg.val_interval': 2}}
tokenizers = dict(tokenizer=dict(options={{**few, **warmup}}))
pretrain = dict(whole=dict(
    train_dataloader=dict(batch_size=4), train_cfg=dict(max_iters=2, val_interval=2), param_scheduler=[]))
classification = dict(
    options=few, labels=dict(_delete_=True, **{{'20': {{file: 'meta/train_20.txt'}}}}), main='20')
segmentation = dict(
    options=few, labels=dict(_delete_=True, **{{'20': {{file: 'training_20.txt'}}}}), main='20')
del file, few, warmup
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the scale `tiny.py`, without the configs."""
    (tmp_path / 'tiny.py').write_text(TINY.format(root=ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tool(*words: str) -> None:
    runpy.run_path(str(ROOT / 'tools/reproduce.py'))['main'](list(words))


def planned_commands(capsys, *words: str) -> dict[str, str]:
    """Return stage → command for seed 1."""
    tool(*words, '--dry-run')
    lines = capsys.readouterr().out.splitlines()
    found = [(re.search(r'-dir \S+/seed-1/(\S+)', line), line) for line in lines]
    return {match[1]: line for match, line in found if match}


@pytest.mark.parametrize('scale', ['minutes', 'gpu', 'paper'])
def test_each_stage_of_a_scale_starts_from_a_stage_of_the_scale(scale, place, capsys):
    commands = planned_commands(capsys, '--scale', scale, '--seeds', '1')
    for stage, command in commands.items():
        sources = re.findall(r'checkpoint=\S*?/seed-1/(\S+)/(?:iter|epoch)_\d+\.pth', command)
        assert set(sources) <= commands.keys() and 'randomness.seed=1' in command
        if stage.endswith('/scratch'):
            assert not sources
        elif '/beit' in stage and not stage.startswith('pretrain/'):
            assert sources == ['pretrain/beit']
    assert 'tokenizer' in commands and any('segmentation/' in stage for stage in commands)


def test_the_papers_scale_is_the_papers_configs_on_many_gpus(place, capsys):
    words = '--ablations pixels intermediate --seeds 1 --data /big --launcher pytorch --gpus 8'
    commands = planned_commands(capsys, '--scale', 'paper', *words.split())
    tasks = ['classification/all/beit', 'classification/all/pixels', 'segmentation/all/beit']
    tasks += ['segmentation/all/pixels', 'segmentation/all/intermediate']
    assert list(commands) == ['tokenizer', 'pretrain/beit', 'pretrain/pixels', *tasks]
    for command in commands.values():
        assert command.startswith('bash ') and 'dist_train.sh' in command and ' 8 ' in command
    assert 'data_root=/big/imagenet' in commands['pretrain/pixels']
    assert 'target.checkpoint' not in commands['pretrain/pixels']
    assert 'data_root=/big/ade/ADEChallengeData2016' in commands['segmentation/all/beit']
    through = 'checkpoint=work_dirs/reproduce/paper/seed-1/classification/all/beit/epoch_100.pth'
    assert f'init_cfg.{through}' in commands['segmentation/all/intermediate']


def test_a_mistake_in_the_command_is_one_line(place):
    with pytest.raises(SystemExit, match='no scale hours: expected one of gpu, hour, minutes'):
        tool('--scale', 'hours')
    with pytest.raises(SystemExit, match='--ablations mae: expected some of scratch, beit'):
        tool('--scale', 'hour', '--ablations', 'beit', 'mae')


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('rows', "rows was renamed: write 'ablations'"),
        ('budget', "budget was renamed: write 'comparison'"),  # codespell:ignore
        ('curve', "unknown key 'curve': expected ablations, .*del curve"),
    ],
)
def test_an_unknown_key_of_a_scale_is_an_error(key, message, place):
    with (place / 'tiny.py').open('a') as file:
        file.write(f'{key} = []\n')
    with pytest.raises(SystemExit, match=message):
        tool('--scale', 'tiny.py', '--dry-run')


def test_the_page_in_docs_is_made_from_its_results(tmp_path):
    found = results.read(ROOT / 'docs', 'hour')
    scale = Scale.read(ROOT / 'configs/reproduce/hour.py').cfg
    page.write(tmp_path, scale, 'hour', found['seeds'], found['runs'])
    assert (tmp_path / 'results.md').read_text() == (ROOT / 'docs/results.md').read_text()


COMMAND = [sys.executable, str(ROOT / 'tools/reproduce.py'), '--scale', 'tiny.py', '--out', 'out']


def run(place: Path, *words: str) -> None:
    done = subprocess.run([*COMMAND, *words], cwd=place, capture_output=True, text=True)
    logs = ''.join(log.read_text()[-3000:] for log in place.rglob('log.txt'))
    assert done.returncode == 0, done.stdout + done.stderr + logs


def read(place: Path) -> dict:
    return json.loads((place / 'out/results/tiny.json').read_text())['seeds']


def test_stages_with_results_do_not_run_again(place, capsys):
    run(place, '--seeds', '1')
    stages = read(place)['1']
    assert stages.keys() == {'classification/20/scratch', 'segmentation/20/scratch'}
    assert 0 <= stages['segmentation/20/scratch']['metrics']['mIoU'] <= 100
    text = (place / 'out/results.md').read_text()
    shutil.rmtree(place / 'work_dirs')
    (place / 'out/results.md').unlink()
    tool('--scale', 'tiny.py', '--out', 'out', '--seeds', '1')  # as in another checkout
    assert 'seed 1' not in capsys.readouterr().out and not list(place.rglob('*.pth'))
    assert (place / 'out/results.md').read_text() == text


@pytest.mark.long
def test_two_parallel_seeds_continue_where_they_were_stopped(place):
    words = ['--ablations', 'scratch', 'beit', 'pixels', 'intermediate', '--jobs', '2']
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = subprocess.Popen([*COMMAND, *words], cwd=place, start_new_session=True, **quiet)
    assert until(lambda: list(place.rglob('pretrain/beit/begun.json')), 120)
    os.killpg(first.pid, signal.SIGINT)
    first.wait(60)
    assert first.returncode and list(place.rglob('tokenizer/stage.json'))
    assert read(place) and all('tokenizer' in stages for stages in read(place).values())
    made = {path: path.stat().st_mtime_ns for path in place.rglob('stage.json')}
    run(place, *words)
    assert all(path.stat().st_mtime_ns == then for path, then in made.items())  # not run twice
    seeds = read(place)
    assert seeds.keys() == {'1', '2'} and seeds['1'].keys() == seeds['2'].keys()
    assert len(seeds['1']) == 10
    losses = [seeds[seed]['pretrain/beit']['metrics']['val_loss'] for seed in '12']
    assert losses[0] != losses[1]
    assert 'no gap can be significant' in (place / 'out/results.md').read_text()
    wrong = ['--cfg-options', 'optim_wrapper.optimizer.lr=-1.0']
    with pytest.raises(SystemExit, match='2 of 2 seeds failed'):
        tool('--scale', 'tiny.py', '--out', 'out', *words, *wrong)
    assert read(place) == seeds  # what earlier runs left in the folders is not taken for theirs
