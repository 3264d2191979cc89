"""Results are read from the logs of runs, and averaged over seeds."""

import json
from pathlib import Path

import pytest
from reports import summary

pytestmark = pytest.mark.any_stack


def write_log(folder: Path, *lines: dict) -> None:
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, lines)))


def test_the_last_validation_of_the_latest_run_counts_and_the_test_adds_to_it(tmp_path):
    write_log(tmp_path / '20260101', {'mim/val_loss': 9.0, 'step': 0})
    lines = []
    for step in (50, 100):
        lines.append({'lr': 0.1, 'loss': 6.0, 'step': step})
        lines.append({'mim/val_loss': 250 / step, 'time': 1.0, 'data_time': 0.1, 'step': 0})
    write_log(tmp_path / '20260102', *lines)
    (tmp_path / 'test/1').mkdir(parents=True)
    (tmp_path / 'test/1/1.json').write_text('{"mim/log_p_tokens": -7.5, "time": 2.0}')
    assert summary.metrics(tmp_path) == {'val_loss': 2.5, 'log_p_tokens': -7.5}
    assert summary.validations(summary.scalars(tmp_path), 'val_loss') == [(50, 5.0), (100, 2.5)]


def test_the_logs_of_an_interrupted_stage_are_read_as_one(tmp_path):
    for folder, steps in (('0', (1, 2)), ('1', (1, 2, 3, 4)), ('2', (3, 4, 5))):
        lines = [dict(lr=0.1, step=step, loss=int(folder)) for step in steps]
        write_log(tmp_path / folder, *lines)
    (tmp_path / 'last_checkpoint').write_text('a.pth')
    (tmp_path / 'a.pth').touch()
    assert [line['step'] for line in summary.scalars(tmp_path)] == [3, 4, 5]
    (tmp_path / 'stage.json').write_text(json.dumps(dict(logs=['1', '2'])))
    merged = [(line['step'], line['loss']) for line in summary.scalars(tmp_path)]
    assert merged == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


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
