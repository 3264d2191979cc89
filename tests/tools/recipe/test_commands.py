"""The commands of a stage: what each launcher is given."""

import sys
from pathlib import Path

import pytest
from recipe import commands
from recipe.commands import Launch

pytestmark = pytest.mark.any_stack

TOOLS = Path('tools')


@pytest.mark.parametrize(
    'launch, train, test',
    [
        (
            Launch(),
            'python tools/train.py a.py --work-dir w --resume --cfg-options x=1',
            'python tools/test.py a.py w/1.pth --work-dir w/test --cfg-options x=1',
        ),
        (
            Launch('pytorch', 4),
            'bash tools/dist_train.sh a.py 4 --work-dir w --resume --cfg-options x=1',
            'bash tools/dist_test.sh a.py w/1.pth 4 --work-dir w/test --cfg-options x=1',
        ),
        (
            Launch('slurm', 16, 'gpu'),
            'env GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_train.sh gpu name a.py w --resume --cfg-options x=1',
            'env GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_test.sh gpu name a.py w/1.pth --work-dir w/test --cfg-options x=1',
        ),
    ],
)  # fmt: skip
def test_every_launcher_gets_config_folder_and_options(launch, train, test):
    made = commands.train(launch, TOOLS, 'name', 'a.py', Path('w'), ['x=1'], resume=True)
    assert commands.readable(made) == train
    made = commands.test(launch, TOOLS, 'name', 'a.py', 'w/1.pth', Path('w/test'), ['x=1'])
    assert commands.readable(made) == test


def test_words_survive_the_shell():
    line = commands.sbatch(
        Launch('slurm', 2, 'gpu'), 'a/b', ['c', 'd-e'], [sys.executable, 'x.py', "it's"]
    )
    assert (
        line.startswith('job_a_b=$(sbatch --parsable ')
        and '--dependency=afterok:$job_c:$job_d_e ' in line
    )
    assert '--ntasks=2 --ntasks-per-node=2 --gres=gpu:2' in line
