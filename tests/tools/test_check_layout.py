"""tools/check_layout.py accepts Shapes and the layout of ImageNet's archives, and names faults."""

import re
import shutil
from pathlib import Path

import check_layout
import numpy as np
import pytest
from image_folders import layout
from PIL import Image

pytestmark = pytest.mark.any_stack

CLASSES = dict(imagenet=10, imagenet22k=10, ade20k=11)
MAP = 'annotations/training/ADE_train_00000001.png'


@pytest.fixture
def run(capsys):
    """Run the tool on a data set of 10 or 11 classes; return its faults, remarks and all lines."""

    def call(kind: str, root: Path, *options: str) -> tuple[list[str], list[str], list[str]]:
        own = ['--classes', str(CLASSES[kind]), '--any-count']
        status = check_layout.main([kind, str(root), *own, *options])
        printed = capsys.readouterr().out.splitlines()
        faults = [line for line in printed if line.startswith('fault: ')]
        assert status == bool(faults)
        return faults, [line for line in printed if line.startswith('remark: ')], printed

    return call


def test_shapes_has_the_right_layout_but_not_the_real_counts(drawn, run, capsys):
    for kind in CLASSES:
        assert run(kind, drawn / kind.removesuffix('22k'))[0] == []
    assert check_layout.main(['imagenet', str(drawn / 'imagenet')]) == 1
    found = capsys.readouterr().out
    assert 'train.txt has 10 labels, expected 1000' in found
    assert 'train has 20 images, expected 1281167' in found


def test_class_folders_need_no_list_and_a_flat_split_needs_one(data, run):
    root = data / 'imagenet'
    shutil.rmtree(root / 'meta')
    (root / 'train/n00000003/deeper').mkdir()
    for image in root.glob('train/n00000003/*.JPEG'):
        image.rename(image.parent / 'deeper' / image.name)
    for image in root.glob('val/n00000003/*.JPEG'):
        np.save(image.with_suffix('.npy'), np.zeros((8, 8, 3), np.uint8))
        image.unlink()
    assert run('imagenet', root)[0] == []
    for image in [*(root / 'val').rglob('*.*')]:
        image.rename(root / 'val' / image.name)
    for folder in (root / 'val').glob('n????????'):
        folder.rmdir()
    ((found,), *_) = run('imagenet', root)
    assert 'val has no class folders' in found and 'meta/val.txt does not exist' in found
    names = sorted(path.name for path in (root / 'val').iterdir())
    (root / 'meta').mkdir()
    (root / 'meta/val.txt').write_text(''.join(f'{name} {i}\n' for i, name in enumerate(names)))
    assert run('imagenet', root)[0] == []


def _archives(root):
    shutil.rmtree(root / 'train')
    (root / 'train').mkdir()
    (root / 'train/n00000000.tar').write_bytes(b'')


def _empty_class(root):
    for image in (root / 'train/n00000003').iterdir():
        image.unlink()


def _truncated_and_loose(root):
    image = next((root / 'val/n00000002').iterdir())
    shutil.copy(image, root / 'val/loose.jpg')
    image.write_bytes(image.read_bytes()[:300])


def _in_capitals(root):
    for image in (root / 'images/training').iterdir():
        image.rename(image.with_suffix('.JPG'))


@pytest.mark.parametrize('kind, damage, messages', [
    ('imagenet', lambda root: shutil.rmtree(root / 'val'), ['val is missing']),
    ('imagenet', _archives, ["Unpack 'n00000000.tar'"]),
    ('imagenet', _empty_class, ["train has class folders without an image: 'n00000003'"]),
    ('imagenet', lambda root: (root / 'val/n00000003').rename(root / 'val/fish'),
     ["classes differ: only in .*train: 'n00000003', only in .*val: 'fish'. Give all splits"]),
    ('imagenet', lambda root: Image.new('RGB', (8, 8)).save(root / 'train/n00000003/b.gif'),
     ['files in .*train end in .gif, but the configs list .jpg']),
    ('imagenet', _truncated_and_loose,
     ["outside of class folders, which are ignored: 'loose.jpg'", 'n00000002/.*JPEG cannot be decoded']),
    ('ade20k', lambda root: shutil.rmtree(root / 'annotations/training'), ["training' is missing"]),
    ('ade20k', lambda root: (root / MAP).unlink(), ['without a label map.*0001']),
    ('ade20k', lambda root: (root / 'images/validation/ADE_val_00000002.jpg').unlink(),
     ['without an image.*0002']),
    ('ade20k', _in_capitals, ['20 files in .* end in .JPG, but the configs list .jpg. Rename .*img_suf']),
])  # fmt: skip
def test_faults_are_named(data, run, kind, damage, messages):
    shutil.rmtree(data / 'imagenet/meta')
    damage(data / kind)
    found = run(kind, data / kind)[0]
    assert all(re.search(message, ' '.join(found)) for message in messages), found


def test_label_maps_are_judged_with_and_without_0_as_a_class(data, run):
    for number, path in enumerate(sorted(data.rglob('*.png'))):
        Image.fromarray(np.resize(np.array([0, 1 + number % 2, 255], np.uint8), (32, 32))).save(
            path
        )
    for options, said in (([], None), (['--zero-is-class'], 'values 2 in .*: expected 0 … 1')):
        faults, _, printed = run('ade20k', data / 'ade20k', '--classes', '2', *options)
        assert bool(faults) == bool(said) and re.search(said or '', ''.join(faults))
        assert f'reduce_zero_label={not options} in the config' in printed[0]
    remarks = run('ade20k', data / 'ade20k', '--classes', '4', '--zero-is-class')[1]
    assert "these classes: 'value 3'" in remarks[0]


def test_a_sample_of_a_large_split_is_read_and_the_output_says_so(data, run, monkeypatch):
    monkeypatch.setattr(layout, 'MAX_FILES', 2)
    for path in (data / 'ade20k/annotations/training').iterdir():
        Image.fromarray(np.full((32, 32), 99, np.uint8)).save(path)
    (found,), _, printed = run('ade20k', data / 'ade20k')
    assert any(line.endswith('images/training: reading 2 of 20 images') for line in printed)
    assert 'values 99 in 2 of a sample of 2 of 20 label maps, e.g. ' in found
