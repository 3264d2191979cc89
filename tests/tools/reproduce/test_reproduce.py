"""tools/reproduce.py: every scale as it is printed, and a tiny one for real; what is finished is not run again."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reproduce import page, results
from reproduce.scale import Scale

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[3]
TINY = """
_base_ = '{root}/configs/reproduce/shapes.py'
data = 'data/tiny'
prepare = ['python tools/draw_shapes.py {{data}} --wrapped --train 40 --val 4 --segmentation-train 20 '
           '--segmentation-val 2 --labels 20 --jobs 1']
seeds, ablations, curves, steps = 2, ['scratch'], [], 2
file = 'train_dataloader.dataset.dataset.ann_file'
few = {{
    'train_cfg.max_iters': 2, 'train_cfg.val_interval': 1, 'param_scheduler.1.end': 20, 'train_dataloader.batch_size': 4}}
more = {{**few, 'param_scheduler.0.end': 1, 'param_scheduler.1.begin': 1, 'train_cfg.val_interval': 2}}
tokenizers = dict(tokenizer=dict(options=more))
short = dict(train_dataloader=dict(batch_size=4), train_cfg=dict(max_iters=2, val_interval=2), param_scheduler=[])
pretrain = dict(whole=short)
classification = dict(options=few, labels=dict(_delete_=True, **{{'20': {{file: 'meta/train_20.txt'}}}}), main='20')
segmentation = dict(options=few, labels=dict(_delete_=True, **{{'20': {{file: 'training_20.txt'}}}}), main='20')
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the configs and the scale `tiny.py`."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'tiny.py').write_text(TINY.format(root=ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tool(*words: str) -> None:
    runpy.run_path(str(ROOT / 'tools/reproduce.py'))['main'](list(words))


def planned(capsys, *words: str) -> dict[str, str]:
    """Stage of seed 1 → its command."""
    tool(*words, '--dry-run')
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if '--work-dir' in line and '/seed-1/' in line
    ]
    return {re.search(r'/seed-1/(\S+)', line)[1]: line for line in lines}


@pytest.mark.parametrize('scale', ['minutes', 'hour', 'gpu', 'paper'])
def test_a_scale_is_printed(scale, place, capsys):
    commands = planned(capsys, '--scale', scale, '--seeds', '1')
    for stage, command in commands.items():
        for source in re.findall(r'checkpoint=\S*?/seed-1/(\S+)/(?:iter|epoch)_\d+\.pth', command):
            assert source in commands, (stage, source)
        assert 'randomness.seed=1' in command
    tasks = [stage for stage in commands if stage.startswith(('classification/', 'segmentation/'))]
    assert all('/beit' not in stage or 'pretrain/beit/' in commands[stage] for stage in tasks)
    assert not any('pretrain/' in commands[stage] for stage in tasks if stage.endswith('/scratch'))
    assert 'tokenizer' in commands and any('segmentation/' in stage for stage in tasks)


def test_the_papers_scale_is_the_papers_configs_on_many_gpus(place, capsys):
    words = '--ablations pixels intermediate --seeds 1 --data /big --launcher pytorch --gpus 8'
    commands = planned(capsys, '--scale', 'paper', *words.split())
    assert list(commands) == [
        'tokenizer', 'pretrain/beit', 'pretrain/pixels', 'classification/all/beit', 'classification/all/pixels',
        'segmentation/all/beit', 'segmentation/all/pixels', 'segmentation/all/intermediate',
    ]  # fmt: skip
    assert all(
        command.startswith('bash ') and 'dist_train.sh' in command and ' 8 ' in command
        for command in commands.values()
    )
    assert (
        'data_root=/big/imagenet' in commands['pretrain/pixels']
        and 'target.checkpoint' not in commands['pretrain/pixels']
    )
    assert 'data_root=/big/ade/ADEChallengeData2016' in commands['segmentation/all/beit']
    assert (
        'init_cfg.checkpoint=work_dirs/reproduce/paper/seed-1/classification/all/beit/epoch_100.pth'
        in commands['segmentation/all/intermediate']
    )


@pytest.mark.parametrize('words, complaint', [
    ('--scale hours', 'no scale hours: expected one of gpu, hour, minutes, paper'),
    ('--scale hour --ablations beit mae', '--ablations mae: expected some of scratch, beit'),
    ('--scale hour --gpus 4', 'needs --launcher'),
])  # fmt: skip
def test_a_wrong_word_is_answered(words, complaint, place, capsys):
    with pytest.raises(SystemExit) as end:
        tool(*words.split(), '--dry-run')
    assert complaint in str(end.value)


def test_the_page_of_the_hour_is_made_from_its_figures_and_compares_what_is_comparable(tmp_path):
    store = results.read(ROOT / 'docs', 'hour')
    page.write(
        tmp_path,
        Scale.read(ROOT / 'configs/reproduce/hour.py').cfg,
        'hour',
        store['seeds'],
        store['runs'],
    )
    assert (tmp_path / 'results.md').read_text() == (ROOT / 'docs/results.md').read_text()
    for stages in store['seeds'].values():
        for row in ('recover-all', 'no-mask'):
            over_all = stages.get(f'pretrain/{row}', {}).get('metrics', {})
            assert all(name.endswith('_all') for name in over_all)


def run(place: Path, *words: str) -> str:
    command = [
        sys.executable,
        str(ROOT / 'tools/reproduce.py'),
        '--scale',
        'tiny.py',
        '--out',
        'out',
        *words,
    ]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    logs = ''.join(log.read_text()[-3000:] for log in place.rglob('log.txt'))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout


def test_what_is_in_the_figures_is_not_run_again(place, capsys):
    run(place, '--seeds', '1')
    figures = json.loads((place / 'out/results/tiny.json').read_text())
    assert figures['seeds']['1'].keys() == {'classification/20/scratch', 'segmentation/20/scratch'}
    assert 0 <= figures['seeds']['1']['segmentation/20/scratch']['metrics']['mIoU'] <= 100
    page = (place / 'out/results.md').read_text()
    shutil.rmtree(place / 'work_dirs')
    (place / 'out/results.md').unlink()
    tool('--scale', 'tiny.py', '--out', 'out', '--seeds', '1')  # as in another checkout
    assert 'seed 1' not in capsys.readouterr().out and not list(place.rglob('*.pth'))
    assert (place / 'out/results.md').read_text() == page


@pytest.mark.long
def test_two_seeds_side_by_side_go_on_where_they_were_stopped(place):
    ablations = ['--ablations', 'scratch', 'beit', 'pixels', 'intermediate', '--jobs', '2']
    command = [
        sys.executable,
        str(ROOT / 'tools/reproduce.py'),
        '--scale',
        'tiny.py',
        '--out',
        'out',
        *ablations,
    ]
    first = subprocess.Popen(
        command,
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(1200):
        if list(place.rglob('pretrain/beit/begun.json')):
            break
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    first.wait(60)
    assert first.returncode and list(place.rglob('tokenizer/stage.json'))
    kept = json.loads((place / 'out/results/tiny.json').read_text())['seeds']
    assert kept and all('tokenizer' in stages for stages in kept.values()), {
        s: list(k) for s, k in kept.items()
    }
    made = {path: path.stat().st_mtime_ns for path in place.rglob('stage.json')}
    run(place, *ablations)
    assert all(
        path.stat().st_mtime_ns == then for path, then in made.items()
    )  # none of them ran twice
    seeds = json.loads((place / 'out/results/tiny.json').read_text())['seeds']
    assert (
        seeds.keys() == {'1', '2'}
        and seeds['1'].keys() == seeds['2'].keys()
        and len(seeds['1']) == 10
    )
    loss = {seed: stages['pretrain/beit']['metrics']['val_loss'] for seed, stages in seeds.items()}
    assert loss['1'] != loss['2']
    assert 'no gap can be significant' in (place / 'out/results.md').read_text()
    with pytest.raises(SystemExit, match='2 of 2 seeds failed'):
        tool(
            '--scale',
            'tiny.py',
            '--out',
            'out',
            *ablations,
            '--cfg-options',
            'optim_wrapper.optimizer.lr=-1.0',
        )
    # What the runs before have left in the folders is not taken for theirs.
    assert json.loads((place / 'out/results/tiny.json').read_text())['seeds'] == seeds
