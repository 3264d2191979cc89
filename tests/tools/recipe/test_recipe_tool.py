"""The command `tools/recipe.py run`: the paper's chain as it is printed and submitted, and a real stage on two processes."""

import os
import re
import runpy
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from recipe import chain as reading
from recipe import process, runner
from recipe.chain import Recipe, Stage
from recipe.commands import Launch
from reports import summary
from shapes import draw as shapes

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[3]


def dry(*words: str) -> None:
    tool = runpy.run_path('tools/recipe.py')['main']
    tool(['run', *words, '--dry-run'])


def test_the_papers_chain_is_printed_for_eight_gpus(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    dry(
        'configs/paper/recipe.py',
        '--launcher',
        'pytorch',
        '--gpus',
        '8',
        '--work-dir',
        str(tmp_path),
    )
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line and not line.startswith('#')
    ]
    trained = [line for line in lines if line.startswith('bash tools/dist_train.sh configs/')]
    assert len(trained) == 8 and len(lines) == 10  # two pre-trainings are tested
    reads = {
        re.search(r'--work-dir (\S+)', line)[1].removeprefix(f'{tmp_path}/'):
            re.findall(rf'checkpoint={tmp_path}/(\S+)', line) for line in trained
    }  # fmt: skip
    assert reads == {
        'tokenizer': [],
        'pretrain/vit': ['tokenizer/iter_3000000.pth'],
        'classification/224px': ['pretrain/vit/epoch_800.pth'],
        'classification/384px': ['classification/224px/epoch_100.pth'] * 2,
        'setr-pup/pretrained': ['pretrain/vit/epoch_800.pth'],
        'setr-pup/intermediate': ['classification/224px/epoch_100.pth'],
        'pretrain/beit': ['tokenizer/iter_3000000.pth'],
        'upernet/pretrained': ['pretrain/beit/epoch_800.pth'],
    }


def test_the_papers_chain_is_submitted_with_every_job_after_those_it_reads_from(
    monkeypatch, capsys, tmp_path
):
    """The printed script is run, with an sbatch that writes down what it was given and numbers the jobs."""
    monkeypatch.chdir(ROOT)
    dry(
        'configs/paper/recipe.py',
        '--launcher',
        'slurm',
        '--gpus',
        '16',
        '--partition',
        'gpu',
        '--time',
        '24:00:00',
        '--work-dir',
        str(tmp_path),
    )
    (tmp_path / 'sbatch').write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/jobs\nwc -l < {tmp_path}/jobs\n'
    )
    (tmp_path / 'sbatch').chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    subprocess.run(
        ['bash', '-euc', capsys.readouterr().out], env=os.environ | dict(PATH=path), check=True
    )
    jobs = (tmp_path / 'jobs').read_text().splitlines()
    assert all(
        '--ntasks=16 --ntasks-per-node=8' in job and '--partition=gpu' in job for job in jobs
    )
    names = [re.search(r'--stage ([^\s;]+)', job)[1] for job in jobs]
    after = {name: re.findall(r'afterok:(\d+)', job) for name, job in zip(names, jobs, strict=True)}
    after = {name: [names[int(job) - 1] for job in before] for name, before in after.items()}
    recipe = reading.read_recipe('configs/paper/recipe.py')
    assert after == {stage.name: sorted(set(stage.weights.values())) for stage in recipe.stages}
    wrapped = f'python tools/recipe.py run configs/paper/recipe.py --work-dir {tmp_path} --launcher slurm --gpus 16'
    assert all(f'--wrap={wrapped} --partition gpu --stage ' in job for job in jobs)
    assert all('--time=24:00:00 --signal=USR1@120 --requeue' in job for job in jobs)
    assert all(
        '[ $code != 138 ] || scontrol requeue $SLURM_JOB_ID; exit $code' in job for job in jobs
    )


def test_the_data_of_a_chain_are_prepared_by_one_job_that_all_wait_for(
    monkeypatch, capsys, tmp_path
):
    """Also from an empty folder: stages are found beside the recipe and above."""
    monkeypatch.chdir(tmp_path)
    tool = runpy.run_path(str(ROOT / 'tools/recipe.py'))['main']
    slurm = ['--launcher', 'slurm', '--gpus', '4', '--partition', 'gpu', '--dry-run']
    tool(['run', str(ROOT / 'configs/quickstart/recipe.py'), *slurm])
    jobs = [line for line in capsys.readouterr().out.splitlines() if line.startswith('job_')]
    assert (
        jobs[0].startswith('job_prepare=$(sbatch')
        and 'gres' not in jobs[0]
        and '--stage prepare;' in jobs[0]
    )
    assert [('$job_prepare ' in job) for job in jobs[1:]].count(
        True
    ) == 3  # the others wait for these
    assert all('--dependency=afterok:$job_' in job for job in jobs[1:])


@pytest.mark.parametrize(
    'words, message',
    [
        (['--gpus', '2'], '--gpus 2 needs --launcher pytorch or slurm'),
        (['--launcher', 'slurm'], '--launcher slurm needs --partition NAME'),
        (['--launcher', 'pytorch', '--gpus', '0'], '--gpus 0: at least one'),
        (
            ['--stage', 'tokeniser'],
            '--stage tokeniser: configs/paper/recipe.py has the stages tokenizer, ',
        ),
    ],
)
def test_a_mistake_in_the_command_is_one_line(monkeypatch, words, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=re.escape(f'error: {message}')):
        dry('configs/paper/recipe.py', *words)


def test_a_chain_that_was_stopped_says_how_to_continue_and_ends_with_the_signals_code(
    monkeypatch, capsys, tmp_path
):
    def stop(*_: object) -> None:
        raise process.Stopped(signal.SIGUSR1)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runner, 'run', stop)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path('tools/recipe.py')['main'](
            ['run', 'configs/paper/recipe.py', '--work-dir', str(tmp_path)]
        )
    assert ended.value.code == 138
    assert (
        'stopped by SIGUSR1; the same command continues: finished stages are kept'
        in capsys.readouterr().err
    )


# -- a real stage ----------------------------------------------------------------------------------------------------

BREAKER = """
import os, signal
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
@HOOKS.register_module()
class Breaker(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2 and runner.rank == 0 and not Path('mended').exists():
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_two_processes_train_a_stage_and_after_a_death_go_on_from_its_checkpoint(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{tmp_path}', prepend=os.pathsep)
    shapes.write(Path('data'), train=500, val=4, size=64, labels=(500,), jobs=1)
    Path('breaker.py').write_text(BREAKER)
    Path('small.py').write_text(
        f"_base_ = '{ROOT}/configs/quickstart/classification.py'\n"
        "custom_imports = dict(imports=['breaker'])\n"
        "custom_hooks = [dict(type='mmengine.Breaker')]\n"
        'train_cfg = dict(max_iters=4, val_interval=4)\n'
        "param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1.0, by_epoch=False)\n"
        'default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))\n'
        "train_dataloader = dict(batch_size=4, dataset=dict(dataset=dict(data_root='data/imagenet')))\n"
        "val_dataloader = test_dataloader = dict(dataset=dict(data_root='data/imagenet'))\n"
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(free.getsockname()[1]))
    stage, work = Stage('real', 'small.py', test=True), Path('work/real')
    settings = runner.Settings(Path('work'), ROOT / 'tools', launch=Launch('pytorch', 2))
    with pytest.raises(process.StageFailed):
        runner.run(Recipe('work', [stage], [], None, '', ''), settings)
    assert (work / 'iter_2.pth').is_file() and not (work / 'iter_4.pth').exists()
    Path('mended').touch()
    runner.run(Recipe('work', [stage], [], None, '', ''), settings)
    record = reading.read_record(work)
    assert record['resumed'] and record['made_from']['gpus'] == 2 and len(record['logs']) == 2
    logs = [path.read_text() for path in sorted(work.glob('*/*.log'))]
    assert 'resumed epoch: 0, iter: 2' in logs[1] and all(
        "launcher = 'pytorch'" in log for log in logs
    )
    assert [line['step'] for line in summary.scalars(work) if 'lr' in line] == [1, 2, 3, 4]
    assert 'top1' in summary.metrics(work)
