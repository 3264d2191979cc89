"""The steps of docker/Dockerfile work in a fresh environment on top of this one.

This environment stands for the base image: its torch has the version of the image, and pip finds
all packages in it. `apt-get` is not run.
"""

import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT

pytestmark = pytest.mark.any_stack

TEXT = re.sub(r'#.*\n|\\\n', '', (ROOT / 'docker/Dockerfile').read_text())
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip()]
PINS = dict(re.findall(r'^([\w-]+)==([\w.]+)', (ROOT / 'requirements/onedl.txt').read_text(), re.M))


def test_the_image_has_the_pinned_torch_and_cuda():
    (image,) = [value for step, value in STEPS if step == 'FROM']
    torch, cuda, cudnn = re.fullmatch(
        r'pytorch/pytorch:([\d.]+)-cuda([\d.]+)-cudnn(\d+)-runtime', image
    ).groups()
    assert torch == PINS['torch'] and PINS['cuda-toolkit'].startswith(f'{cuda}.')
    assert PINS['nvidia-cudnn-cu13'].startswith(f'{cudnn}.')


@pytest.mark.skipif(os.environ.get('BEIT_MM_STACK', 'onedl') != 'onedl', reason='installs onedl')
def test_every_step_works(tmp_path):
    source, environment = tmp_path / 'beit_mm', tmp_path / 'venv'
    places = {'/opt/beit_mm': str(source), '/opt/venv': str(environment)}
    variables = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    variables |= dict(PIP_NO_INDEX='1', PIP_NO_BUILD_ISOLATION='0')
    variables['PATH'] = f'{environment}/bin:{os.environ["PATH"]}'
    folder = tmp_path

    def run(command: str) -> None:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=variables, text=True, capture_output=True
        )
        assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'

    for step, value in STEPS:
        for place, here in places.items():
            value = value.replace(place, here)
        if step == 'WORKDIR':
            folder = Path(value if Path(value).is_relative_to(tmp_path) else tmp_path / 'empty')
            folder.mkdir()
        elif step == 'COPY':
            *names, target = value.split()
            for name in names:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, folder / target)
        elif step == 'RUN' and not value.startswith('apt-get'):
            for command in value.split('&&'):
                run(command.replace('python3 -m venv', f'{sys.executable} -m venv'))
                if '-m venv' in command:
                    packages = next(environment.glob('lib/*/site-packages'))
                    for old in packages.glob('setuptools*'):  # Python 3.12 of the image adds none
                        shutil.rmtree(old)
                    (packages / 'image.pth').write_text('\n'.join(site.getsitepackages()))

    installed = next(environment.glob('lib/*/site-packages'))
    assert {path.name.partition('-')[0] for path in installed.glob('*.dist-info')} == {
        'pip',
        'beit_mm',
    }
    run('beit-mm --help')
    run(
        f'python -c "import beit_mm, pathlib; pathlib.Path(beit_mm.__file__).relative_to({str(environment)!r})"'
    )
