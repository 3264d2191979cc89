"""`tools/recipe.py run`: printed commands, submitted jobs, and a real stage with two processes."""

import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from recipe import chain, process, records, runner
from recipe.chain import Recipe, Stage
from recipe.commands import Launch
from recipe.plan import PlannedStage, RunSettings, shell_script
from reports import summary
from shapes import draw as shapes
from small import ROOT

pytestmark = pytest.mark.any_stack
PAPER = 'configs/paper/recipe.py'


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def tool(*words: str) -> None:
    runpy.run_path(str(ROOT / 'tools/recipe.py'))['main'](['run', *words])


def test_each_launcher_gets_config_folder_and_options():
    def command(launch: Launch, checkpoint: str | None = None) -> str:
        planned = PlannedStage('', Stage('name', 'a.py'), 'interrupted', '', {}, ['x=1'])
        return shlex.join(planned.command(RunSettings(Path('w'), launch=launch), checkpoint))

    torchrun, slurm = Launch('pytorch', 4), Launch('slurm', 16, 'gpu')
    env = 'env GPUS=16 GPUS_PER_NODE=8 bash tools'
    end = '--resume --cfg-options x=1'
    assert command(torchrun) == f'bash tools/dist_train.sh a.py 4 --work-dir w/name {end}'
    assert command(slurm) == f'{env}/slurm_train.sh gpu name a.py w/name {end}'
    end = '--work-dir w/name/test --cfg-options x=1'
    assert command(torchrun, 'c.pth') == f'bash tools/dist_test.sh a.py c.pth 4 {end}'
    assert command(slurm, 'c.pth') == f'{env}/slurm_test.sh gpu name a.py c.pth {end}'


def test_the_papers_chain_is_printed_for_eight_gpus(capsys):
    tool(PAPER, *['--launcher', 'pytorch', '--gpus', '8', '--dry-run', '--work-dir', 'w'])
    first, *lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if line and not line.startswith('#')]
    trained = [line for line in lines if line.startswith('bash tools/dist_train.sh configs/')]
    assert (first, len(trained), len(lines)) == ('set -e', 8, 10)  # two are tested
    (pretrain,) = [line for line in trained if '--work-dir w/pretrain/vit ' in line]
    assert 'checkpoint=w/tokenizer/iter_3000000.pth' in pretrain


@pytest.fixture
def submit(tmp_path):
    """Run a script with an sbatch that records and numbers the jobs, but refuses one named `no`."""
    record = f'echo "$*" >> {tmp_path}/jobs\nwc -l < {tmp_path}/jobs\n'
    (tmp_path / 'sbatch').write_text(f'#!/bin/sh\n{record}[ "${{*#*job-name=no}}" = "$*" ]')
    (tmp_path / 'sbatch').chmod(0o755)
    environment = os.environ | dict(PATH=f'{tmp_path}:{os.environ["PATH"]}')

    def run(script: str) -> dict[str, tuple[str, list[str]]]:
        """Return for each stage its job and the names of the stages that the job waits for."""
        subprocess.run(['bash', '-c', script], env=environment, check=True)
        jobs = (tmp_path / 'jobs').read_text().splitlines()
        names = [re.search(r'--stage ([^\s;]+)', job)[1] for job in jobs]
        waits = [''.join(re.findall(r'afterok:([\d:]+)', job)).split(':') for job in jobs]
        after = [[names[int(job) - 1] for job in found if job] for found in waits]
        return dict(zip(names, zip(jobs, after, strict=True), strict=True))

    return run


def test_the_papers_jobs_wait_for_the_jobs_they_start_from(capsys, submit):
    options = '--launcher slurm --gpus 16 --partition gpu --time 24:00:00 --dry-run --work-dir w'
    tool(PAPER, *options.split())
    jobs = submit(capsys.readouterr().out)
    for stage in chain.read_recipe(PAPER).stages:
        job, after = jobs.pop(stage.name)
        assert after == sorted(set(stage.weights.values()))
        assert '--ntasks=16 --ntasks-per-node=8' in job and '--partition=gpu' in job
        command = f'tools/recipe.py run {PAPER} --work-dir w --launcher slurm --gpus 16'
        assert f'{command} --partition gpu --stage {stage.name}' in job
        assert '--time=24:00:00 --signal=USR1@120 --requeue' in job
        assert '[ $code != 138 ] || scontrol requeue $SLURM_JOB_ID; exit $code' in job
    assert not jobs


def test_one_job_prepares_the_data_and_the_others_wait(monkeypatch, capsys, tmp_path, submit):
    """Also from an empty folder: configs are found in the folders above the recipe."""
    monkeypatch.chdir(tmp_path)
    slurm = ['--launcher', 'slurm', '--gpus', '4', '--partition', 'gpu', '--dry-run']
    tool(str(ROOT / 'configs/quickstart/recipe.py'), *slurm)
    (first, (prepare, _)), *others = submit(capsys.readouterr().out).items()
    assert first == 'prepare' and 'gres' not in prepare
    assert [after for _, (_, after) in others].count(['prepare']) == 3
    assert all(after for _, (_, after) in others)


def test_jobs_of_similar_names_differ_and_a_refused_job_ends_the_script(tmp_path, submit):
    config = str(tmp_path / 'a.py')
    Path(config).write_text('train_cfg = dict(max_epochs=3)')
    settings = RunSettings(tmp_path / 'work', launch=Launch('slurm', 1, 'gpu'))

    def script(*stages: Stage) -> str:
        return shell_script(Recipe('work', list(stages), [], None, '', ''), settings, ['recipe'])

    similar = Stage('a-b', config), Stage('a/b', config), Stage('c', config, {'x': 'a-b'})
    assert submit(script(*similar))['c'][1] == ['a-b']
    with pytest.raises(subprocess.CalledProcessError):
        submit(script(Stage('no', config), Stage('d', config)))
    assert '--stage d' not in (tmp_path / 'jobs').read_text()


@pytest.mark.parametrize('words, message', [
    ('--gpus 2', '--gpus 2 needs --launcher pytorch or slurm'),
    ('--launcher slurm', '--launcher slurm needs --partition NAME'),
    ('--stage tokeniser', f'--stage tokeniser: expected stages of {PAPER}: tokenizer, '),
    ('--cfg-options a', '--cfg-options a: expected KEY=VALUE'),
])  # fmt: skip
def test_a_mistake_in_the_command_is_one_line(words, message):
    with pytest.raises(SystemExit, match=re.escape(f'error: {message}')):
        tool(PAPER, *words.split(), '--dry-run')


def test_a_stopped_chain_exits_with_the_signals_code(monkeypatch, capsys, tmp_path):
    def stop(*_: object) -> None:
        raise process.Stopped(signal.SIGUSR1)

    monkeypatch.setattr(runner, 'run', stop)
    with pytest.raises(SystemExit) as ended:
        tool(PAPER, '--work-dir', str(tmp_path))
    assert ended.value.code == 138
    assert 'stopped by SIGUSR1; the same command continues' in capsys.readouterr().err


KILL_ONCE = """
import os, signal, time
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
@HOOKS.register_module()
class KillOnce(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2 and runner.rank == 0 and not Path('killed').exists():
            Path('killed').touch()
            while not Path('work/real/iter_2.pth').exists():  # written in the background
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_two_processes_train_a_stage_and_resume_after_one_was_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{tmp_path}', prepend=os.pathsep)
    shapes.draw_dataset(Path('data'), train=500, val=4, size=64, labels=(500,), jobs=1)
    Path('kill_once.py').write_text(KILL_ONCE)
    Path('small.py').write_text(
        f"_base_ = '{ROOT}/configs/quickstart/classification.py'\n"
        "custom_imports = dict(imports=['kill_once'])\n"
        "custom_hooks = [dict(type='mmengine.KillOnce')]\n"
        'train_cfg = dict(max_iters=4, val_interval=4)\n'
        "param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1.0, by_epoch=False)\n"
        'default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))\n'
        "data = dict(dataset=dict(data_root='data/imagenet'))\n"
        'train_dataloader = dict(batch_size=4, dataset=data)\n'
        'val_dataloader = test_dataloader = data\n'
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(free.getsockname()[1]))
    work = Path('work/real')
    recipe = Recipe('work', [Stage('real', 'small.py', test=True)], [], None, '', '')
    settings = RunSettings(Path('work'), launch=Launch('pytorch', 2))
    with pytest.raises(process.StageFailed):
        runner.run(recipe, settings)
    assert (work / 'iter_2.pth').is_file() and not (work / 'iter_4.pth').exists()
    runner.run(recipe, settings)
    record = records.read_record(work)
    assert record['resumed'] and record['made_from']['gpus'] == 2 and len(record['logs']) == 2
    logs = [path.read_text() for path in sorted(work.glob('*/*.log'))]
    assert 'resumed epoch: 0, iter: 2' in logs[1]
    assert all("launcher = 'pytorch'" in log for log in logs)
    assert [line['step'] for line in summary.scalars(work) if 'lr' in line] == [1, 2, 3, 4]
    assert 'top1' in summary.metrics(work)
