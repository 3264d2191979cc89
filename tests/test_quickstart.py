"""The figures that the quickstart promises, also with its long fine-tunings: half an hour, with --long."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reports.summary import metrics

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
TRAIN = [sys.executable, str(ROOT / 'tools/train.py')]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Run a command in a folder with the configs, and return that folder."""
    place = tmp_path_factory.mktemp('quickstart')
    (place / 'configs').symlink_to(ROOT / 'configs')
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = os.environ | dict(PYTHONPATH=path)
    environment.pop('OMP_NUM_THREADS', None)  # all cores, as for a user

    def do(*command: str) -> Path:
        with (place / 'log.txt').open('w') as log:
            pipes = dict(stdout=log, stderr=subprocess.STDOUT)
            done = subprocess.run(command, cwd=place, env=environment, **pipes)
        assert done.returncode == 0, (place / 'log.txt').read_text()[-4000:]
        return place

    return do


@pytest.fixture(scope='module')
def summary(run) -> dict:
    recipe = [str(ROOT / 'tools/recipe.py'), 'run', 'configs/quickstart/recipe.py', '--long']
    place = run(sys.executable, *recipe)
    return json.loads((place / 'work_dirs/quickstart/summary.json').read_text())


def check_tokenizer(values: dict) -> None:
    assert values['vocab_size'] >= 512 and values['perplexity'] >= 150
    assert values['codes_used'] >= 0.6 * values['vocab_size']
    assert values['psnr'] >= values['psnr_mean_color'] + 3.5  # dB


def test_the_tokenizer_uses_its_vocabulary_and_beats_the_mean_color(summary):
    check_tokenizer(summary['tokenizer'])
    assert summary['peak_rss_gib'] <= 6


def test_pretraining_predicts_more_than_token_frequencies(summary):
    values = summary['pretrain']
    assert values['val_loss'] <= values['marginal_entropy'] - 1.5  # nats
    assert values['masked_accuracy'] >= 8 * values['marginal_accuracy']


@pytest.mark.parametrize(
    'task, metric, points', [('classification', 'top1', 12), ('segmentation', 'mIoU', 4)]
)
def test_pretraining_helps_in_few_steps_and_less_in_many(summary, task, metric, points):
    few, many = summary[task], summary[f'{task}-long']
    gain = few['pretrained'][metric] - few['scratch'][metric]
    assert gain >= points
    assert many['pretrained'][metric] - many['scratch'][metric] < gain
    assert (
        many['scratch'][metric] > few['pretrained'][metric]
    )  # training from scratch was only late


def test_the_twin_with_14x14_patches_learns_as_well(run):
    options = [
        '--size',
        '112',
        '--seed',
        '1',
        '--train',
        '12000',
        '--val',
        '1000',
        '--labels',
        '200',
        '500',
    ]
    run(sys.executable, str(ROOT / 'tools/draw_shapes.py'), 'data/quickstart_112', *options)
    run(*TRAIN, 'configs/quickstart/tokenizer_112.py')
    tokenizer = 'model.target.checkpoint=work_dirs/tokenizer_112/iter_1400.pth'
    place = run(*TRAIN, 'configs/quickstart/pretrain_112.py', '--cfg-options', tokenizer)
    check_tokenizer(metrics(place / 'work_dirs/tokenizer_112'))
    values = metrics(place / 'work_dirs/pretrain_112')
    assert values['val_loss'] <= values['marginal_entropy'] - 0.5  # nats
    assert values['masked_accuracy'] >= 8 * values['marginal_accuracy']
