"""tools/check_layout.py accepts Shapes and the layout of ImageNet's archives, and names faults."""

import re
import shutil
from pathlib import Path

import check_layout
import numpy as np
import pytest
from image_folders import layout
from PIL import Image
from shapes import draw as shapes

pytestmark = pytest.mark.any_stack

OWN = ('--classes', '10', '--any-count')
MAPS = ('--classes', '11', '--any-count')


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp('layout') / 'shapes'
    shapes.write(out, 20, 10, 0, 32, segmentation_train=6, segmentation_val=3, jobs=1)
    return out


@pytest.fixture
def imagenet(drawn, tmp_path):
    return Path(shutil.copytree(drawn / 'imagenet', tmp_path / 'imagenet'))


@pytest.fixture
def ade20k(drawn, tmp_path):
    return Path(shutil.copytree(drawn / 'ade20k', tmp_path / 'ade20k'))


@pytest.fixture
def run(capsys):
    """Return a function that runs the tool and returns its faults, remarks and all lines."""

    def call(kind: str, root: Path, *options: str) -> tuple[list[str], list[str], list[str]]:
        status = check_layout.main([kind, str(root), *options])
        printed = capsys.readouterr().out.splitlines()
        faults = [line for line in printed if line.startswith('fault: ')]
        assert status == bool(faults)
        return faults, [line for line in printed if line.startswith('remark: ')], printed

    return call


def test_shapes_has_the_right_layout_and_the_real_counts_are_expected(imagenet, ade20k, run):
    assert run('imagenet', imagenet, *OWN)[0] == []
    assert run('imagenet22k', imagenet, *OWN)[0] == []
    assert run('ade20k', ade20k, *MAPS)[0] == []
    found = ' '.join(run('imagenet', imagenet)[0])
    assert 'train.txt has 10 labels, expected 1000' in found
    assert 'train has 20 images, expected 1281167' in found
    assert 'training has 6 images, expected 20210' in ' '.join(run('ade20k', ade20k)[0])


def test_class_folders_need_no_list_and_a_flat_split_needs_one(imagenet, run):
    shutil.rmtree(imagenet / 'meta')
    deep = imagenet / 'train/n00000003/deeper'
    deep.mkdir()
    for image in imagenet.glob('train/n00000003/*.JPEG'):
        image.rename(deep / image.name)
    for image in imagenet.glob('val/n00000003/*.JPEG'):
        np.save(image.with_suffix('.npy'), np.zeros((8, 8, 3), np.uint8))
        image.unlink()
    assert run('imagenet', imagenet, *OWN)[0] == []
    for image in [*(imagenet / 'val').rglob('*.*')]:
        image.rename(imagenet / 'val' / image.name)
    for folder in (imagenet / 'val').glob('n????????'):
        folder.rmdir()
    ((found,), *_) = run('imagenet', imagenet, *OWN)
    assert 'val has no class folders' in found and 'meta/val.txt does not exist' in found
    names = sorted(path.name for path in (imagenet / 'val').iterdir())
    (imagenet / 'meta').mkdir()
    lines = ''.join(f'{name} {i}\n' for i, name in enumerate(names))
    (imagenet / 'meta/val.txt').write_text(lines)
    assert run('imagenet', imagenet, *OWN)[0] == []


def _archives(root):
    shutil.rmtree(root / 'train')
    (root / 'train').mkdir()
    (root / 'train/n00000000.tar').write_bytes(b'')


def _empty_class(root):
    for image in (root / 'train/n00000003').iterdir():
        image.unlink()


def _other_suffixes(root):
    for name in ('a.gif', 'b.GIF'):
        Image.new('RGB', (8, 8)).save(root / 'train/n00000003' / name, 'GIF')


def _first(root):
    return next((root / 'val/n00000002').iterdir())


# name: whether there are lists, the damage, the message
IMAGENET_FAULTS = {
    'no split': (True, lambda root: shutil.rmtree(root / 'val'), 'val is missing'),
    'archives': (False, _archives, "Unpack 'n00000000.tar'"),
    'empty class': (False, _empty_class, "train has class folders without an image: 'n00000003'"),
    'renamed class': (
        False, lambda root: (root / 'val/n00000003').rename(root / 'val/fish'),
        "classes differ: only in .*train: 'n00000003', only in .*val: 'fish'. Give all splits"),
    'other suffixes': (
        False, _other_suffixes, 'files in .*train end in .GIF, but the configs list .jpg.* end in .gif'),
    'outside of the class folders': (
        False, lambda root: shutil.copy(_first(root), root / 'val/loose.jpg'),
        "val has images outside of class folders, which are ignored: 'loose.jpg'"),
    'truncated': (
        True, lambda root: _first(root).write_bytes(_first(root).read_bytes()[:300]),
        'n00000002/.*JPEG cannot be decoded'),
}  # fmt: skip


@pytest.mark.parametrize('name', IMAGENET_FAULTS)
def test_faults_of_imagenet_are_named(imagenet, run, name):
    has_lists, damage, message = IMAGENET_FAULTS[name]
    if not has_lists:
        shutil.rmtree(imagenet / 'meta')
    damage(imagenet)
    found = run('imagenet', imagenet, *OWN)[0]
    assert re.search(message, ' '.join(found)), found


def _change(root, change):
    path = root / 'annotations/training/ADE_train_00000001.png'
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def _in_capitals(root):
    for image in (root / 'images/training').iterdir():
        image.rename(image.with_suffix('.JPG'))


@pytest.mark.parametrize('damage, message', [
    (lambda root: shutil.rmtree(root / 'annotations/training'), "annotations/training' is missing"),
    (lambda root: (root / 'annotations/training/ADE_train_00000001.png').unlink(), 'without a label map.*0001'),
    (lambda root: (root / 'images/validation/ADE_val_00000002.jpg').unlink(), 'without an image.*0002'),
    (lambda root: _change(root, lambda m: m[:16]), '0001.png has 32×16 pixels, expected 32×32'),
    (_in_capitals, '6 files in .* end in .JPG, but the configs list .jpg. Rename .*img_suffix'),
])  # fmt: skip
def test_faults_of_ade20k_are_named(ade20k, run, damage, message):
    damage(ade20k)
    found = run('ade20k', ade20k, *MAPS)[0]
    assert re.search(message, ' '.join(found)), found


def test_label_maps_are_judged_with_and_without_0_as_a_class(ade20k, run):
    for number, path in enumerate(sorted(ade20k.rglob('*.png'))):
        Image.fromarray(np.resize(np.array([0, 1 + number % 2, 255], np.uint8), (32, 32))).save(
            path
        )
    for options, said in (([], None), (['--zero-is-class'], 'values 2 in .*: expected 0 … 1')):
        faults, _, printed = run('ade20k', ade20k, '--classes', '2', '--any-count', *options)
        assert bool(faults) == bool(said) and re.search(said or '', ''.join(faults))
        assert f'reduce_zero_label={not options} in the config' in printed[0]
    remarks = run('ade20k', ade20k, '--classes', '4', '--any-count', '--zero-is-class')[1]
    assert "these classes: 'value 3'" in remarks[0]


def test_a_sample_of_a_large_split_is_read_and_the_output_says_so(ade20k, run, monkeypatch):
    monkeypatch.setattr(layout, 'MAX_FILES', 2)
    for path in (ade20k / 'annotations/training').iterdir():
        Image.fromarray(np.full((32, 32), 99, np.uint8)).save(path)
    (found,), _, printed = run('ade20k', ade20k, *MAPS)
    assert any(line.endswith('images/training: reading 2 of 6 images') for line in printed)
    assert 'values 99 in 2 of a sample of 2 of 6 label maps, e.g. ' in found
