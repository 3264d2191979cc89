"""The chain runner: when a stage is skipped, resumed or restarted, and what happens when one fails.

Short scripts take the place of tools/train.py and test.py; test_recipe_tool.py runs real stages.
"""

import json
from pathlib import Path

import pytest
from recipe import commands, process, records, runner
from recipe.chain import Recipe, Stage
from recipe.plan import Settings, plan
from reports import summary

pytestmark = pytest.mark.any_stack

TRAIN = """
import sys
from pathlib import Path
arguments = sys.argv[1:]
work = Path(arguments[arguments.index('--work-dir') + 1])
(work / '1').mkdir(parents=True, exist_ok=True)
(work / '1' / '1.log').write_text('why')
if 'fail=True' in arguments or Path('broken').exists():
    sys.exit(3)
count = len(list(work.rglob('*.pth'))) + 1
(work / f'iter_{count}.pth').write_text(' '.join(arguments) + str(count))
(work / 'last_checkpoint').write_text(f'/elsewhere/iter_{count}.pth')
"""
FIRST = Stage('first', 'ours.py')
SECOND = Stage('task/second', 'other.py', weights={'model.load': 'first'})
THIRD = Stage('task/third', 'other.py', options={'lr': 0.1})


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty project: two configs, and tools that train in no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, '_import_hosts', lambda: None)
    monkeypatch.setattr(commands, 'TOOLS', Path('tools'))
    Path('ours.py').write_text('train_cfg = dict(max_epochs=3)')
    Path('other.py').write_text('a = 1')
    Path('tools').mkdir()
    for name in ('train.py', 'test.py'):
        Path('tools', name).write_text(TRAIN)
    return tmp_path


def recipe(*stages: Stage, prepare=()) -> Recipe:
    return Recipe('work', list(stages), list(prepare), None, '', '')


def run(*stages: Stage, prepare=(), work='work', **settings: object) -> None:
    runner.run(recipe(*stages, prepare=prepare), Settings(Path(work), **settings))


def ran(capsys) -> list[str]:
    """Return the names of the stages that ran since the last call."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split('] ')[1].partition(':')[0] for line in lines if ': done in' in line]


def test_finished_stages_are_skipped_and_a_change_reruns_what_depends_on_it(place, capsys):
    run(FIRST, SECOND, THIRD)
    assert ran(capsys) == ['first', 'task/second', 'task/third']
    run(FIRST, SECOND, THIRD)
    assert ran(capsys) == []
    changed = Stage('task/third', 'other.py', options={'lr': 0.2})
    run(FIRST, SECOND, changed)
    assert ran(capsys) == ['task/third']
    Path('ours.py').write_text('more = 1\n' + Path('ours.py').read_text())
    run(FIRST, SECOND, changed)
    assert ran(capsys) == ['first', 'task/second']


def test_comments_in_configs_and_a_moved_work_dir_rerun_nothing(place, capsys):
    run(FIRST, SECOND)
    Path('ours.py').write_text('# a comment\n' + Path('ours.py').read_text())
    Path('work').rename('moved')
    ran(capsys)
    run(FIRST, SECOND, work='moved')
    assert ran(capsys) == []


def test_a_restart_names_what_changed_and_keeps_the_earlier_checkpoints(place, capsys):
    run(THIRD)
    run(THIRD, overrides=['lr=0.3'])
    log = capsys.readouterr().out
    assert 'task/third: runs again, because its inputs have changed: options\n' in log
    assert 'its earlier files were moved to work/task/third.previous\n' in log
    assert {str(path) for path in Path('work').rglob('*.pth')} == {
        'work/task/third/iter_1.pth',
        'work/task/third.previous/iter_1.pth',
    }


@pytest.mark.parametrize('change', [dict(data=['true 2']), dict(gpus=2)])
def test_other_data_and_more_processes_make_another_result(place, change):
    run(FIRST, prepare=['true'])
    inputs = records.read_record(Path('work/first'))['made_from']
    assert records.stage_status(Path('work/first'), inputs)[0] == 'finished'
    assert records.stage_status(Path('work/first'), inputs | change)[0] == 'new'


@pytest.mark.parametrize('damage', ['no record', 'half a record', 'no checkpoint'])
def test_a_damaged_stage_is_not_finished(place, capsys, damage):
    run(FIRST)
    record = Path('work/first/stage.json')
    if damage == 'no checkpoint':
        Path('work/first/iter_1.pth').unlink()
    elif damage == 'half a record':
        record.write_text(record.read_text()[:40])
    else:
        record.unlink()
    ran(capsys)
    run(FIRST)
    assert ran(capsys) == ['first']


def test_a_failed_stage_stops_the_chain_and_is_named(place, capsys):
    failing = Stage('task/second', 'other.py', options={'fail': True})
    message = r'\[2 of 3\] task/second failed with exit code 3; log: work/task/second/1/1.log'
    with pytest.raises(process.StageFailed, match=message):
        run(FIRST, failing, THIRD)
    assert ran(capsys) == ['first'] and records.read_record(Path('work/first'))
    with pytest.raises(process.StageFailed):
        run(FIRST, overrides=['fail=True'])
    assert records.read_record(Path('work/first')) is None  # no longer finished


def test_with_a_gpu_a_stage_is_a_new_process_and_without_one_a_fork(place, monkeypatch):
    script = TRAIN + "(work / 'modules').write_text(str('pytest' in sys.modules))"
    Path('tools/train.py').write_text(script)
    for device, is_fork in dict(cuda='False', cpu='True').items():
        monkeypatch.setattr('mmengine.device.get_device', lambda device=device: device)
        run(FIRST, overrides=[f'x={device}'])
        assert Path('work/first/modules').read_text() == is_fork


def test_a_stage_is_tested_with_its_own_checkpoint_and_options_and_recorded(place):
    run(Stage('first', 'ours.py', options={'a': 1}, test=True))
    arguments = Path('work/first/test/iter_1.pth').read_text()
    assert 'ours.py work/first/iter_1.pth --work-dir work/first/test --cfg-options a=1' in arguments
    record = records.read_record(Path('work/first'))
    assert record['wall_s'] > 0 and record['peak_rss_gib'] > 0.01
    assert record['commands'][0].endswith(
        'tools/train.py ours.py --work-dir work/first --cfg-options a=1'
    )


def interrupt(stage: Stage, after=()) -> None:
    """Leave the stage as if it had died after its first checkpoint."""
    run(*after, stage)
    folder = Path('work', stage.name)
    inputs = records.read_record(folder)['made_from']
    (folder / records.FINISHED).unlink()
    records.write_json(folder / records.BEGUN, dict(made_from=inputs))


def arguments_of(stage: Stage, number: int) -> str:
    return Path('work', stage.name, f'iter_{number}.pth').read_text()


def test_an_interrupted_stage_resumes_once(place, capsys):
    interrupt(THIRD)
    run(THIRD)
    log = capsys.readouterr().out
    assert 'task/third: was interrupted, resumes from work/task/third/iter_1.pth' in log
    assert '--work-dir work/task/third --resume --cfg-options lr=0.1' in arguments_of(THIRD, 2)
    assert records.read_record(Path('work/task/third'))['resumed']
    run(THIRD)
    assert ran(capsys) == [] and not Path('work/task/third/begun.json').exists()


def test_a_stage_starts_from_the_last_checkpoint_of_the_stage_it_names(place):
    interrupt(FIRST)
    run(FIRST, SECOND)  # the first stage resumes, and writes a second file
    given = arguments_of(SECOND, 1)
    assert (
        'other.py --work-dir work/task/second --cfg-options model.load=work/first/iter_2' in given
    )


@pytest.mark.parametrize('what', ['options', 'config', 'test'])
def test_an_interrupted_stage_with_other_inputs_restarts(place, capsys, what):
    interrupt(THIRD)
    stage = THIRD
    if what == 'config':
        Path('other.py').write_text('a = 2')
    elif what == 'test':
        stage = Stage('task/third', 'other.py', options={'lr': 0.1}, test=True)
    run(stage, overrides=['a=1'] if what == 'options' else [])
    assert f'because its inputs have changed: {what}\n' in capsys.readouterr().out
    assert '--resume' not in arguments_of(THIRD, 1)


def test_an_interrupted_stage_with_other_weights_restarts(place, capsys):
    interrupt(SECOND, after=[FIRST])
    run(FIRST, SECOND, overrides=['x=1'])
    assert 'its inputs have changed: options, weights' in capsys.readouterr().out


def test_a_restarted_stage_never_resumes_from_an_earlier_checkpoint(place):
    run(THIRD)
    Path('broken').touch()
    with pytest.raises(process.StageFailed):  # dies before its first checkpoint
        run(THIRD, overrides=['a=1'])
    Path('broken').unlink()
    run(THIRD, overrides=['a=1'])
    assert '--resume' not in arguments_of(THIRD, 1)


def test_the_logs_of_an_interrupted_stage_are_read_as_one(tmp_path):
    for folder, steps in (('0', (1, 2)), ('1', (1, 2, 3, 4)), ('2', (3, 4, 5))):
        (tmp_path / folder / 'vis_data').mkdir(parents=True)
        lines = [json.dumps(dict(lr=0.1, step=step, loss=int(folder))) for step in steps]
        (tmp_path / folder / 'vis_data/scalars.json').write_text('\n'.join(lines))
    (tmp_path / 'last_checkpoint').write_text('a.pth')
    (tmp_path / 'a.pth').touch()
    assert [line['step'] for line in summary.scalars(tmp_path)] == [3, 4, 5]
    records.write_json(tmp_path / records.FINISHED, dict(logs=['1', '2']))
    merged = [(line['step'], line['loss']) for line in summary.scalars(tmp_path)]
    assert merged == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_chosen_stages_run_alone_and_need_finished_sources(place, capsys):
    message = 'task/second starts from first, which is not finished in work: run first first'
    with pytest.raises(FileNotFoundError, match=message):
        run(FIRST, SECOND, only=('task/second',))
    run(FIRST, SECOND, THIRD, only=('first', 'task/third'))
    assert ran(capsys) == ['first', 'task/third']
    run(FIRST, SECOND, THIRD, only=('task/second',))
    assert ran(capsys) == ['task/second']


def test_a_chosen_stage_prepares_only_what_was_never_prepared(place):
    prepare = ["bash -c 'echo x >> prepared'"]
    run(FIRST, prepare=prepare, only=('first',))
    run(FIRST, THIRD, prepare=prepare, only=('task/third',))
    assert Path('prepared').read_text() == 'x\n'
    run(FIRST, prepare=prepare, only=('prepare',))
    run(FIRST, prepare=prepare)
    assert Path('prepared').read_text() == 'x\n' * 3


def planned(*stages: Stage, **settings: object) -> dict[str, str]:
    """Return the training commands of the stages that would run."""
    where = Settings(Path('work'), **settings)
    found = plan(recipe(*stages), where)
    return {one.stage.name: commands.shell_line(one.command(where)) for one in found}


def test_a_plan_names_checkpoints_by_their_present_or_future_paths(place):
    assert 'model.load=work/first/epoch_3.pth' in planned(FIRST, SECOND)['task/second']
    assert 'first/epoch_3.pth' in planned(FIRST, SECOND, only=('task/second',))['task/second']
    run(FIRST)
    assert planned(FIRST, SECOND).keys() == {'task/second'}
    assert 'model.load=work/first/iter_1.pth' in planned(FIRST, SECOND)['task/second']
    assert 'first/epoch_3.pth' in planned(FIRST, SECOND, overrides=['a=1'])['task/second']


def test_a_plan_writes_nothing_and_is_what_then_runs(place):
    interrupt(THIRD)
    before = sorted(place.rglob('*'))
    expected = planned(FIRST, SECOND, THIRD)
    assert sorted(place.rglob('*')) == before
    run(FIRST, SECOND, THIRD)
    record = records.read_record(Path('work/task/third'))
    assert record['commands'] == [expected['task/third']]
    assert planned(FIRST, SECOND, THIRD) == {}
