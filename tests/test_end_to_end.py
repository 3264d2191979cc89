"""The quickstart from drawing images to the report: with few images and two steps per stage, and with --long as it is.

As it is, also with its long fine-tunings, it takes half an hour and has to reach the figures that its page promises.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from recipe import runner
from recipe.chain import read_recipe
from recipe.plan import RunSettings
from recipe.records import read_record
from reports import run_report
from reports.summary import metrics

ROOT = Path(__file__).parents[1]
STEPS = ['train_cfg.max_iters=2', 'default_hooks.logger.interval=1', 'param_scheduler=[]']
STAGES = [
    'tokenizer',
    'pretrain',
    'classification/scratch',
    'classification/pretrained',
    'segmentation/scratch',
    'segmentation/pretrained',
    'segmentation/intermediate',
]


def make_place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp('quickstart')
    (place / 'configs').symlink_to(ROOT / 'configs')
    return place


def run(place: Path, command: str, **changes: str) -> None:
    """Run `TOOL ARGUMENTS` in a folder, with its output in log.txt."""
    tool, *arguments = shlex.split(command)
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    with (place / 'log.txt').open('w') as log:
        done = subprocess.run(
            [sys.executable, str(ROOT / 'tools' / tool), *arguments],
            cwd=place,
            env=os.environ | dict(PYTHONPATH=path) | changes,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    assert done.returncode == 0, (place / 'log.txt').read_text()[-4000:]


# -- few images and steps


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory) -> Path:
    """A folder in which the recipe ran, in work/ and with its output in log.txt."""
    place = make_place(tmp_path_factory)
    recipe = Config.fromfile(str(ROOT / 'configs/quickstart/recipe.py')).to_dict()
    recipe['title'] = 'BEiT <i>n miniature'
    for option, number in {'--train': 500, '--val': 20, '--segmentation-val': 10}.items():
        lines = [re.sub(rf'{option} \d+', f'{option} {number}', line) for line in recipe['prepare']]
        recipe['prepare'] = lines
    (place / 'recipe.json').write_text(json.dumps(recipe))
    run(place, f'recipe.py run recipe.json --work-dir work --cfg-options {" ".join(STEPS)}')
    return place


def test_each_stage_starts_from_the_stage_it_names(quickstart):
    assert all(read_record(quickstart / 'work' / name) for name in STAGES)
    log = ''.join(path.read_text() for path in (quickstart / 'work').rglob('output.log'))
    starts = {'tokenizer': 2, 'pretrain': 2, 'classification/pretrained': 1}
    for source, number in starts.items():
        assert log.count(f'work/{source}/iter_2.pth, written by beit_mm:\n') >= number, source
    assert len(re.findall(r'Iter\(train\) .* eta: ', log)) == 2 * len(STAGES)


def test_the_terminal_shows_two_lines_per_stage_and_nothing_of_libraries(quickstart):
    shown = (quickstart / 'log.txt').read_text().partition('\n\n')[0].splitlines()
    names = ['prepare', *STAGES[:2], 'pretrain, test', *STAGES[2:]]
    started = [re.search(r'([\w/, ]+): started, log: \S+\.log$', line) for line in shown]
    assert [found[1].strip() for found in started if found] == names
    done = [line for line in shown if re.search(r': done in \d+ s', line)]
    assert len(done) + len(names) == len(shown) == 2 * len(STAGES) + 3, shown
    assert re.search(r'PSNR .* dB, \d+ codes used$', done[1])
    assert re.search(r'mIoU \d+\.\d %$', done[-1])


def test_nothing_warns_of_what_no_user_can_act_on(quickstart):
    logs = [quickstart / 'log.txt', *quickstart.rglob('output.log')]
    warned = [line for path in logs for line in path.read_text().splitlines()
              if re.search(r' - WARNING - |Warning:|deprecated in', line)]  # fmt: skip
    ours = 'the tokens carry no information', 'the codebook collapses'  # after two steps
    assert [line for line in warned if not any(words in line for words in ours)] == []


def test_the_summary_holds_what_the_stages_logged(quickstart):
    summary = json.loads((quickstart / 'work/summary.json').read_text())
    tokenizer, pretrain = summary['tokenizer'], summary['pretrain']
    assert {'psnr', 'psnr_mean_color', 'codes_used', 'perplexity'} <= tokenizer.keys()
    expected = {'val_loss', 'marginal_entropy', 'masked_accuracy', 'marginal_accuracy'}
    assert expected <= pretrain.keys()
    assert pretrain['eq3'] == pytest.approx(pretrain['log_p_tokens'] + pretrain['log_p_pixels'])
    for task, metric in dict(classification='top1', segmentation='mIoU').items():
        names = [name.split('/')[1] for name in STAGES if name.startswith(task)]
        assert list(summary[task]) == names
        assert all(metric in values for values in summary[task].values())
    assert list(summary['wall_s']) == ['prepare', *STAGES]
    assert all(wall > 0 for wall in summary['wall_s'].values())
    assert 0.1 < summary['peak_rss_gib'] < 6
    packages = {'python', 'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'beit_mm'}
    assert packages <= summary['versions'].keys()


def read_page(path: Path) -> str:
    """Return a page, which has to load nothing."""
    text = path.read_text()
    assert not re.search(r'https?:|@import|url\(', text)
    links = re.findall(r'(?:src|href|srcset|data)="([^"]*)"', text)
    assert all(link.startswith('data:image/png;base64,') for link in links)
    return text


def test_the_report_is_one_self_contained_page(quickstart):
    text = read_page(quickstart / 'work/report.html')
    assert text.count('<img') == 6 * 2 + 6 * 4 + 6 * 5  # tokenizer, pre-training, segmentation
    assert text.count('<svg') == 4 and '<h1>BEiT &lt;i&gt;n miniature</h1>' in text
    assert 'width=device-width' in text and 'color-scheme: light dark' in text


@pytest.mark.parametrize(
    'name, images, charts',
    [
        ('tokenizer', 12, 9),
        ('pretrain', 24, 6),
        ('classification/pretrained', 12, 3),
        ('segmentation/intermediate', 18, 4),
    ],
)
def test_each_stage_has_a_report_of_its_own(quickstart, monkeypatch, name, images, charts):
    monkeypatch.chdir(quickstart)  # where configs find their data
    run_report.write(quickstart / 'one.html', quickstart / 'work' / name)
    text = read_page(quickstart / 'one.html')
    assert text.count('<img') == images and text.count('<svg') >= charts
    for words in (f'<h1>{name}</h1>', 'images per second', 'learning rate', 'max_iters=2'):
        assert words in text


def test_a_second_run_does_nothing(quickstart, monkeypatch, capsys):
    monkeypatch.chdir(quickstart)
    runner.run(read_recipe('recipe.json'), RunSettings(Path('work'), STEPS, seed=1))
    skipped = re.findall(r'finished before, in \d+ s; skipped', capsys.readouterr().out)
    assert len(skipped) == len(STAGES)


# -- as it is

CORES = dict(OMP_NUM_THREADS=str(os.cpu_count()))  # as for a user


@pytest.fixture(scope='module')
def summary(tmp_path_factory) -> dict:
    place = make_place(tmp_path_factory)
    run(place, 'recipe.py run configs/quickstart/recipe.py --long', **CORES)
    return json.loads((place / 'work_dirs/quickstart/summary.json').read_text())


def check_tokenizer(values: dict) -> None:
    assert values['vocab_size'] >= 512 and values['perplexity'] >= 150
    assert values['codes_used'] >= 0.6 * values['vocab_size']
    assert values['psnr'] >= values['psnr_mean_color'] + 3  # dB


def check_pretraining(values: dict, gain: float) -> None:
    assert values['val_loss'] <= values['marginal_entropy'] - gain  # nats
    assert values['masked_accuracy'] >= 8 * values['marginal_accuracy']


@pytest.mark.long
def test_tokens_and_their_prediction_keep_what_the_images_show(summary):
    check_tokenizer(summary['tokenizer'])
    check_pretraining(summary['pretrain'], gain=1.5)
    assert summary['peak_rss_gib'] <= 6


@pytest.mark.long
def test_pretraining_helps_to_classify_in_few_steps_and_less_in_many(summary):
    few, many = summary['classification'], summary['classification-long']
    gain = few['pretrained']['top1'] - few['scratch']['top1']
    assert few['pretrained']['top1'] >= 50 and gain >= 5
    assert many['pretrained']['top1'] - many['scratch']['top1'] < gain
    assert many['scratch']['top1'] > few['pretrained']['top1']  # from scratch was only late


@pytest.mark.long
def test_segmentation_learns_from_each_start_and_more_in_many_steps(summary):
    few, many = summary['segmentation'], summary['segmentation-long']
    assert all(values['mIoU'] >= 35 for values in few.values())
    assert all(many[start]['mIoU'] > few[start]['mIoU'] for start in many)


@pytest.mark.long
def test_the_twin_with_14x14_patches_learns_as_well(tmp_path_factory):
    place = make_place(tmp_path_factory)
    options = '--size 112 --seed 1 --train 12000 --val 1000 --labels 200 500'
    run(place, f'draw_shapes.py data/quickstart_112 {options}', **CORES)
    run(place, 'train.py configs/quickstart/tokenizer_112.py', **CORES)
    tokenizer = 'model.target.checkpoint=work_dirs/tokenizer_112/iter_1400.pth'
    run(place, f'train.py configs/quickstart/pretrain_112.py --cfg-options {tokenizer}', **CORES)
    check_tokenizer(metrics(place / 'work_dirs/tokenizer_112'))
    check_pretraining(metrics(place / 'work_dirs/pretrain_112'), gain=0.5)
