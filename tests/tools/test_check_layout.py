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
from shapes import draw as shapes

pytestmark = pytest.mark.any_stack

SCRIPT = Path(__file__).parents[2] / 'tools' / 'check_layout.py'
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


def lines(capsys, kind, root, *options):
    """Faults and remarks, and all that is printed."""
    status = check_layout.main([kind, str(root), *options])
    printed = capsys.readouterr().out.splitlines()
    found = [line for line in printed if line.startswith('fault: ')]
    assert status == bool(found)
    return found, [line for line in printed if line.startswith('remark: ')], printed


def faults(capsys, *arguments):
    return lines(capsys, *arguments)[0]


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
    assert (
        'uses 10 labels, 1000 are expected' in found
        and 'train has 20 images, 1281167 are expected' in found
    )
    found = ' '.join(faults(capsys, 'ade20k', ade20k))
    assert 'training has 6 images, 20210 are expected' in found


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


def _not_listed(root):
    shutil.rmtree(root / 'meta')
    for name in ('a.gif', 'b.GIF'):
        Image.new('RGB', (8, 8)).save(root / 'train/n00000003' / name, 'GIF')


def _loose(root):
    shutil.rmtree(root / 'meta')
    shutil.copy(next((root / 'val/n00000002').iterdir()), root / 'val/loose.jpg')


def _truncate(root):
    path = next((root / 'val/n00000002').iterdir())
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    'damage, message',
    [
        (_remove_val, 'val is missing'),
        (_leave_archives, "unpack 'n00000000.tar'"),
        (_empty_class, "train has class folders without an image: 'n00000003'"),
        (
            _rename_class,
            "classes differ: .*train has 'n00000003', .*val has 'fish'. Give all splits",
        ),
        (_wrong_label, 'meta/train.txt has the labels 33, but the classes are numbered 0 … 9'),
        (_unlisted_file, 'val/n00000002/.*JPEG, cannot be read: No such file'),
        (
            _not_listed,
            r'1 files in .*train end in .GIF, and the data set lists .jpg.* 1 files in .*train end in .gif',
        ),
        (_loose, "val has 1 images outside of its class folders, which are not read: 'loose.jpg'"),
        (_truncate, 'n00000002/.*JPEG cannot be decoded'),
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
        (
            lambda root: shutil.rmtree(root / 'annotations/training'),
            'annotations/training is missing',
        ),
        (
            lambda root: (root / 'annotations/training/ADE_train_00000001.png').unlink(),
            'without a label map.*00000001',
        ),
        (
            lambda root: (root / 'images/validation/ADE_val_00000002.jpg').unlink(),
            'without an image.*ADE_val_00000002',
        ),
        (lambda root: _map(root, lambda m: m[:16]), '00000001.png is 32×16, its image 32×32'),
        (
            lambda root: _map(root, lambda m: m % 2 + 12),
            'the values 12, 13 in 1 of 6 label maps, e.g. .*00000001.png: 1 … 11',
        ),
        (
            lambda root: _map(root, lambda m: np.stack([m] * 3, -1)),
            r'00000001.png is a picture \(mode RGB\)',
        ),
        (
            lambda root: _map(root, lambda m: m.astype(np.uint16) + 900),
            '00000001.png has the value 9',
        ),
    ],
)
def test_faults_of_ade20k_are_named(ade20k, capsys, damage, message):
    damage(ade20k)
    found = faults(capsys, 'ade20k', ade20k, *MAPS)
    assert re.search(message, ' '.join(found)), found


def test_photos_named_in_capitals_are_read_and_the_suffix_is_named(ade20k, capsys):
    for image in (ade20k / 'images/training').iterdir():
        image.rename(image.with_suffix('.JPG'))
    (found,) = faults(capsys, 'ade20k', ade20k, *MAPS)
    assert (
        '6 files in' in found
        and "end in .JPG, and the configs list .jpg alone. Rename them, or set img_suffix='.JPG'"
        in found
    )


def _maps(root, *maps: list[int]) -> None:
    """The first label maps of training hold these values, the other pairs are removed."""
    for i, path in enumerate(sorted((root / 'annotations/training').iterdir())):
        if i < len(maps):
            values = np.resize(np.array(maps[i], np.uint8), (32, 32))
            Image.fromarray(values).save(path)
        else:
            path.unlink()
            (root / f'images/training/{path.stem}.jpg').unlink()


# label maps, options, fault, remark
VALUES = {
    '255 is ignored': ([[0, 1, 2, 255]], [], None, None),
    '0 is a class': ([[0, 1]], ['--zero-is-class'], None, None),
    '0 was a class': ([[0, 1]], [], "'value 1' is the only class in 1 label map.* If 0 is a class, set reduce_zero", None),
    'several of no class': (
        [[1, 2], [1, 6, 7], [2, 8]], [], 'the values 6–8 in 2 of 3 label maps, e.g. .*00000001.png: 1 … 2 are', None),
    'a class that does not occur': ([[0, 0, 1, 3]], ['--zero-is-class', '--classes', '4'], None, "'value 2' occurs in none"),
    'a map without a label': ([[0], [1, 2]], [], None, '1 of 2 label maps have no pixel with a class, e.g. .*00000000.png'),
}  # fmt: skip


@pytest.mark.parametrize('case', VALUES)
def test_label_maps_are_judged_by_their_values(case, ade20k, capsys):
    maps, options, fault, remark = VALUES[case]
    _maps(ade20k, *maps)
    for kind in ('images', 'annotations'):
        shutil.rmtree(ade20k / kind / 'validation')
        shutil.copytree(ade20k / kind / 'training', ade20k / kind / 'validation')
    found, remarks, printed = lines(
        capsys, 'ade20k', ade20k, '--classes', '2', '--any-count', *options
    )
    for expected, said in ((fault, found), (remark, remarks)):
        assert bool(said) == bool(expected), printed
        assert not said or re.search(expected, said[0]), said
    assert printed[0].startswith(
        '0 is a class' if '--zero-is-class' in options else '0 is unlabelled'
    )


def test_of_a_large_split_a_sample_is_read_and_the_output_says_so(ade20k, capsys, monkeypatch):
    monkeypatch.setattr(check_layout, 'MOST', 2)
    for path in (ade20k / 'annotations/training').iterdir():
        Image.fromarray(np.full((32, 32), 99, np.uint8)).save(path)
    found, _, printed = lines(capsys, 'ade20k', ade20k, *MAPS)
    assert any(line.endswith('images/training: reading 2 of 6 images') for line in printed)
    assert (
        len(found) == 1 and 'the value 99 in 2 of a sample of 2 of 6 label maps, e.g. ' in found[0]
    )


def test_arrays_are_images_of_their_class(imagenet, capsys):
    shutil.rmtree(imagenet / 'meta')
    for image in imagenet.glob('val/n00000003/*.JPEG'):
        np.save(image.with_suffix('.npy'), np.zeros((8, 8, 3), np.uint8))
        image.unlink()
    assert faults(capsys, 'imagenet', imagenet, *OWN) == []


def test_images_in_folders_of_a_class_are_its_images(imagenet, capsys):
    shutil.rmtree(imagenet / 'meta')
    deep = imagenet / 'val/n00000003/deeper'
    deep.mkdir()
    for image in imagenet.glob('val/n00000003/*.JPEG'):
        image.rename(deep / image.name)
    assert faults(capsys, 'imagenet', imagenet, *OWN) == []


def test_the_command_fails_for_a_folder_that_is_not_there(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, 'ade20k', tmp_path / 'none'], capture_output=True, text=True
    )
    assert done.returncode == 1 and 'none is no folder' in done.stdout
