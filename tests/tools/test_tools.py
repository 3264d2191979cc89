"""The wheel and its installation, and the shell scripts."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]


def call(*words: object, **options: object) -> subprocess.CompletedProcess:
    """Run a command; `stdout` of the result includes its errors."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return subprocess.run(list(map(str, words)), text=True, **pipes, **options)


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """A copy of what a build needs, since a build writes files into its folder."""
    copy = tmp_path_factory.mktemp('source')
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, copy)
    for name in ('beit_mm', 'configs', 'tools', 'requirements'):
        shutil.copytree(ROOT / name, copy / name)
    return copy


def pip(*words: object) -> str:
    options = ['--no-index', '--no-build-isolation', '--disable-pip-version-check']
    done = call(sys.executable, '-m', 'pip', *words, *options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp('wheel')
    pip('wheel', '--no-deps', '-w', folder, source)
    return zipfile.ZipFile(next(folder.glob('beit_mm-*.whl')))


def test_the_wheel_holds_all_modules_configs_tools_and_the_model_index(wheel):
    held = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'beit_mm').rglob('*.py')}
    shipped = {'beit_mm/.mim/model-index.yml'}
    for name in ('configs', 'tools'):
        for path in (ROOT / name).rglob('*.*'):
            if path.suffix in ('.py', '.sh', '.yml', '.j2'):
                shipped.add(f'beit_mm/.mim/{path.relative_to(ROOT)}')
    assert held >= modules | shipped
    assert not [name for name in held if '__pycache__' in name]


@pytest.fixture(scope='module')
def run_installed(wheel, tmp_path_factory):
    """Run Python code with the installed wheel, in an empty folder that contains it as `site`."""
    folder = tmp_path_factory.mktemp('installed')
    wheel.extractall(folder / 'site')
    path = os.pathsep.join([str(folder / 'site'), *filter(None, [os.environ.get('PYTHONPATH')])])
    environment = os.environ | dict(PYTHONPATH=path)

    def run(code: str) -> tuple[str, Path]:
        return call(sys.executable, '-c', code, cwd=folder, env=environment).stdout, folder

    return run


def test_applications_run_from_an_installed_wheel(run_installed):
    """Also the template of a page, which is not a Python file."""
    output, folder = run_installed("""
import sys; sys.path.insert(0, 'site/beit_mm/.mim/tools')
from pathlib import Path
import recipe.plan; from recipe.chain import read_recipe
quickstart = read_recipe('site/beit_mm/.mim/configs/quickstart/recipe.py')
print(recipe.plan.shell_script(quickstart, recipe.plan.Settings(Path('work')), []))
from reproduce import page, scale
hour = scale.Scale.read(Path('site/beit_mm/.mim/configs/reproduce/hour.py'))
page.write(Path('out'), hour.cfg, 'hour', {}, [])
""")
    assert f'site/beit_mm/.mim/tools/train.py {folder}/site/beit_mm/.mim/configs/' in output
    assert 'Nothing contradicts' in (folder / 'out/results.md').read_text()


def test_mmpretrain_finds_our_models_in_an_installed_package(run_installed):
    output, folder = run_installed("""
import beit_mm.utils.model_hub
from mmpretrain.apis.model import ModelHub
config = ModelHub.get('beit_base_patch16_224_pt22k_ft1k').config.filename
print(beit_mm.utils.model_hub.root() / 'model-index.yml', config)
""")
    index, config = map(Path, output.strip().splitlines()[-1].split())
    assert index.is_file() and config.is_file(), output
    assert index.parent == folder / 'site/beit_mm/.mim' and index.parent in config.parents


def test_an_installation_adds_no_other_package(source):
    last = pip('install', '--dry-run', '-e', source).strip().splitlines()[-1]
    assert last.startswith('Would install beit-mm-') and ' ' not in last.removeprefix(
        'Would install '
    )


def test_each_script_parses_and_prints_its_usage():
    for script in (ROOT / 'tools').glob('*.sh'):
        assert call('bash', '-n', script).stdout == ''
    for name in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        done = call('bash', ROOT / f'tools/{name}.sh')
        assert done.returncode == 2 and f'bash tools/{name}.sh' in done.stdout
    done = call('bash', ROOT / 'tools/test.sh', '--stack', 'none')
    assert done.returncode == 2 and '--stack none is unknown' in done.stdout


@pytest.fixture
def with_srun(tmp_path) -> dict[str, str]:
    """An environment in which srun prints its arguments, one per line."""
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    return os.environ | dict(PATH=f'{tmp_path}:{os.environ["PATH"]}')


@pytest.mark.parametrize('script', ['slurm_train', 'slurm_test'])
def test_slurm_gets_the_users_options_and_at_most_one_gpu_per_process(with_srun, script):
    words = ('gpu', 'a job', 'configs/a.py', 'work dir', '--amp', '--cfg-options', 'a=b c')
    for gpus, per_node in (('16', '8'), ('4', '4')):
        env = with_srun | dict(GPUS=gpus, SRUN_ARGS='--qos=high --exclusive')
        given = call('bash', ROOT / f'tools/{script}.sh', *words, env=env).stdout.splitlines()
        sizes = {f'--ntasks={gpus}', f'--gres=gpu:{per_node}', f'--ntasks-per-node={per_node}'}
        assert sizes | {'--partition=gpu', '--job-name=a job', '--qos=high', '--exclusive'} <= {
            *given
        }
        assert given[-5:] == ['--launcher', 'slurm', '--amp', '--cfg-options', 'a=b c']
        start = ['configs/a.py', '--work-dir', 'work dir']
        assert given[-8:-5] == start or (script == 'slurm_test' and given[-7:-5] == start[::2])


@pytest.mark.parametrize('script', ['dist_train', 'dist_test'])
def test_each_run_on_one_machine_gets_a_free_port(tmp_path, script):
    (tmp_path / 'python').write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@"\n'
    )
    (tmp_path / 'python').chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ('PORT', 'NNODES')}
    env['PYTHON'] = str(tmp_path / 'python')

    def port(**more: str) -> str:
        given = call('bash', ROOT / f'tools/{script}.sh', 'a.py', '2', '2', env=env | more).stdout
        return given.partition('--master-port=')[2].split()[0]

    assert port().isdigit() and port() != '29500'
    assert port(NNODES='2') == '29500' and port(PORT='1234') == '1234'


def test_scaling_the_rate_needs_the_batch_that_it_is_meant_for(tmp_path, monkeypatch, capsys):
    (tmp_path / 'a.py').write_text('optim_wrapper = dict()\n')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'a.py'), '--auto-scale-lr'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert 'has no auto_scale_lr.base_batch_size' in capsys.readouterr().err
