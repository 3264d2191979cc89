"""Copies of images and label maps with a largest side."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

SPEC = spec_from_file_location('shrink_images', Path(__file__).parents[1] / 'tools/shrink_images.py')
TOOL = sys.modules['shrink_images'] = module_from_spec(SPEC)  # its processes look it up
SPEC.loader.exec_module(TOOL)
MAIN = TOOL.main
TURNED = Image.Exif()
TURNED[0x0112] = 6  # a viewer shows it turned by 90°


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / 'photos/a'
    folder.mkdir(parents=True)
    y, x = np.mgrid[:60, :90]
    picture = np.stack([x * 2, y * 4, x + y], -1).astype(np.uint8)
    Image.fromarray(picture).save(folder / 'large.jpg', quality=95)
    Image.fromarray(picture).save(folder / 'turned.jpg', quality=95, exif=TURNED)
    Image.fromarray(picture).save(folder / 'large.webp', lossless=True)
    Image.fromarray(picture[:20, :30]).save(folder / 'small.png')
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder.parent


def test_large_images_shrink_turned_ones_are_turned_small_ones_are_copied(photos, tmp_path, capsys):
    target = tmp_path / 'out'
    assert MAIN([str(photos), str(target), '--side', '45', '--jobs', '1']) == 1
    assert f'fault: {photos}/a/broken.jpg is no image' in capsys.readouterr().out
    assert sorted(path.name for path in (target / 'a').iterdir()) == [
        'large.jpg',
        'large.png',
        'small.png',
        'turned.jpg',
    ]
    sizes = {path.name: Image.open(path).size for path in (target / 'a').iterdir()}
    assert sizes == {'large.jpg': (45, 30), 'large.png': (45, 30), 'small.png': (30, 20), 'turned.jpg': (30, 45)}
    assert (target / 'a/small.png').read_bytes() == (photos / 'a/small.png').read_bytes()
    expected = Image.open(photos / 'a/large.webp').convert('RGB').resize((45, 30), Image.Resampling.LANCZOS)
    assert np.array_equal(Image.open(target / 'a/large.png'), expected)
    turned = cv2.imread(str(target / 'a/turned.jpg')).astype(int)
    assert np.abs(turned - np.rot90(cv2.imread(str(target / 'a/large.jpg')), -1)).mean() < 3
    (photos / 'a/broken.jpg').unlink()
    before = (target / 'a/large.jpg').stat().st_mtime_ns
    assert MAIN([str(photos), str(target), '--side', '45', '--jobs', '1']) == 0
    assert (target / 'a/large.jpg').stat().st_mtime_ns == before


def test_label_maps_keep_their_values(tmp_path):
    (tmp_path / 'maps').mkdir()
    ids = np.kron(np.array([[0, 7], [255, 3]], np.uint8), np.ones((20, 30), np.uint8))
    Image.fromarray(ids).save(tmp_path / 'maps/1.png')
    assert MAIN([str(tmp_path / 'maps'), str(tmp_path / 'out'), '--side', '30', '--masks', '--jobs', '1']) == 0
    found = np.asarray(Image.open(tmp_path / 'out/1.png'))
    assert np.array_equal(found, ids[1::2, 1::2])


def test_names_that_would_become_one_are_refused(tmp_path, capsys):
    for name in ('a.png', 'a.webp'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    with pytest.raises(SystemExit):
        MAIN([str(tmp_path), str(tmp_path.parent / 'out'), '--side', '4'])
    assert 'a.png, a.webp: some of them would get the same name' in capsys.readouterr().err
