"""Each verb of tools/benchmark.py works with a toy model; no test checks a speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import timing

from beit_mm.engine.cpu import has_bfloat16

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
KINDS = ['bf16', 'f32'] if has_bfloat16() else ['f32']
LIBRARIES = {
    'mask': ['mmpretrain'], 'data': ['mmpretrain', 'torchvision'], 'tokenize': ['mmpretrain'],
    'segment': ['mmseg'], 'step': ['hf', 'mmpretrain'], 'inference': ['hf', 'timm', 'mmpretrain'],
}  # fmt: skip
SLOW = pytest.param(('step', 'memory', 'inference'), marks=pytest.mark.long)


@pytest.mark.parametrize('verbs', [('mask', 'data', 'tokenize', 'segment'), SLOW])
def test_each_verb_writes_its_rows(verbs, tmp_path):
    path = tmp_path / 'speed.json'
    command = [sys.executable, ROOT / 'tools/benchmark.py', *verbs, '--quick', '--json', path]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    rows = {row['case']: row for row in json.loads(path.read_text())}
    steps = [f'step/{kind}/{tokens}' for kind in KINDS for tokens in ('online', 'cached')]
    half = [f'{verb}/{kind}' for verb in ('tokenize', 'inference') for kind in KINDS]
    known = ['mask', 'data', 'segment/64x85', *steps, f'step/{KINDS[0]}/memory', *half]
    assert set(rows) == {case for case in known if case.split('/')[0] in verbs}
    for case, row in rows.items():
        expected = LIBRARIES[case.split('/')[0]] + ['online'] * case.endswith('cached')
        assert set(row['libraries']) == set(row['ratio']) == set(expected)
        assert case in done.stdout and all(value > 0 for value in row['ratio'].values())


def test_a_ratio_is_the_median_over_rounds(monkeypatch):
    monkeypatch.setattr(timing, 'matmul_peak', lambda *_: 100e9)
    times = dict(ours=[1.0, 2.0, 4.0], hf=[2.0, 2.0, 12.0])
    row = timing.row(
        timing.BenchmarkSettings([]), 'step', 'images/s', times, 8, gflop=100, dtype=torch.float32
    )
    assert (row['ours'], row['libraries'], row['ratio']) == (4, dict(hf=4), dict(hf=2))
    assert row['spread'] == dict(hf=[1, 3]) and row['share_of_peak'] == 0.5
    assert '2.00× hf (1.00 … 3.00; 4)' in timing.show(row)
    assert '50% of the peak' in timing.show(row)


def test_a_library_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(timing.LIBRARIES, 'hf', 'no_such_library')
    settings = timing.BenchmarkSettings(libraries=['hf', 'timm', 'mmpretrain'])
    assert settings.installed('hf', 'mmpretrain') == ['mmpretrain']
    assert 'hf is skipped: pip install no_such_library' in capsys.readouterr().out


def test_each_round_starts_with_another_turn():
    calls = []
    turns = {name: lambda name=name: calls.append(name) for name in 'abc'}
    times = timing.take_turns(turns, rounds=3, warm_up=1, calls=2)
    assert ''.join(calls) == 'bbccaa' + 'ccaabb' + 'aabbcc' + 'bbccaa'
    assert {name: len(found) for name, found in times.items()} == dict(a=3, b=3, c=3)
