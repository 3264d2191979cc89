"""What the quickstart promises, over the longer fine-tunings as well: half an hour, so behind --long."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reports.summary import metrics

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long
TRAIN = [sys.executable, str(ROOT / 'tools/train.py')]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Runs a command where configs and data are; returns what it printed."""
    place = tmp_path_factory.mktemp('quickstart')
    (place / 'configs').symlink_to(ROOT / 'configs')
    environment = {
        key: value for key, value in os.environ.items() if key != 'OMP_NUM_THREADS'
    }  # all cores, as a user
    environment['PYTHONPATH'] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
    )

    def do(*command: str) -> Path:
        with (place / 'log.txt').open('w') as log:
            done = subprocess.run(
                command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        assert done.returncode == 0, (place / 'log.txt').read_text()[-4000:]
        return place

    return do


@pytest.fixture(scope='module')
def summary(run) -> dict:
    recipe = [str(ROOT / 'tools/recipe.py'), 'run', 'configs/quickstart/recipe.py', '--long']
    return json.loads(
        (run(sys.executable, *recipe) / 'work_dirs/quickstart/summary.json').read_text()
    )


def check_tokenizer(values: dict) -> None:
    assert (
        values['vocab_size'] >= 512
        and values['codes_used'] >= 0.6 * values['vocab_size']
        and values['perplexity'] >= 150
    )
    assert values['psnr'] >= values['psnr_mean_color'] + 3.5  # dB


def test_tokenizer_uses_its_codes_and_beats_the_mean_color(summary):
    check_tokenizer(summary['tokenizer'])
    assert summary['peak_rss_gib'] <= 6


def test_pretraining_sees_more_than_how_often_tokens_occur(summary):
    values = summary['pretrain']
    assert values['val_loss'] <= values['marginal_entropy'] - 1.5  # nats
    assert values['masked_accuracy'] >= 8 * values['marginal_accuracy']


@pytest.mark.parametrize(
    'task, metric, gain', [('classification', 'top1', 12), ('segmentation', 'mIoU', 4)]
)
def test_pretraining_helps_in_few_steps_and_less_in_many(summary, task, metric, gain):
    def bought(arms: dict) -> float:
        return arms['pretrained'][metric] - arms['scratch'][metric]

    assert bought(summary[task]) >= gain
    assert bought(summary[f'{task}-long']) < bought(summary[task])
    assert (
        summary[f'{task}-long']['scratch'][metric] > summary[task]['pretrained'][metric]
    )  # it was only late


def test_the_14x14_twin_learns_as_well(run):
    draw = 'tools/draw_shapes.py data/quickstart_112 --size 112 --seed 1 --train 12000 --val 1000 --labels 200 500'
    run(sys.executable, *draw.split())
    run(*TRAIN, 'configs/quickstart/tokenizer_112.py')
    tokenizer = 'model.target.checkpoint=work_dirs/tokenizer_112/iter_1400.pth'
    place = run(*TRAIN, 'configs/quickstart/pretrain_112.py', '--cfg-options', tokenizer)
    check_tokenizer(metrics(place / 'work_dirs/tokenizer_112'))
    values = metrics(place / 'work_dirs/pretrain_112')
    assert values['val_loss'] <= values['marginal_entropy'] - 0.5  # nats
    assert values['masked_accuracy'] >= 8 * values['marginal_accuracy']
