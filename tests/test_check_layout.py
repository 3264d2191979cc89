"""tools/check_layout.py accepts what Shapes writes and what ImageNet's archives hold, and names each fault."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit_mm.data import shapes

pytestmark = pytest.mark.any_stack

SCRIPT = Path(__file__).parents[1] / 'tools' / 'check_layout.py'
spec = importlib.util.spec_from_file_location('check_layout', SCRIPT)
check_layout = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_layout)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp('layout') / 'shapes'
    shapes.write(out, train=20, val=10, size=32, segmentation_train=6, segmentation_val=3, jobs=1)
    return out


@pytest.fixture
def imagenet(drawn, tmp_path):
    return Path(shutil.copytree(drawn / 'imagenet', tmp_path / 'imagenet'))


@pytest.fixture
def ade20k(drawn, tmp_path):
    return Path(shutil.copytree(drawn / 'ade20k', tmp_path / 'ade20k'))


def faults(capsys, kind, root, *options):
    status = check_layout.main([kind, str(root), *options])
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith('fault: ')]
    assert status == bool(found)
    return found


OWN = ('--classes', '10', '--any-count')
MAPS = ('--classes', '11', '--any-count')


def test_shapes_is_laid_out_rightly(imagenet, ade20k, capsys):
    assert faults(capsys, 'imagenet', imagenet, *OWN) == []
    assert faults(capsys, 'imagenet22k', imagenet, *OWN) == []
    assert faults(capsys, 'ade20k', ade20k, *MAPS) == []


def test_class_folders_need_no_list_and_a_flat_split_needs_one(imagenet, capsys):
    shutil.rmtree(imagenet / 'meta')
    assert faults(capsys, 'imagenet', imagenet, *OWN) == []
    for image in list((imagenet / 'val').rglob('*.JPEG')):
        image.rename(imagenet / 'val' / image.name)
    for folder in (imagenet / 'val').glob('n*'):
        folder.rmdir()
    (found,) = faults(capsys, 'imagenet', imagenet, *OWN)
    assert 'val has no class folder' in found and 'meta/val.txt' in found
    (imagenet / 'meta').mkdir()
    flat = sorted(p.name for p in (imagenet / 'val').iterdir())
    (imagenet / 'meta/val.txt').write_text(''.join(f'{name} {i}\n' for i, name in enumerate(flat)))
    assert faults(capsys, 'imagenet', imagenet, *OWN) == []


def test_the_real_counts_are_expected_by_default(imagenet, ade20k, capsys):
    found = ' '.join(faults(capsys, 'imagenet', imagenet))
    assert 'uses 10 labels, 1000 are expected' in found and 'train has 20 images, 1281167 are expected' in found
    found = ' '.join(faults(capsys, 'ade20k', ade20k))
    assert 'training has 6 images (.jpg), 20210 are expected' in found


def _remove_val(root):
    shutil.rmtree(root / 'val')


def _leave_archives(root):
    shutil.rmtree(root / 'meta')
    shutil.rmtree(root / 'train')
    (root / 'train').mkdir()
    (root / 'train/n00000000.tar').write_bytes(b'')


def _empty_class(root):
    shutil.rmtree(root / 'meta')
    for image in (root / 'train/n00000003').iterdir():
        image.unlink()


def _rename_class(root):
    shutil.rmtree(root / 'meta')
    (root / 'val/n00000003').rename(root / 'val/fish')


def _wrong_label(root):
    path = root / 'meta/train.txt'
    path.write_text(path.read_text().replace(' 3\n', ' 33\n', 1))


def _unlisted_file(root):
    next((root / 'val/n00000002').iterdir()).unlink()


def _truncate(root):
    path = next((root / 'val/n00000002').iterdir())
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    'damage, message',
    [
        (_remove_val, 'val is missing'),
        (_leave_archives, 'unpack n00000000.tar'),
        (_empty_class, 'train has class folders without an image: n00000003'),
        (_rename_class, 'other class folders than the split before: fish, n00000003'),
        (_wrong_label, "meta/train.txt, line 4: .* 33' should be a file name and a label of 0 to 9"),
        (_unlisted_file, 'val.txt names files that are not in .*n00000002/'),
        (_truncate, 'n00000002/.*JPEG cannot be read'),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_faults_of_imagenet_are_named(imagenet, capsys, damage, message):
    damage(imagenet)
    found = faults(capsys, 'imagenet', imagenet, *OWN)
    assert re.search(message, ' '.join(found)), found


def _map(root, change):
    path = root / 'annotations/training/ADE_train_00000001.png'
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda root: shutil.rmtree(root / 'annotations/training'), 'annotations/training is missing'),
        (lambda root: (root / 'annotations/training/ADE_train_00000001.png').unlink(), 'without a label map.*00000001'),
        (lambda root: (root / 'images/validation/ADE_val_00000002.jpg').unlink(), 'without an image.*ADE_val_00000002'),
        (lambda root: _map(root, lambda m: m[:16]), '00000001.png is 32×16, its image 32×32'),
        (lambda root: _map(root, lambda m: m + 11), '00000001.png has the value [12].: 0 is unlabelled, 1 to 11'),
        (lambda root: _map(root, lambda m: np.stack([m] * 3, -1)), '00000001.png has 3 dimensions.*not a picture'),
        (lambda root: _map(root, lambda m: m.astype(np.uint16)), '00000001.png has 2 dimensions and type'),
        (lambda root: _map(root, lambda m: 0 * m), '00000001.png is 0 everywhere'),
    ],
)
def test_faults_of_ade20k_are_named(ade20k, capsys, damage, message):
    damage(ade20k)
    found = faults(capsys, 'ade20k', ade20k, *MAPS)
    assert re.search(message, ' '.join(found)), found


def test_the_command_fails_for_a_folder_that_is_not_there(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, 'ade20k', tmp_path / 'none'], capture_output=True, text=True)
    assert done.returncode == 1 and 'none is no folder' in done.stdout
