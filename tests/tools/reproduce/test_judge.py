"""Statistics, checked by hand and by counting; verdicts from made-up results, and the page about them."""

import math
import random

import pytest
from mmengine.config import Config
from reproduce import page
from reproduce.judge import CONTRADICTED, OPEN, SUPPORTED, interval, judge, sign_flip, verdict
from small import ROOT

pytestmark = pytest.mark.any_stack

LABELS = dict(classification='1200', segmentation='200')


def test_p_is_the_share_of_equally_extreme_signs():
    # Sums of ±1 ±2 ±3: 6, 4, 2, 0, 0, −2, −4, −6; four of eight are at least 4 away from zero.
    assert sign_flip([-1, 2, 3]) == 4 / 8
    assert sign_flip([-0.3, 0.1, 0.1, 0.2]) == 1.0  # no sum is nearer to zero
    assert sign_flip([1, 2, 3, 4, 5, 6]) == 2 / 64
    assert verdict([1, 2, 3, 4, 5, 6]) == SUPPORTED
    assert verdict([-1, -2, -3, -4, -5, -6]) == CONTRADICTED
    assert sign_flip([3.0] * 5) == 2 / 32 and verdict([3.0] * 5) == OPEN  # too few seeds
    with pytest.raises(ValueError, match='21 differences: expected 1 to 20'):
        sign_flip([1.0] * 21)


def test_without_an_effect_p_is_small_as_often_as_it_says():
    draw = random.Random(1)
    ps = [sign_flip([draw.gauss(0, 1) for _ in range(6)]) for _ in range(2000)]
    assert abs(sum(p <= 2 / 64 for p in ps) / len(ps) - 2 / 64) < 0.012  # three standard deviations
    assert abs(sum(p <= 0.5 for p in ps) / len(ps) - 0.5) < 0.034


def test_the_interval_is_students():
    middle, half = interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert middle == 3.5 and half == pytest.approx(2.5706 * math.sqrt(3.5 / 6), rel=1e-4)
    assert interval([2.0, 2.0, 2.0]) == (2.0, 0.0)
    assert interval([7.0])[0] == 7.0 and math.isnan(interval([7.0])[1])


def stage(metric: str, *values: float) -> dict:
    """Return the results of a fine-tuning that was validated at steps 10, 20, …"""
    curves = {metric: [[10 * (i + 1), value] for i, value in enumerate(values)]}
    return dict(metrics={metric: values[-1]}, curves=curves)


def figures(seeds: int) -> dict:
    """BEiT is better than scratch at first and equal at the end, and worse than random masks."""
    found = {}
    for seed in range(1, seeds + 1):
        found[str(seed)] = {
            'classification/1200/scratch': stage('top1', 10.0, 40.0 + seed, 60.0),
            'classification/1200/beit': stage('top1', 30.0 + seed, 60.0 + seed, 60 + (-1) ** seed),
            'classification/1200/random-mask': stage('top1', 30.0, 60.0, 70.0 + seed),
            'segmentation/200/scratch': stage('mIoU', 5.0, 8.0, 10.0 + seed),
            'segmentation/200/beit': stage('mIoU', 5.0, 9.0, 20.0 + 2 * seed),
        }
    return found


def test_verdicts_are_those_of_the_paired_test():
    found = {(one.claim.worse, one.metric): one for one in judge(figures(6), LABELS)}
    assert found.keys() == {('scratch', 'top1'), ('scratch', 'mIoU'), ('random-mask', 'top1')}
    better = found['scratch', 'mIoU']
    assert (better.verdict, better.here, better.seeds) == (SUPPORTED, 13.5, 6)
    assert better.p == 2 / 64 and math.isnan(better.paper)
    assert found['scratch', 'top1'].verdict == OPEN and found['scratch', 'top1'].p == 1.0
    worse = found['random-mask', 'top1']
    assert (worse.verdict, worse.paper, worse.here) == (CONTRADICTED, 0.09, -13.5)
    assert {one.verdict for one in judge(figures(5), LABELS)} == {OPEN}
    some = figures(6)
    del some['3']['segmentation/200/beit']
    assert next(one for one in judge(some, LABELS) if one.metric == 'mIoU').seeds == 5  # paired


def test_the_page_says_how_many_seeds_are_needed_and_has_its_charts(tmp_path):
    scale = Config.fromfile(str(ROOT / 'configs/reproduce/hour.py')).to_dict()
    page.write(tmp_path, scale, 'hour', figures(3), [])
    text = (tmp_path / 'results.md').read_text()
    assert 'no gap can be significant' in text and 'the smallest possible p is 0.250' in text
    charts = [line.rpartition('(')[2][:-1] for line in text.splitlines() if line[:2] == '![']
    files = {f'results/{file.name}' for file in (tmp_path / 'results').glob('*.svg')}
    assert len(charts) >= 2 and files == set(charts)
