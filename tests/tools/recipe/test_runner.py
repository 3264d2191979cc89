"""The chain runner: when a stage is skipped, resumed or restarted, and what happens when one fails.

Short scripts take the place of tools/train.py and test.py; test_recipe_tool.py runs real stages.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from recipe import commands, process, records, runner
from recipe.chain import Recipe, Stage
from recipe.plan import RunSettings, plan

pytestmark = pytest.mark.any_stack

TRAIN = """
import sys
from pathlib import Path
arguments = sys.argv[1:]
work = Path(arguments[arguments.index('--work-dir') + 1])
work.mkdir(parents=True, exist_ok=True)
if 'fail=True' in arguments or Path('broken').exists():
    print('RuntimeError: why')
    sys.exit(3)
count = len(list(work.rglob('*.pth'))) + 1
(work / f'iter_{count}.pth').write_text(' '.join(arguments) + str(count))
(work / 'last_checkpoint').write_text(f'/elsewhere/iter_{count}.pth')
(work / 'modules').write_text(str('pytest' in sys.modules))
"""
FIRST = Stage('first', 'ours.py')
SECOND = Stage('task/second', 'other.py', weights={'model.load': 'first'})
THIRD = Stage('task/third', 'other.py', options={'lr': 0.1})
PREPARE = ["bash -c 'echo x >> prepared'"]


@pytest.fixture(autouse=True)
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


@pytest.fixture
def run(capsys):
    """Run stages; return the names of those that ran, and the log."""

    def call(*stages: Stage, prepare=(), work='work', **settings) -> tuple[list[str], str]:
        capsys.readouterr()
        runner.run(recipe(*stages, prepare=prepare), RunSettings(Path(work), **settings))
        log = capsys.readouterr().out
        done = [line for line in log.splitlines() if line[0] == '[' and ': done in' in line]
        return [line.split('] ')[1].partition(':')[0] for line in done], log

    return call


def record(stage: Stage) -> dict | None:
    return records.read_record(Path('work', stage.name))


def arguments_of(stage: Stage, number: int) -> str:
    return Path('work', stage.name, f'iter_{number}.pth').read_text()


@pytest.fixture
def interrupt(run):
    """Leave a stage as if it had died after its first checkpoint."""

    def call(stage: Stage, after=()) -> None:
        run(*after, stage)
        inputs, folder = record(stage)['made_from'], Path('work', stage.name)
        (folder / records.FINISHED).unlink()
        records.write_json(folder / records.BEGUN, dict(made_from=inputs))

    return call


def test_finished_stages_are_skipped_and_a_change_reruns_what_depends_on_it(run):
    assert run(FIRST, SECOND, THIRD)[0] == ['first', 'task/second', 'task/third']
    changed = replace(THIRD, options={'lr': 0.2})
    ran, log = run(FIRST, SECOND, changed)
    assert ran == ['task/third'] and log.count('finished before') == 2
    assert 'task/third: runs again, because its inputs have changed: options\n' in log
    assert 'its earlier files were moved to work/task/third.previous\n' in log
    assert {path.name for path in Path('work').rglob('third*')} == {'third', 'third.previous'}
    Path('ours.py').write_text('more = 1\n' + Path('ours.py').read_text())
    assert run(FIRST, SECOND, changed)[0] == ['first', 'task/second']
    Path('ours.py').write_text('# a comment\n' + Path('ours.py').read_text())
    Path('work').rename('moved')
    assert run(FIRST, SECOND, changed, work='moved')[0] == []


@pytest.mark.parametrize('damaged', ['stage.json', 'iter_1.pth'])
def test_a_stage_without_record_or_checkpoint_is_not_finished(run, damaged):
    run(FIRST)
    path = Path('work/first', damaged)
    if damaged == 'stage.json':
        path.write_text(path.read_text()[:40])
    else:
        path.unlink()
    assert run(FIRST)[0] == ['first']


def test_a_failed_stage_stops_the_chain_and_is_named(run, capsys):
    failing = replace(SECOND, weights={}, options={'fail': True})
    with pytest.raises(process.StageFailed) as failed:
        run(FIRST, failing, THIRD)
    first, where, *tail, _ = str(failed.value).splitlines()
    assert first == '[2 of 3] task/second failed with exit code 3.'
    assert 'log work/task/second/output.log' in where and tail[-1] == '   RuntimeError: why'
    assert record(FIRST) and not record(THIRD)
    with pytest.raises(process.StageFailed):
        run(FIRST, overrides=['fail=True'])
    assert record(FIRST) is None  # no longer finished


def test_with_a_gpu_a_stage_is_a_new_process_and_without_one_a_fork(run, monkeypatch):
    for device, is_fork in dict(cuda='False', cpu='True').items():
        monkeypatch.setattr('mmengine.device.get_device', lambda device=device: device)
        run(FIRST, overrides=[f'x={device}'])
        assert Path('work/first/modules').read_text() == is_fork


def test_a_stage_is_tested_with_its_own_checkpoint_and_options_and_recorded(run):
    run(replace(FIRST, options={'a': 1}, test=True))
    arguments = Path('work/first/test/iter_1.pth').read_text()
    assert 'ours.py work/first/iter_1.pth --work-dir work/first/test --cfg-options a=1' in arguments
    assert record(FIRST)['wall_s'] > 0 and record(FIRST)['peak_rss_gib'] > 0.01
    train = 'tools/train.py ours.py --work-dir work/first --cfg-options a=1'
    assert record(FIRST)['commands'][0].endswith(train)


def test_an_interrupted_stage_resumes_once_and_others_start_from_its_last_checkpoint(
    run, interrupt
):
    interrupt(FIRST)
    log = run(FIRST, SECOND)[1]
    assert 'first: was interrupted, resumes from work/first/iter_1.pth' in log
    assert '--work-dir work/first --resume' in arguments_of(FIRST, 2)
    assert record(FIRST)['resumed'] and not Path('work/first/begun.json').exists()
    assert '--cfg-options model.load=work/first/iter_2' in arguments_of(SECOND, 1)
    assert run(FIRST, SECOND)[0] == []


CHANGES = {
    'options': dict(overrides=['a=1']),
    'config': {},
    'test': {},
    'data': dict(prepare=['true']),
    'gpus': dict(launch=commands.Launch('pytorch', 2)),
}


@pytest.mark.parametrize('what', CHANGES)
def test_an_interrupted_stage_with_other_inputs_restarts(run, interrupt, what):
    interrupt(THIRD)
    if what == 'config':
        Path('other.py').write_text('a = 2')
    Path('tools/dist_train.sh').write_text(f'{sys.executable} tools/train.py "$1" "${{@:3}}"')
    log = run(replace(THIRD, test=what == 'test'), **CHANGES[what])[1]
    assert f'runs again, because its inputs have changed: {what}\n' in log
    assert '--resume' not in arguments_of(THIRD, 1)


def test_an_interrupted_stage_with_other_weights_restarts(run, interrupt):
    interrupt(SECOND, after=[FIRST])
    log = run(FIRST, SECOND, overrides=['a=1'])[1]
    assert 'task/second: runs again, because its inputs have changed: options, weights' in log


def test_a_restarted_stage_never_resumes_from_an_earlier_checkpoint(run):
    run(THIRD)
    Path('broken').touch()
    with pytest.raises(process.StageFailed):  # dies before its first checkpoint
        run(THIRD, overrides=['a=1'])
    Path('broken').unlink()
    run(THIRD, overrides=['a=1'])
    assert '--resume' not in arguments_of(THIRD, 1)


def test_chosen_stages_run_alone_need_finished_sources_and_prepare_once(run):
    message = 'task/second starts from first, which is not finished in work: run first first'
    with pytest.raises(FileNotFoundError, match=message):
        run(FIRST, SECOND, only=('task/second',))
    stages = FIRST, SECOND, THIRD
    chosen = run(*stages, only=('first', 'task/third'), prepare=PREPARE)[0]
    assert chosen == ['first', 'task/third']
    assert run(*stages, only=('task/second',), prepare=PREPARE)[0] == ['task/second']
    assert Path('prepared').read_text() == 'x\n'
    run(FIRST, prepare=PREPARE, only=('prepare',))
    run(FIRST, prepare=PREPARE)
    assert Path('prepared').read_text() == 'x\n' * 3


def planned(*stages: Stage, **settings: object) -> dict[str, str]:
    """Return the training commands of the stages that would run."""
    where = RunSettings(Path('work'), **settings)
    found = plan(recipe(*stages), where)
    return {one.stage.name: commands.shell_line(one.command(where)) for one in found}


def test_a_plan_writes_nothing_and_is_what_then_runs(run, interrupt, place):
    assert 'model.load=work/first/epoch_3.pth' in planned(FIRST, SECOND)['task/second']
    assert 'first/epoch_3.pth' in planned(FIRST, SECOND, only=('task/second',))['task/second']
    interrupt(THIRD, after=[FIRST])
    before = sorted(place.rglob('*'))
    expected = planned(FIRST, SECOND, THIRD)
    assert sorted(place.rglob('*')) == before
    assert 'model.load=work/first/iter_1.pth' in expected['task/second']
    assert 'first/epoch_3.pth' in planned(FIRST, SECOND, overrides=['a=1'])['task/second']
    assert run(FIRST, SECOND, THIRD)[0] == list(expected) == ['task/second', 'task/third']
    assert record(THIRD)['commands'] == [expected['task/third']]
    assert planned(FIRST, SECOND, THIRD) == {}
