"""The quickstart's own recipe, with two steps a stage and few images, from drawing them to the report."""

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
from recipe import chain as recipe
from recipe import runner
from recipe.plan import Settings
from recipe.records import read_record
from reports import run_report

ROOT = Path(__file__).parents[1]
STEPS = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.logger.interval=1']
STAGES = [
    'tokenizer', 'pretrain', 'classification/scratch', 'classification/pretrained', 'segmentation/scratch',
    'segmentation/pretrained', 'segmentation/intermediate',
]  # fmt: skip


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory) -> Iterator[Path]:
    """Where the chain ran: work/ and its output in log.txt."""
    place = tmp_path_factory.mktemp('quickstart')
    (place / 'configs').symlink_to(ROOT / 'configs')
    chain = Config.fromfile(str(ROOT / 'configs/quickstart/recipe.py')).to_dict()
    chain['title'] = 'BEiT <i>n miniature'
    for option, number in (('--train', 500), ('--val', 20), ('--segmentation-val', 10)):
        chain['prepare'] = [
            re.sub(rf'{option} \d+', f'{option} {number}', command) for command in chain['prepare']
        ]
    (place / 'recipe.json').write_text(json.dumps(chain))
    command = [
        sys.executable,
        str(ROOT / 'tools/recipe.py'),
        'run',
        'recipe.json',
        '--work-dir',
        'work',
    ]
    with pytest.MonkeyPatch.context() as patch, (place / 'log.txt').open('w') as log:
        patch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
        done = subprocess.run(
            [*command, '--cfg-options', *STEPS], cwd=place, stdout=log, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, (place / 'log.txt').read_text()[-4000:]
        yield place


def test_every_stage_ran_and_started_from_the_one_it_names(quickstart):
    for name in STAGES:
        assert read_record(quickstart / 'work' / name), name
    log = (quickstart / 'log.txt').read_text()
    assert (
        len(
            re.findall(
                r'work/tokenizer/iter_2.pth, written by beit_mm:\n +keys +fate +which\n +64 +loaded\n',
                log,
            )
        )
        >= 2
    )
    assert len(re.findall(r'work/pretrain/iter_2.pth, written by beit_mm:\n', log)) == 2
    assert (
        len(re.findall(r'work/classification/pretrained/iter_2.pth, written by beit_mm:\n', log))
        == 1
    )
    assert len(re.findall(r'Iter\(train\) .* eta: ', log)) >= 2 * len(STAGES), 'progress shows'


def test_summary_holds_what_the_runs_logged(quickstart):
    summary = json.loads((quickstart / 'work/summary.json').read_text())
    assert summary['tokenizer'].keys() >= {
        'psnr',
        'psnr_mean_color',
        'vocab_size',
        'codes_used',
        'perplexity',
    }
    pretrain = summary['pretrain']
    assert pretrain.keys() >= {
        'val_loss',
        'marginal_entropy',
        'masked_accuracy',
        'marginal_accuracy',
    }
    assert pretrain['eq3'] == pytest.approx(pretrain['token_term'] + pretrain['pixel_term'])
    assert [list(summary[task]) for task in ('classification', 'segmentation')] == [
        ['scratch', 'pretrained'], ['scratch', 'pretrained', 'intermediate'],
    ]  # fmt: skip
    assert all('top1' in arm for arm in summary['classification'].values())
    assert all('mIoU' in arm for arm in summary['segmentation'].values())
    assert list(summary['wall_s']) == ['prepare', *STAGES] and all(
        wall > 0 for wall in summary['wall_s'].values()
    )
    assert 0.1 < summary['peak_rss_gib'] < 6
    assert {'python', 'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'beit_mm'} <= summary[
        'versions'
    ].keys()
    assert 'What pre-training bought' in (quickstart / 'log.txt').read_text()


class Page(HTMLParser):
    """Checks that tags close in order; collects what would be fetched, and counts images."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.images = [], [], 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ('meta', 'img', 'path'):
            self.open.append(tag)
        self.images += tag == 'img'
        self.links += [value for name, value in attrs if name in ('src', 'href', 'srcset', 'data')]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_one_page_that_needs_nothing_else(quickstart):
    text = (quickstart / 'work/report.html').read_text()
    page = Page(text)
    assert all(link.startswith('data:image/png;base64,') for link in page.links)
    assert not re.search(r'https?:|@import|url\(', text)
    assert page.images == 6 * 2 + 6 * 4 + 6 * 5  # tokenizer, pre-training, segmentation
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
    page = Page(text)
    assert page.images == images and text.count('<svg') >= charts and f'<h1>{name}</h1>' in text
    assert all(link.startswith('data:image/png;base64,') for link in page.links)
    assert (
        'images a second' in text
        and 'learning rate' in text
        and 'GPU number: 1' in text
        and 'max_iters=2' in text
    )


def test_run_again_does_nothing(quickstart, monkeypatch, capsys):
    monkeypatch.chdir(quickstart)
    runner.run(
        recipe.read_recipe('recipe.json'),
        Settings(Path('work'), STEPS, seed=1),
    )
    assert len(re.findall(r'finished before, in \d+ s; skipped', capsys.readouterr().out)) == len(
        STAGES
    )
