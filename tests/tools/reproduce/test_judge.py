"""From made-up figures: means, pairs, verdicts, crossing points, and the page that says them."""

import math
import xml.etree.ElementTree as ElementTree

import pytest
from mmengine.config import Config
from reproduce import page
from reproduce.judge import curve, differences, judge, pays
from reproduce.statistics import CONTRADICTED, OPEN, SUPPORTED
from small import ROOT

pytestmark = pytest.mark.any_stack

MAINS = dict(classification='1200', segmentation='200')


def stage(metric: str, *values: float) -> dict:
    """Of a fine-tuning validated at steps 10, 20, …"""
    curves = {metric: [[10 * (i + 1), value] for i, value in enumerate(values)]}
    return dict(digest='', metrics={metric: values[-1]}, curves=curves, wall_s=1.0)


def figures(seeds: int) -> dict:
    """BEiT is ahead of scratch, of pixels by turns, and behind random masks; by then scratch has caught up."""
    return {
        str(seed): {
            'classification/1200/scratch': stage('top1', 10.0, 40.0 + seed, 60.0),
            'classification/1200/beit': stage(
                'top1', 30.0 + seed, 60.0 + seed, 60.0 + (-1) ** seed
            ),
            'classification/1200/random-mask': stage('top1', 30.0, 60.0, 70.0 + seed),
            'segmentation/200/scratch': stage('mIoU', 5.0, 8.0, 10.0 + seed),
            'segmentation/200/beit': stage('mIoU', 5.0, 9.0, 20.0 + 2 * seed),
        }
        for seed in range(1, seeds + 1)
    }


def test_verdicts_are_those_of_the_paired_test():
    found = {(one.claim.worse, one.metric): one for one in judge(figures(6), MAINS)}
    assert found.keys() == {('scratch', 'top1'), ('scratch', 'mIoU'), ('random-mask', 'top1')}
    ahead = found['scratch', 'mIoU']
    assert (ahead.verdict, ahead.here, ahead.p, ahead.seeds) == (
        SUPPORTED,
        13.5,
        2 / 64,
        6,
    ) and math.isnan(ahead.paper)
    assert found['scratch', 'top1'].verdict == OPEN and found['scratch', 'top1'].p == 1.0
    behind = found['random-mask', 'top1']
    assert (behind.verdict, behind.paper, behind.here) == (CONTRADICTED, 0.09, -13.5)
    assert {one.verdict for one in judge(figures(5), MAINS)} == {OPEN}


def test_only_the_same_seed_is_a_pair():
    assert differences({'1': 5.0, '2': 7.0}, {'2': 1.0, '3': 9.0}) == [6.0]
    some = figures(6)
    del some['3']['segmentation/200/beit']
    assert next(one for one in judge(some, MAINS) if one.metric == 'mIoU').seeds == 5


def test_where_it_pays_is_where_the_test_says_so():
    stages = ['classification/1200/beit', 'classification/1200/scratch']
    assert pays(figures(6), *stages, 'top1') == [
        (10, 23.5, True),
        (20, 20.0, True),
        (30, 0.0, False),
    ]
    assert [sure for _, _, sure in pays(figures(3), *stages, 'top1')] == [False] * 3
    assert curve(figures(6), stages[1], 'top1')[1][:2] == (20, 43.5)


@pytest.fixture
def written(tmp_path):
    def write(seeds: int) -> str:
        scale = Config.fromfile(str(ROOT / 'configs/reproduce/hour.py')).to_dict()
        made = dict(
            command='python tools/reproduce.py', commit='c0ffee', machine='mine', date='today'
        )
        page.write(tmp_path, scale, 'hour', figures(seeds), [made])
        return (tmp_path / 'results.md').read_text()

    return write


def test_the_page_says_first_what_disagrees(written, tmp_path):
    text = written(6)
    assert (
        text.index('## What disagrees')
        < text.index('Blockwise masking beats random masking: top-1 −13.50')
        < text.index('## Claims')
    )
    assert '| BEiT | 82.86 | 60.0 ± 1.1 | 44.65 | 27.0 ± 3.9 |' in text
    assert (
        '| Blockwise masking beats random masking | top-1, % | +0.09 | −13.50 ± 1.96 | 0.031 | contradicted here |'
        in text
    )
    assert '| classification | 1200 | BEiT | +0.00 ± 1.15 | 10 … 20 |' in text
    assert 'commit c0ffee' in text and '| − visual tokens: pixels |' not in text
    shown = [line.rpartition('(')[2][:-1] for line in text.splitlines() if line.startswith('![')]
    assert len(shown) >= 2 and {file.name for file in (tmp_path / 'results').glob('*.svg')} == {
        name.rpartition('/')[2] for name in shown
    }
    for name in shown:
        ElementTree.parse(tmp_path / name)


def test_three_seeds_are_said_to_tell_nothing(written):
    assert 'nothing can be significant' in written(3) and 'p is 0.250 at least' in written(3)
    assert 'nothing can be significant' not in written(6)
