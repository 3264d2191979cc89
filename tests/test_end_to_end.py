"""The quickstart's recipe with few images and two steps per stage, from drawing images to the report."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mmengine.config import Config
from recipe import runner
from recipe.chain import read_recipe
from recipe.plan import Settings
from recipe.records import read_record
from reports import run_report

ROOT = Path(__file__).parents[1]
STEPS = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.logger.interval=1']
STAGES = [
    'tokenizer',
    'pretrain',
    'classification/scratch',
    'classification/pretrained',
    'segmentation/scratch',
    'segmentation/pretrained',
    'segmentation/intermediate',
]


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory) -> Iterator[Path]:
    """A folder in which the recipe ran, in work/ and with its output in log.txt."""
    place = tmp_path_factory.mktemp('quickstart')
    (place / 'configs').symlink_to(ROOT / 'configs')
    recipe = Config.fromfile(str(ROOT / 'configs/quickstart/recipe.py')).to_dict()
    recipe['title'] = 'BEiT <i>n miniature'
    few = {'--train': 500, '--val': 20, '--segmentation-val': 10}
    for option, number in few.items():
        lines = [re.sub(rf'{option} \d+', f'{option} {number}', line) for line in recipe['prepare']]
        recipe['prepare'] = lines
    (place / 'recipe.json').write_text(json.dumps(recipe))
    command = [sys.executable, str(ROOT / 'tools/recipe.py'), 'run', 'recipe.json']
    command += ['--work-dir', 'work', '--cfg-options', *STEPS]
    with pytest.MonkeyPatch.context() as patch, (place / 'log.txt').open('w') as log:
        patch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
        done = subprocess.run(command, cwd=place, stdout=log, stderr=subprocess.STDOUT)
        assert done.returncode == 0, (place / 'log.txt').read_text()[-4000:]
        yield place


def test_each_stage_starts_from_the_stage_it_names(quickstart):
    assert all(read_record(quickstart / 'work' / name) for name in STAGES)
    log = (quickstart / 'log.txt').read_text()
    starts = {'tokenizer': 2, 'pretrain': 2, 'classification/pretrained': 1}
    for source, number in starts.items():
        assert log.count(f'work/{source}/iter_2.pth, written by beit_mm:\n') >= number, source
    assert len(re.findall(r'Iter\(train\) .* eta: ', log)) >= 2 * len(STAGES), 'progress shows'


def test_the_summary_holds_what_the_stages_logged(quickstart):
    summary = json.loads((quickstart / 'work/summary.json').read_text())
    assert {'psnr', 'psnr_mean_color', 'codes_used', 'perplexity'} <= summary['tokenizer'].keys()
    pretrain = summary['pretrain']
    expected = {'val_loss', 'marginal_entropy', 'masked_accuracy', 'marginal_accuracy'}
    assert expected <= pretrain.keys()
    assert pretrain['eq3'] == pytest.approx(pretrain['log_p_tokens'] + pretrain['log_p_pixels'])
    assert list(summary['classification']) == ['scratch', 'pretrained']
    assert list(summary['segmentation']) == ['scratch', 'pretrained', 'intermediate']
    assert all('top1' in values for values in summary['classification'].values())
    assert all('mIoU' in values for values in summary['segmentation'].values())
    assert list(summary['wall_s']) == ['prepare', *STAGES]
    assert all(wall > 0 for wall in summary['wall_s'].values())
    assert 0.1 < summary['peak_rss_gib'] < 6
    packages = {'python', 'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'beit_mm'}
    assert packages <= summary['versions'].keys()


class Page(HTMLParser):
    """A page whose tags must close in order; collects linked files and counts images."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.images = [], [], 0
        self.feed(text)
        assert self.open == []
        assert all(link.startswith('data:image/png;base64,') for link in self.links)

    def handle_starttag(self, tag, attrs):
        if tag not in ('meta', 'img', 'path'):
            self.open.append(tag)
        self.images += tag == 'img'
        self.links += [value for name, value in attrs if name in ('src', 'href', 'srcset', 'data')]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_self_contained_page(quickstart):
    text = (quickstart / 'work/report.html').read_text()
    assert not re.search(r'https?:|@import|url\(', text)
    assert Page(text).images == 6 * 2 + 6 * 4 + 6 * 5  # tokenizer, pre-training, segmentation
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
    text = (quickstart / 'one.html').read_text()
    assert Page(text).images == images and text.count('<svg') >= charts
    for words in (f'<h1>{name}</h1>', 'images per second', 'learning rate', 'max_iters=2'):
        assert words in text


def test_a_second_run_does_nothing(quickstart, monkeypatch, capsys):
    monkeypatch.chdir(quickstart)
    runner.run(read_recipe('recipe.json'), Settings(Path('work'), STEPS, seed=1))
    skipped = re.findall(r'finished before, in \d+ s; skipped', capsys.readouterr().out)
    assert len(skipped) == len(STAGES)
