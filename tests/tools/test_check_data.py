"""tools/check_data.py finds nothing in Shapes, names each planted fault once, and no more than those."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bad_files
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from shapes import draw as shapes
from small import load, nodes

pytestmark = pytest.mark.any_stack

SCRIPT = Path(__file__).parents[2] / 'tools' / 'check_data.py'
spec = importlib.util.spec_from_file_location('check_data', SCRIPT)
check_data = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_data)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp('check') / 'shapes'
    shapes.write(
        out,
        train=20,
        val=10,
        size=32,
        segmentation_train=20,
        segmentation_val=12,
        labels=(20,),
        jobs=1,
    )
    return out


@pytest.fixture
def data(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / 'shapes'))


@pytest.fixture
def config(data, tmp_path):
    """Writes a quickstart config over `data`; its path."""

    def write(task: str, change=lambda cfg: None) -> str:
        cfg: Config = load(f'quickstart/{task}')
        for node in nodes([cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]):
            if 'data_root' in node:
                node.data_root = node.data_root.replace('data/quickstart', str(data))
                node.serialize_data = False  # which collects all garbage of the process
                node.ann_file = re.sub(r'train_\d+', 'train_20', node.get('ann_file', '')).replace(
                    'training_200.txt', ''
                )
        change(cfg)
        cfg.dump(tmp_path / f'{task}.py')
        return str(tmp_path / f'{task}.py')

    return write


def faults(capsys, *arguments: str, jobs: int = 1) -> list[str]:
    status = check_data.main([*arguments, '--jobs', str(jobs)])
    out = capsys.readouterr().out.splitlines()
    found = [line.removeprefix('fault: ') for line in out if line.startswith('fault: ')]
    assert status == bool(found) and out[-1] == (
        f'{len(found)} faults' if found else 'nothing is wrong'
    )
    return found


@pytest.mark.parametrize('task', ['tokenizer', 'pretrain', 'classification', 'segmentation'])
def test_nothing_is_wrong_with_shapes(config, task, capsys):
    assert faults(capsys, config(task)) == []


@pytest.mark.parametrize('jobs', [1, 2])
def test_all_faults_of_a_class_data_set_are_named(config, data, capsys, jobs):
    root = data / 'imagenet'
    lines = (root / 'meta/train_20.txt').read_text().splitlines()
    cut, text = (root / 'train' / line.split()[0] for line in lines[:2])
    cut.write_bytes(cut.read_bytes()[:500])
    text.write_text('not found')
    double = root / 'train' / Path(lines[2].split()[0]).with_suffix('.png')
    double.write_bytes(bad_files.encoded(Image.fromarray(bad_files.pixels())))
    kept = [line for line in lines if not line.endswith(' 7')]
    extra = [
        f'{double.relative_to(root / "train")} 2',
        kept[4],
        f'{kept[5].split()[0]} 12',
        'gone.jpg 3',
    ]
    (root / 'meta/train_20.txt').write_text('\n'.join(kept + extra) + '\n')
    found = faults(capsys, config('classification'), '--split', 'train', jobs=jobs)
    expected = [
        f'{cut.name} cannot be decoded',
        f'{text.name} is no image',
        'has the label 12: classes are numbered 0 to 9',
        'gone.jpg, cannot be read: No such file',
        f'{double.stem}.JPEG and .*{double.name}: one name',
        f'{Path(kept[4].split()[0]).name} is listed 2 times',
        f'{Path(kept[5].split()[0]).name} is listed 2 times',
        "the class 'cross' does not occur",
    ]
    assert len(found) == len(expected)
    assert all(any(re.search(one, line) for line in found) for one in expected)


def test_all_faults_of_a_segmentation_data_set_are_named(config, data, capsys):
    maps = sorted((data / 'ade20k/annotations/training').iterdir())
    values = np.asarray(Image.open(maps[0]))
    changes = {
        0: bad_files.grey(values + 200 * (values == values.max())),
        1: bad_files.encoded(Image.fromarray(bad_files.pixels())),
        2: bad_files.grey(values[:16]),
        3: bad_files.grey(0 * values),
        4: b'',
    }
    for place, content in changes.items():
        maps[place].write_bytes(content)
    messages = [
        'has the value',
        'is a picture',
        'is 32×16, its image 32×32',
        'no pixel of it is labelled (0 and 255 are',
        'is empty',
    ]
    found = [
        line for line in faults(capsys, config('segmentation')) if 'does not occur' not in line
    ]
    assert len(found) == 5
    for path, message, line in zip(maps, messages, found, strict=False):
        assert str(path) in line and message in line


def test_labels_are_held_up_against_the_head_of_the_model(config, capsys):
    def fewer(cfg):
        cfg.model.decode_head.update(num_classes=5)

    found = faults(capsys, config('segmentation', fewer), '--split', 'val')
    assert found and all('valid are 0 … 5 and 255' in line for line in found)


def test_a_data_set_that_cannot_be_built_is_a_fault(config, data, capsys):
    shutil.rmtree(data / 'ade20k/images/validation')
    (found,) = faults(capsys, config('segmentation'))
    assert 'the data set of val cannot be built' in found and 'validation' in found
    path = config(
        'classification', lambda cfg: cfg.train_dataloader.dataset.dataset.update(ann_file='')
    )
    (data / 'imagenet/train/n00000003x').mkdir()
    (found,) = faults(capsys, path, '--split', 'train')
    assert 'number of subfolders (11)' in found


def test_the_command_shows_progress_and_fails_for_a_fault(config, data):
    next((data / 'imagenet/val').rglob('*.JPEG')).write_bytes(b'')
    command = [sys.executable, str(SCRIPT), config('tokenizer'), '--split', 'val', '--jobs', '2']
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert (
        done.returncode == 1
        and 'is empty' in done.stdout
        and '10/10' in done.stderr
        and 'ETA' in done.stderr
    )
