"""The chain runner: when a stage is finished, goes on or begins again, and what happens when one fails.

The stages are two-line scripts in the place of tools/train.py and test.py; test_recipe_tool.py has real ones.
"""

import json
import os
from pathlib import Path

import pytest
from recipe import chain as reading
from recipe import process, runner
from recipe.chain import Recipe, Stage
from reports import summary

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[3]
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


FIRST, SECOND = (
    Stage('first', 'ours.py'),
    Stage('task/second', 'other.py', weights={'model.load': 'first'}),
)
THIRD = Stage('task/third', 'other.py', options={'lr': 0.1})


def chain(*stages: Stage, prepare=()) -> Recipe:
    return Recipe('work', list(stages), list(prepare), None, '', '')


def to(work='work', overrides=(), **more: object) -> runner.Settings:
    return runner.Settings(Path(work), Path('tools'), list(overrides), **more)


def run(*stages: Stage, prepare=(), **more: object) -> None:
    runner.run(chain(*stages, prepare=prepare), to(**more))


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


def test_says_what_changed_and_keeps_the_checkpoints_of_before_apart(place, capsys):
    run(THIRD)
    run(THIRD, overrides=['lr=0.3'])
    said = capsys.readouterr().out
    assert 'task/third: runs again, since what it was made from has changed: options\n' in said
    assert 'task/third: its earlier checkpoints were moved to work/task/third/previous\n' in said
    assert [str(path) for path in sorted(Path('work').rglob('*.pth'))] == [
        'work/task/third/iter_2.pth',
        'work/task/third/previous/iter_1.pth',
    ]


def test_new_data_runs_everything_again(place, capsys):
    run(FIRST, prepare=['true'])
    run(FIRST, prepare=['true 2'])
    assert ran(capsys) == ['first', 'first']


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
    with pytest.raises(
        process.StageFailed, match=r'\[2 of 3\] task/second failed with exit code 3'
    ) as failure:
        run(FIRST, failing, THIRD)
    assert 'its log: work/task/second/1/1.log' in str(failure.value)
    assert ran(capsys) == ['first'] and reading.read_record(Path('work/first'))


def test_a_stage_that_fails_when_it_runs_again_is_no_longer_finished(place):
    run(THIRD)
    with pytest.raises(process.StageFailed):
        run(THIRD, overrides=['fail=True'])
    assert reading.read_record(Path('work/task/third')) is None


def test_on_a_machine_with_a_gpu_a_stage_is_a_process_of_its_own(place, monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    Path('tools/train.py').write_text(
        TRAIN + "(work / 'modules').write_text(str('pytest' in sys.modules))"
    )
    run(FIRST)
    assert Path('work/first/modules').read_text() == 'False'  # a fork of this process has it
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    run(FIRST, overrides=['x=1'])
    assert Path('work/first/modules').read_text() == 'True'


# -- what a stage is given -------------------------------------------------------------------------------------------


def test_a_stage_reads_the_last_checkpoint_of_the_one_it_names(place):
    run(FIRST)
    run(FIRST, SECOND, overrides=['x=1'])  # the first stage runs again, and writes a second file
    written = Path('work/task/second/iter_1.pth').read_text()
    assert (
        'other.py --work-dir work/task/second --cfg-options x=1 model.load=work/first/iter_2.pth'
        in written
    )


def test_a_tested_stage_is_tested_with_its_own_checkpoint_and_options(place):
    run(Stage('first', 'ours.py', options={'a': 1}, test=True))
    arguments = Path('work/first/test/iter_1.pth').read_text()
    assert 'ours.py work/first/iter_1.pth --work-dir work/first/test --cfg-options a=1' in arguments


def test_time_and_memory_are_recorded(place, monkeypatch):
    """The stage ends when its memory was looked at, however seldom this machine comes to that."""
    wait = "import time; block = b'x' * (300 << 20); open('grown', 'w')\nwhile not os.path.exists('seen'): time.sleep(0.1)"
    Path('tools/train.py').write_text(f'{TRAIN}import os\n{wait}')
    measure = process.tree_rss
    before = measure(os.getpid())

    def look(pid: int) -> int:
        grown = Path('grown').exists()
        found = measure(pid)
        if grown:
            Path('seen').touch()
        return found

    monkeypatch.setattr(process, 'tree_rss', look)
    run(FIRST)
    record = reading.read_record(Path('work/first'))
    assert record['wall_s'] > 0 and record['peak_rss_gib'] > (before + (300 << 20)) / 2**30
    assert record['commands'] == ['python tools/train.py ours.py --work-dir work/first']


# -- what was broken off ---------------------------------------------------------------------------------------------


def break_off(stage: Stage, **more: object) -> None:
    """The stage dies after its first checkpoint."""
    run(stage, **more)
    folder = Path('work', stage.name)
    record = reading.read_record(folder)
    (folder / reading.RECORD).unlink()
    reading.write_json(folder / reading.BEGUN, dict(made_from=record['made_from'], before=[]))


def arguments(stage: Stage, number: int) -> str:
    return Path('work', stage.name, f'iter_{number}.pth').read_text()


def test_a_stage_that_was_broken_off_goes_on_and_only_once(place, capsys):
    break_off(THIRD)
    run(THIRD)
    assert (
        'task/third: was broken off, goes on from work/task/third/iter_1.pth'
        in capsys.readouterr().out
    )
    assert '--work-dir work/task/third --resume --cfg-options lr=0.1' in arguments(THIRD, 2)
    assert reading.read_record(Path('work/task/third'))['resumed']
    run(THIRD)
    assert ran(capsys) == [] and not Path('work/task/third/begun.json').exists()


@pytest.mark.parametrize(
    'what, change',
    [
        ('options', lambda: run(THIRD, overrides=['a=1'])),
        (
            'config',
            lambda: (
                Path('other.py').write_text('a = 1\n' + Path('other.py').read_text()),
                run(THIRD),
            ),
        ),
        ('test', lambda: run(Stage('task/third', 'other.py', options={'lr': 0.1}, test=True))),
    ],
)
def test_a_stage_that_was_begun_from_something_else_begins_again_and_says_so(
    place, capsys, what, change
):
    break_off(THIRD)
    change()
    assert (
        f'begins again, since what it was begun from has changed: {what}\n'
        in capsys.readouterr().out
    )
    assert '--resume' not in arguments(THIRD, 2)


def test_other_weights_than_it_was_begun_from_are_not_resumed(place, capsys):
    run(FIRST)
    break_off(SECOND)
    run(FIRST, SECOND, overrides=['x=1'])
    assert (
        'task/second: begins again, since what it was begun from has changed: options, weights'
        in capsys.readouterr().out
    )


def test_a_stage_that_begins_again_never_resumes_from_what_was_there_before(place):
    run(THIRD)
    Path('broken').touch()
    with pytest.raises(process.StageFailed):  # it is begun, and dies before its first checkpoint
        run(THIRD, overrides=['a=1'])
    Path('broken').unlink()
    run(THIRD, overrides=['a=1'])
    assert '--resume' not in arguments(THIRD, 2)


def test_a_log_in_two_pieces_is_read_as_one(tmp_path):
    for folder, steps in (('0', (1, 2)), ('1', (1, 2, 3, 4)), ('2', (3, 4, 5))):
        (tmp_path / folder / 'vis_data').mkdir(parents=True)
        lines = [json.dumps(dict(lr=0.1, step=step, loss=int(folder))) for step in steps]
        (tmp_path / folder / 'vis_data/scalars.json').write_text('\n'.join(lines))
    (tmp_path / 'last_checkpoint').write_text('a.pth')
    (tmp_path / 'a.pth').touch()
    assert [line['step'] for line in summary.scalars(tmp_path)] == [3, 4, 5]
    reading.write_json(tmp_path / reading.RECORD, dict(logs=['1', '2']))
    assert [(line['step'], line['loss']) for line in summary.scalars(tmp_path)] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
    ]


# -- a part of the chain ---------------------------------------------------------------------------------------------


def test_only_the_stages_that_are_asked_for_run(place, capsys):
    run(FIRST, SECOND, THIRD, only=('first', 'task/third'))
    assert ran(capsys) == ['first', 'task/third']
    run(FIRST, SECOND, THIRD, only=('task/second',))
    assert ran(capsys) == ['task/second']


def test_a_stage_does_not_start_from_one_that_is_not_finished(place):
    break_off(FIRST)
    with pytest.raises(
        FileNotFoundError,
        match='task/second starts from first, which is not finished in work: run it',
    ):
        run(FIRST, SECOND, only=('task/second',))


# -- without running -------------------------------------------------------------------------------------------------


def planned(*stages: Stage, **more: object) -> dict[str, runner.Planned]:
    return {stage.name: stage for stage in runner.plan(chain(*stages), to(**more))}


def test_a_plan_names_checkpoints_as_they_are_and_as_they_will_be(place):
    loop = '\ntrain_cfg = dict(max_epochs=3)'
    Path('ours.py').write_text(Path('ours.py').read_text() + loop)
    assert 'model.load=work/first/epoch_3.pth' in planned(FIRST, SECOND)['task/second'].commands[0]
    run(FIRST)
    plan = planned(FIRST, SECOND)
    assert list(plan) == ['task/second'] and plan['task/second'].after == []
    assert 'model.load=work/first/iter_1.pth' in plan['task/second'].commands[0]
    assert planned(FIRST, SECOND, overrides=['a=1'])['task/second'].after == ['first']


def test_a_plan_runs_and_writes_nothing_and_is_what_then_runs(place, capsys):
    break_off(THIRD)
    before = sorted(place.rglob('*'))
    plan = planned(FIRST, SECOND, THIRD)
    assert sorted(place.rglob('*')) == before
    run(FIRST, SECOND, THIRD)
    assert reading.read_record(Path('work/task/third'))['commands'] == [
        runner.readable(command) for command in plan['task/third'].commands
    ]
    assert planned(FIRST, SECOND, THIRD) == {}
