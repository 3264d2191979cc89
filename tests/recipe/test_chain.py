"""The chain runner: what makes a chain, when a stage is finished, and what happens when one fails.

The stages here are two-line scripts in the place of tools/train.py and test.py; test_end_to_end.py runs the real ones.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction

from beit_mm.recipe import chain as recipe
from beit_mm.recipe import process
from beit_mm.recipe.chain import Recipe, Stage

ROOT = Path(__file__).parents[2]
TRAIN = """
import sys
from pathlib import Path
arguments = sys.argv[1:]
work = Path(arguments[arguments.index('--work-dir') + 1])
(work / '1').mkdir(parents=True, exist_ok=True)
(work / '1' / '1.log').write_text('why')
if 'fail=True' in arguments:
    sys.exit(3)
count = len(list(work.glob('*.pth'))) + 1
(work / f'iter_{count}.pth').write_text(' '.join(arguments) + str(count))
(work / 'last_checkpoint').write_text(f'/elsewhere/iter_{count}.pth')
"""
CONFIG = 'train_dataloader = dict(sampler=dict(type={!r}), dataset=dict(type={!r}))'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty project: two configs, tools that train in no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, '_preload', lambda: None)
    Path('ours.py').write_text(CONFIG.format('beit_mm.KeyedSampler', 'beit_mm.SeededDataset'))
    Path('other.py').write_text(CONFIG.format('DefaultSampler', 'CustomDataset'))
    Path('tools').mkdir()
    for name in ('train.py', 'test.py'):
        Path('tools', name).write_text(TRAIN)
    return tmp_path


FIRST, SECOND = Stage('first', 'ours.py'), Stage('task/second', 'other.py', weights={'model.load': 'first'})
THIRD = Stage('task/third', 'other.py', options={'lr': 0.1})


def chain(*stages: Stage, prepare=()) -> Recipe:
    return Recipe('work', list(stages), list(prepare), None, '', '')


def run(*stages: Stage, work='work', overrides=(), **kwargs) -> None:
    recipe.run(chain(*stages), Path(work), Path('tools'), list(overrides), **kwargs)


def ran(capsys) -> list[str]:
    """The stages that ran since the last call."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split('] ')[1].partition(':')[0] for line in lines if ': done in' in line]


# -- when a stage runs -----------------------------------------------------------------------------------------------


def test_finished_stages_are_skipped_and_a_change_runs_what_depends_on_it(place, capsys):
    run(FIRST, SECOND, THIRD)
    assert ran(capsys) == ['first', 'task/second', 'task/third']
    run(FIRST, SECOND, THIRD)
    assert ran(capsys) == []
    run(FIRST, SECOND, Stage('task/third', 'other.py', options={'lr': 0.2}))
    assert ran(capsys) == ['task/third']
    Path('ours.py').write_text('more = 1\n' + Path('ours.py').read_text())
    run(FIRST, SECOND, Stage('task/third', 'other.py', options={'lr': 0.2}))
    assert ran(capsys) == ['first', 'task/second']


def test_what_changes_no_result_runs_nothing_again(place, capsys):
    run(FIRST, SECOND)
    Path('ours.py').write_text('# a word\n' + Path('ours.py').read_text())
    Path('work').rename('moved')
    ran(capsys)
    run(FIRST, SECOND, work='moved')
    assert ran(capsys) == []


def test_says_what_changed(place, capsys):
    run(THIRD)
    run(THIRD, overrides=['lr=0.3'])
    assert 'task/third: runs again, since what it was made from has changed: options\n' in capsys.readouterr().out


def test_new_data_runs_everything_again(place, capsys):
    recipe.run(chain(FIRST, prepare=['true']), Path('work'), Path('tools'), [])
    recipe.run(chain(FIRST, prepare=['true 2']), Path('work'), Path('tools'), [])
    assert ran(capsys) == ['first', 'first']


def test_on_a_machine_with_a_gpu_a_stage_is_a_process_of_its_own(place, monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    Path('tools/train.py').write_text(TRAIN + "(work / 'modules').write_text(str('pytest' in sys.modules))")
    run(FIRST)
    assert Path('work/first/modules').read_text() == 'False'  # a fork of this process has it
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    run(FIRST, overrides=['x=1'])
    assert Path('work/first/modules').read_text() == 'True'


@pytest.mark.parametrize('damage', ['no record', 'half a record', 'no checkpoint'])
def test_a_broken_off_stage_is_not_finished(place, capsys, damage):
    run(FIRST)
    if damage == 'no checkpoint':
        Path('work/first/iter_1.pth').unlink()
    else:
        record = Path('work/first/stage.json')
        text = record.read_text()
        record.unlink()
        if damage == 'half a record':
            record.write_text(text[:40])
    ran(capsys)
    run(FIRST)
    assert ran(capsys) == ['first']


def test_a_failed_stage_stops_the_chain_and_is_named(place, capsys):
    run(FIRST)
    failing = Stage('task/second', 'other.py', options={'fail': True})
    with pytest.raises(process.StageFailed, match=r'\[2 of 3\] task/second failed with exit code 3') as failure:
        run(FIRST, failing, THIRD)
    assert 'its log: work/task/second/1/1.log' in str(failure.value)
    assert ran(capsys) == ['first'] and recipe.read_record(Path('work/first'))


def test_a_stage_that_fails_when_it_runs_again_is_no_longer_finished(place):
    run(THIRD)
    with pytest.raises(process.StageFailed):
        run(THIRD, overrides=['fail=True'])
    assert recipe.read_record(Path('work/task/third')) is None


# -- what a stage is given -------------------------------------------------------------------------------------------


def test_a_stage_reads_the_last_checkpoint_of_the_one_it_names(place):
    run(FIRST)
    run(FIRST, SECOND, overrides=['x=1'])  # the first stage runs again, and writes a second file
    written = Path('work/task/second/iter_1.pth').read_text()
    assert 'other.py --work-dir work/task/second --cfg-options x=1 model.load=work/first/iter_2.pth' in written


def test_a_tested_stage_is_tested_with_its_own_checkpoint_and_options(place):
    run(Stage('first', 'ours.py', options={'a': 1}, test=True))
    arguments = Path('work/first/test/iter_1.pth').read_text()
    assert 'ours.py work/first/iter_1.pth --work-dir work/first/test --cfg-options a=1' in arguments


def test_a_seed_reaches_weights_order_and_draws_and_only_configs_that_have_them(place):
    assert recipe.settings(FIRST, 7, ['a=1']) == [
        'randomness.seed=7', 'train_dataloader.sampler.seed=7', 'train_dataloader.dataset.seed=7', 'a=1',
    ]  # fmt: skip
    assert recipe.settings(THIRD, 7, []) == ['lr=0.1', 'randomness.seed=7']
    assert recipe.settings(THIRD, None, []) == ['lr=0.1']


@pytest.mark.parametrize('value', [3, 2e-5, True, None, 'poly', [1, 2.5], (0.9, 0.98), [(1, 2), (3, 4)]])
def test_options_arrive_as_they_were_written(value, place):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    written = recipe.settings(Stage('a', 'ours.py', options={'key': value}), None, [])
    assert parser.parse_args(['--cfg-options', *written]).cfg_options == {'key': value}


def test_time_and_memory_are_recorded(place):
    Path('tools/train.py').write_text(TRAIN + "import time; block = b'x' * (300 << 20); time.sleep(1.2)")
    run(FIRST)
    record = recipe.read_record(Path('work/first'))
    assert 1.2 < record['wall_s'] < 30 and record['peak_rss_gib'] > 300 / 1024
    assert record['commands'] == ['python tools/train.py ours.py --work-dir work/first']


def test_memory_counts_grandchildren():
    grow = "b = b'x' * (200 << 20); print(1, flush=True); input()"
    nested = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {grow!r}])'
    before = process.tree_rss(os.getpid())
    with subprocess.Popen([sys.executable, '-c', nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert process.tree_rss(os.getpid()) - before > 200 << 20
        child.communicate(b'\n')


# -- what makes no chain ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'stages, message',
    [
        ([], 'has no stages'),
        ([dict(name='a', config='ours.py', weihgts={})], r"unknown key 'weihgts': did you mean 'weights'"),
        ([dict(config='ours.py')], 'a stage has no name'),
        ([dict(name='a', config='ours.py'), dict(name='a', config='ours.py')], "two stages are named 'a'"),
        ([dict(name='a', config='ours.py', weights={'x': 'b'})], "'b', which is no earlier stage; earlier are: none"),
        ([dict(name='a', config='none.py')], "stage 'a' has no config none.py"),
        (
            [dict(name='a', config='ours.py', long=True), dict(name='b', config='ours.py', weights={'x': 'a'})],
            'no earlier stage',  # without --long
        ),
    ],
)
def test_what_makes_no_chain_is_refused(place, stages, message):
    Path('recipe.json').write_text(json.dumps(dict(stages=stages)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.read_recipe('recipe.json')


def test_a_missing_recipe_is_named():
    with pytest.raises(FileNotFoundError, match='no recipe at nowhere.py'):
        recipe.read_recipe('nowhere.py')


def test_long_stages_run_when_asked_for(place):
    Path('recipe.py').write_text(
        "stages = [dict(name='a', config='ours.py'), dict(name='b', config='ours.py', long=True)]"
    )
    assert [stage.name for stage in recipe.read_recipe('recipe.py').stages] == ['a']
    assert [stage.name for stage in recipe.read_recipe('recipe.py', long=True).stages] == ['a', 'b']


# -- the quickstart's ------------------------------------------------------------------------------------------------


def test_schedules_of_the_quickstart_end_where_its_stages_end(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = recipe.read_recipe('configs/quickstart/recipe.py', long=True).stages
    for stage in stages:
        cfg = Config.fromfile(stage.config)
        cfg.merge_from_dict({**stage.options, **{key: 'x.pth' for key in stage.weights}})
        last = cfg.train_cfg.max_iters
        assert cfg.param_scheduler[-1]['end'] == last and last % cfg.train_cfg.val_interval == 0, stage.name
        assert cfg.default_hooks.checkpoint.interval == last, stage.name
        for hook in cfg.get('custom_hooks', []):
            assert hook.get('iters', 0) <= last, stage.name
    assert {stage.name.partition('/')[0] for stage in stages if stage.long} == {
        'classification-long',
        'segmentation-long',
    }
