"""Every verb of tools/benchmark.py works, on a toy; how fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beit_mm.engine.launch import has_bfloat16

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
KINDS = ['bf16', 'f32'] if has_bfloat16() else ['f32']
CASES = {
    'mask': {'mask': {'mmpretrain'}},
    'data': {'data': {'mmpretrain', 'torchvision'}},
    'step': {
        f'step/{kind}/{tokens}': {'hf', 'mmpretrain', *more}
        for kind in KINDS
        for tokens, more in dict(online=[], cached=['online']).items()
    },
    'memory': {f'step/{KINDS[0]}/memory': {'hf', 'mmpretrain'}},
    'inference': {f'inference/{kind}': {'hf', 'timm', 'mmpretrain'} for kind in KINDS},
    'tokenize': {f'tokenize/{kind}': {'mmpretrain'} for kind in KINDS},
    'segment': {'segment/64x85': {'mmseg'}},
    'growth': {
        **{
            f'growth/{axis}/{what}': set()
            for axis in ('side', 'batch', 'hidden', 'vocab_size')
            for what in ('time', 'memory')
        },
        **{f'growth/files/{what}': set() for what in ('start', 'resume', 'worker')},
        'growth/ranks': set(),
    },
}


@pytest.mark.parametrize(
    'verbs',
    [
        ('mask', 'data', 'tokenize', 'segment'),
        pytest.param(('step', 'memory', 'inference', 'growth'), marks=pytest.mark.long),
    ],
)
def test_each_verb_writes_its_rows(verbs, tmp_path):
    path = tmp_path / 'speed.json'
    command = [sys.executable, ROOT / 'tools/benchmark.py', *verbs, '--quick', '--json', path]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    rows = {row['case']: row for row in json.loads(path.read_text())}
    wanted = {case: peers for verb in verbs for case, peers in CASES[verb].items()}
    assert list(rows) == list(wanted)
    for case, row in rows.items():
        assert {
            'case',
            'unit',
            'ours',
            'peers',
            'ratio',
            'share_of_peak',
            'peak_rss_gib',
            'machine',
        } <= set(row)
        assert set(row['peers']) == set(row['ratio']) == wanted[case]
        assert case in done.stdout and all(value > 0 for value in row['ratio'].values())


def test_a_ratio_is_the_median_of_pairs_and_the_share_is_of_a_product_in_the_same_round():
    from benchmarks import turns

    times = {'ours': [1.0, 2.0, 4.0], 'hf': [2.0, 2.0, 12.0], turns.PEAK: [0.5, 1.0, 2.0]}
    row = turns.row('step', 'images/s', times, 8, flop=turns.product_flop())
    assert (
        row['ours'] == 4
        and row['peers'] == dict(hf=4)
        and row['ratio'] == dict(hf=2)
        and row['spread'] == dict(hf=[1, 3])
    )
    assert row['share_of_peak'] == pytest.approx(0.5)
    assert '2.00× hf (1.00 … 3.00; 4)' in turns.show(row) and '50% of the peak' in turns.show(row)


def test_an_unknown_peer_is_an_error():
    import benchmark

    with pytest.raises(SystemExit):
        benchmark.main(['mask', '--peers', 'nobody'])


def test_who_is_not_installed_is_left_out_and_named(capsys):
    from benchmarks.steps import present
    from benchmarks.turns import Settings

    known = dict(hf=(None, 'no_such_library'), mmpretrain=(None, 'mmpretrain'))
    assert present(Settings(peers=['hf', 'timm', 'mmpretrain']), known) == ['mmpretrain']
    assert 'hf is left out: pip install no_such_library' in capsys.readouterr().out


def test_all_take_their_turns_and_another_begins_each_round():
    from benchmarks.turns import take_turns

    calls = []
    times = take_turns(
        {name: lambda name=name: calls.append(name) for name in 'abc'}, rounds=3, warm_up=1, calls=2
    )
    assert ''.join(calls) == 'bbccaa' + 'ccaabb' + 'aabbcc' + 'bbccaa'
    assert {name: len(found) for name, found in times.items()} == dict(a=3, b=3, c=3)
