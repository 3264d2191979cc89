"""Results are read from the logs of runs, and averaged over seeds."""

import json
from pathlib import Path

import pytest
from reports import summary

pytestmark = pytest.mark.any_stack


def write_log(folder: Path, *lines: dict) -> None:
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))


def test_the_last_validation_of_the_latest_run_counts_and_the_test_adds_to_it(tmp_path):
    write_log(tmp_path / '20260101_000000/vis_data', {'mim/val_loss': 9.0, 'step': 0})
    write_log(
        tmp_path / '20260102_000000/vis_data',
        {'lr': 0.1, 'loss': 6.0, 'step': 50},
        {'mim/val_loss': 5.0, 'time': 1.0, 'data_time': 0.1, 'step': 0},
        {'lr': 0.1, 'loss': 4.0, 'step': 100},
        {'mim/val_loss': 3.0, 'time': 1.0, 'data_time': 0.1, 'step': 0},
    )
    test = tmp_path / 'test/20260103_000000/20260103_000000.json'
    test.parent.mkdir(parents=True)
    test.write_text('{"mim/log_p_tokens": -7.5, "time": 2.0}')
    assert summary.metrics(tmp_path) == {'val_loss': 3.0, 'log_p_tokens': -7.5}
    assert summary.validations(summary.scalars(tmp_path), 'val_loss') == [(50, 5.0), (100, 3.0)]


def make_summary(scratch: float, pretrained: float) -> dict:
    tokens = dict(codes_used=400, vocab_size=512, perplexity=300.0)
    return dict(
        tokenizer=dict(psnr=20.0, psnr_mean_color=15.0, **tokens),
        classification=dict(scratch=dict(top1=scratch), pretrained=dict(top1=pretrained)),
        wall_s=dict(tokenizer=10.0),
        peak_rss_gib=scratch,
        versions=dict(python='3'),
    )


def test_rows_have_the_gain_over_scratch_if_there_is_one():
    text = summary.text_table(make_summary(50.0, 80.0))
    assert 'classification  pretrained  top-1, %  80.0   +30.0' in text
    assert '400 of 512 codes' in text
    without = dict(classification={'224px': dict(top1=83.2)}, wall_s=dict(vit=1.0))
    assert summary.rows(without) == [('classification', '224px', 'top-1, %', '83.2', '')]


def test_seeds_give_mean_and_standard_deviation():
    several = summary.over_seeds([make_summary(50, 80), make_summary(54, 83), make_summary(58, 86)])
    spread = several['spread']['classification']
    assert spread == dict(scratch=dict(top1=4.0), pretrained=dict(top1=3.0))
    assert (several['seeds'], several['peak_rss_gib']) == (3, 58)
    assert several['wall_s'] == dict(tokenizer=10.0)
    expected = ('classification', 'pretrained', 'top-1, %', '83.0 ± 3.0', '+29.0')
    assert summary.rows(several) == [
        ('classification', 'scratch', 'top-1, %', '54.0 ± 4.0', ''),
        expected,
    ]
