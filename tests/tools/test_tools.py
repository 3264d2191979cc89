"""The wheel and its installation, and the shell scripts."""

import io
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import weights
from PIL import Image

from beit_mm.command import find_tools

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]


def call(*words: object, **options: object) -> str:
    """Run a command; return its output and errors."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return subprocess.run(list(map(str, words)), text=True, **pipes, **options).stdout


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
    return call(sys.executable, '-m', 'pip', *words, *options)


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp('wheel')
    printed = pip('wheel', '--no-deps', '-w', folder, source)
    assert list(folder.iterdir()), printed
    return zipfile.ZipFile(next(folder.glob('beit_mm-*.whl')))


def test_the_wheel_holds_all_modules_configs_tools_and_the_model_index(wheel):
    held = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'beit_mm').rglob('*.py')}
    shipped = {'beit_mm/.mim/model-index.yml'}
    checkout_only = {'stress.py', 'test.sh', 'docs.sh', 'docs_hooks.py', 'install.sh'}
    suffixes = ['.py', '.sh', '.yml', '.j2', '.jinja', '.html', '.css', '.js', '.mplstyle', '.md']
    for name in ('configs', 'tools'):
        for path in (ROOT / name).rglob('*.*'):
            if path.suffix in suffixes and path.name not in checkout_only:
                shipped.add(f'beit_mm/.mim/{path.relative_to(ROOT)}')
    templates = (ROOT / 'beit_mm/viz/templates').iterdir()
    modules |= {str(path.relative_to(ROOT)) for path in templates if path.is_file()}
    assert held >= modules | shipped
    assert not held & {f'beit_mm/.mim/tools/{name}' for name in checkout_only}
    assert not [name for name in held if '__pycache__' in name]


IN_ONE_PROCESS = """
import sys
from pathlib import Path
from beit_mm.command import main
def call(command):
    sys.argv = command.split()
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
call('beit-mm reproduce --scale minutes --seeds 1 --dry-run')
call('beit-mm recipe run configs/quickstart/recipe.py --dry-run')
from reproduce import page, scale
hour = scale.Scale.read(Path('../site/beit_mm/.mim/configs/reproduce/hour.py'))
page.write(Path('out'), hour.cfg, 'hour', {}, [])
from mmpretrain.apis.model import ModelHub
print(ModelHub.get('beit_base_patch16_224_pt22k_ft1k').config.filename)
"""


def test_the_command_of_an_installed_package_trains_in_an_empty_folder(wheel, tmp_path):
    """Also applications, the template of a page, and mmpretrain's list of models."""
    wheel.extractall(tmp_path / 'site')
    entry = next(name for name in wheel.namelist() if name.endswith('entry_points.txt'))
    assert 'beit-mm = beit_mm.command:main' in wheel.read(entry).decode()
    for i in range(8):
        path = tmp_path / 'here/pets' / ('cat', 'dog')[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (64, 48), (30 * i, 0, 0)).save(path)
    path = os.pathsep.join([str(tmp_path / 'site'), *filter(None, [os.environ.get('PYTHONPATH')])])

    def run(*words: str) -> str:
        environment = os.environ | dict(PYTHONPATH=path)
        return call(sys.executable, *words, cwd=tmp_path / 'here', env=environment)

    written = run(
        '-m', 'beit_mm.command', *['new-config', 'classification', 'pets', '--weights', 'none']
    )
    config = (tmp_path / 'here/my_classification.py').read_text()
    assert "_base_ = 'beit_mm::quickstart/classification_112.py'" in config
    train = written.strip().splitlines()[-2].split()
    assert train == ['beit-mm', 'train', 'my_classification.py']
    short = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'param_scheduler=None']
    trained = run('-m', 'beit_mm.command', *train[1:], '--cfg-options', *short)
    assert 'accuracy/top1' in trained, trained

    planned, mim = run('-c', IN_ONE_PROCESS), tmp_path / 'site/beit_mm/.mim'
    assert f'{mim}/configs/quickstart/tokenizer.py' in planned, planned
    assert 'pretrain/pixels' in planned and f'{mim}/tools/train.py' in planned, planned
    assert 'Nothing contradicts' in (tmp_path / 'here/out/results.md').read_text()
    config = Path(planned.strip().splitlines()[-1])
    assert config.is_file() and mim in config.parents, planned
    for tool, example in {
        'recipe check': 'usage: beit-mm recipe check',
        'cache-tokens': 'torchrun --nproc-per-node 8 --no-python beit-mm cache-tokens CONFIG',
    }.items():
        shown = run('-m', 'beit_mm.command', *tool.split(), '--help')
        assert example in shown and 'tools/' not in shown


MISSING = """
cache-tokens none.py --out tokens
check-data none.py
check-layout imagenet none
convert none.pth out.pth --to hf
draw-shapes /proc/none/shapes --train 1 --val 1
embed none --checkpoint none.pth --out features.npz
export none.py none.pth out.onnx
new-config classification none
recipe run none.py
recipe check none.py
report none
reproduce --scale none
shrink-images none out --side 9
test none.py none.pth
test TOKENIZER none.pth
train none.py
visualize tokens none.png --tokenizer none.pth
visualize segment none.py none.pth none.png
""".strip().splitlines()


def test_each_tool_is_asked_for_a_missing_file():
    """`weights` reads the index of the package; `benchmark` and `stress` need no file."""
    assert {line.split()[0] for line in MISSING} | {'weights', 'stress', 'benchmark'} == set(
        find_tools()
    )


@pytest.mark.parametrize('line', MISSING)
def test_a_missing_file_is_an_error_without_a_traceback(line, tmp_path, monkeypatch, capsys):
    tool, *words = line.replace('TOKENIZER', str(ROOT / 'configs/quickstart/tokenizer.py')).split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, *words])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(find_tools()[tool]), run_name='__main__')
    message = str(stopped.value.code) + capsys.readouterr().err
    assert ('error: ' in message and 'none' in message) or 'data/quickstart' in message


def test_an_installation_adds_no_other_package(source):
    last = pip('install', '--dry-run', '-e', source).strip().splitlines()[-1]
    assert last.startswith('Would install beit-mm-') and last.count(' ') == 2


def test_each_script_parses_and_prints_its_usage():
    for script in (ROOT / 'tools').glob('*.sh'):
        assert call('bash', '-n', script) == ''
    for name in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        assert f'bash tools/{name}.sh' in call('bash', ROOT / f'tools/{name}.sh')
    assert '--stack none is unknown' in call('bash', ROOT / 'tools/test.sh', '--stack', 'none')


@pytest.mark.parametrize('script', ['slurm_train', 'slurm_test'])
def test_slurm_gets_the_users_options_and_at_most_one_gpu_per_process(tmp_path, script):
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    words = ('gpu', 'a job', 'configs/a.py', 'work dir', '--amp', '--cfg-options', 'a=b c')
    for gpus, per_node in (('16', '8'), ('4', '4')):
        env = os.environ | dict(PATH=path, GPUS=gpus, SRUN_ARGS='--qos=high --exclusive')
        given = call('bash', ROOT / f'tools/{script}.sh', *words, env=env).splitlines()
        sizes = {f'--ntasks={gpus}', f'--gres=gpu:{per_node}', f'--ntasks-per-node={per_node}'}
        options = {'--partition=gpu', '--job-name=a job', '--qos=high', '--exclusive'}
        assert sizes | options <= set(given)
        folder = ['--work-dir', 'work dir'] if script == 'slurm_train' else ['work dir']
        end = ['--launcher', 'slurm', '--amp', '--cfg-options', 'a=b c']
        assert given[-6 - len(folder) :] == ['configs/a.py', *folder, *end]


@pytest.mark.parametrize('script', ['dist_train', 'dist_test'])
def test_each_run_on_one_machine_gets_a_free_port(tmp_path, script):
    (tmp_path / 'python').write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@"\n'
    )
    (tmp_path / 'python').chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ('PORT', 'NNODES')}
    env['PYTHON'] = str(tmp_path / 'python')

    def port(**more: str) -> str:
        given = call('bash', ROOT / f'tools/{script}.sh', 'a.py', '2', '2', env=env | more)
        return given.partition('--master-port=')[2].split()[0]

    assert port().isdigit() and port() != '29500'
    assert port(NNODES='2') == '29500' and port(PORT='1234') == '1234'


def test_the_hub_is_asked_at_its_endpoint(monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append(request.full_url)
        return io.BytesIO()

    monkeypatch.setattr(weights, 'urlopen', answer)
    monkeypatch.setenv('HF_ENDPOINT', 'http://mirror/')
    monkeypatch.setattr(weights, 'published', lambda: dict(a=dict(address='hf://org/name')))
    assert weights.main(['check']) == 0
    assert asked == ['http://mirror/api/models/org/name']


def test_scaling_the_rate_needs_the_batch_that_it_is_meant_for(tmp_path, monkeypatch, capsys):
    (tmp_path / 'a.py').write_text('optim_wrapper = dict()\n')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'a.py'), '--auto-scale-lr'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert 'has no auto_scale_lr.base_batch_size' in capsys.readouterr().err
