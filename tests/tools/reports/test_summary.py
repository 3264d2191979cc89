"""What is read from the runs' logs, and the table made of it."""

import json
from pathlib import Path

import pytest
from reports import summary

pytestmark = pytest.mark.any_stack


def log(folder: Path, *lines: dict) -> None:
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))


def test_last_validation_of_the_latest_run_counts_and_the_test_adds_to_it(tmp_path):
    log(tmp_path / '20260101_000000/vis_data', {'mim/val_loss': 9.0, 'step': 0})
    log(
        tmp_path / '20260102_000000/vis_data',
        {'lr': 0.1, 'loss': 6.0, 'step': 50},
        {'mim/val_loss': 5.0, 'time': 1.0, 'data_time': 0.1, 'step': 0},
        {'lr': 0.1, 'loss': 4.0, 'step': 100},
        {'mim/val_loss': 3.0, 'time': 1.0, 'data_time': 0.1, 'step': 0},
    )
    (tmp_path / 'test/20260103_000000').mkdir(parents=True)
    (tmp_path / 'test/20260103_000000/20260103_000000.json').write_text(
        '{"mim/eq3": -7.5, "time": 2.0}'
    )
    assert summary.metrics(tmp_path) == {'val_loss': 3.0, 'eq3': -7.5}
    assert summary.validations(summary.scalars(tmp_path), 'val_loss') == [(50, 5.0), (100, 3.0)]


def one(scratch: float, pretrained: float) -> dict:
    return dict(
        tokenizer=dict(
            psnr=20.0, psnr_mean_color=15.0, codes_used=400, vocab_size=512, perplexity=300.0
        ),
        classification=dict(scratch=dict(top1=scratch), pretrained=dict(top1=pretrained)),
        wall_s=dict(tokenizer=10.0),
        peak_rss_gib=scratch,
        versions=dict(python='3'),
    )


def test_table_shows_the_gain_over_scratch():
    assert summary.rows(one(50.0, 80.0)) == [
        ('classification', 'scratch', 'top-1, %', '50.0', ''),
        ('classification', 'pretrained', 'top-1, %', '80.0', '+30.0'),
    ]


def test_a_task_without_an_arm_from_scratch_has_values_and_no_gain():
    found = dict(
        classification={'224px': dict(top1=83.2)},
        pretrain=dict(vit=dict(val_loss=6.3)),
        wall_s=dict(vit=1.0),
    )
    assert summary.rows(found) == [('classification', '224px', 'top-1, %', '83.2', '')]


def test_seeds_give_mean_and_standard_deviation():
    several = summary.over_seeds([one(50.0, 80.0), one(54.0, 83.0), one(58.0, 86.0)])
    assert several['classification'] == dict(scratch=dict(top1=54.0), pretrained=dict(top1=83.0))
    assert several['spread']['classification'] == dict(
        scratch=dict(top1=4.0), pretrained=dict(top1=3.0)
    )
    assert (several['seeds'], several['peak_rss_gib'], several['wall_s']) == (
        3,
        58.0,
        dict(tokenizer=10.0),
    )
    assert summary.rows(several)[1] == (
        'classification',
        'pretrained',
        'top-1, %',
        '83.0 ± 3.0',
        '+29.0',
    )


@pytest.mark.parametrize(
    'summaries', [one(50.0, 80.0), dict(tokenizer={}, pretrain={}, classification={})]
)
def test_text_table_shows_what_there_is(summaries):
    text = summary.text_table(summaries)
    assert ('+30.0' in text and '400 of 512 codes' in text) == ('wall_s' in summaries)
