"""tools/shrink_images.py copies images and label maps with a largest side."""

from pathlib import Path

import bad_files
import cv2
import numpy as np
import pytest
import shrink_images
from PIL import Image

pytestmark = pytest.mark.any_stack


def run(source: Path, target: Path, side: int, *options: object) -> int:
    words = [source, target, '--side', side, *options, '--jobs', 1]
    return shrink_images.main([str(word) for word in words])


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / 'photos'
    (folder / 'a').mkdir(parents=True)
    y, x = np.mgrid[:60, :90]
    picture = Image.fromarray(np.stack([x * 2, y * 4, x + y], -1).astype(np.uint8))
    picture.save(folder / 'a/large.jpg', quality=95)
    picture.save(folder / 'a/turned.jpg', quality=95, exif=bad_files.exif(6))  # shown turned by 90°
    picture.save(folder / 'a/large.webp', lossless=True)
    picture.crop((0, 0, 30, 20)).save(folder / 'a/small.png')
    for mode in ('L', 'RGBA'):
        picture.convert(mode).save(folder / f'{mode}.png')
    return folder


def test_large_images_shrink_turned_ones_are_turned_small_ones_are_copied(photos, tmp_path):
    target = tmp_path / 'out'
    assert run(photos, target, 45) == 0
    found = {path.name: Image.open(path) for path in target.rglob('*.*')}
    sizes = {name: image.size for name, image in found.items()}
    large = dict.fromkeys(('large.jpg', 'large.png', 'L.png', 'RGBA.png'), (45, 30))
    assert sizes == large | {'small.png': (30, 20), 'turned.jpg': (30, 45)}
    assert (found['L.png'].mode, found['RGBA.png'].mode) == ('L', 'RGBA')
    assert (target / 'a/small.png').read_bytes() == (photos / 'a/small.png').read_bytes()
    expected = Image.open(photos / 'a/large.webp').convert('RGB')
    assert np.array_equal(found['large.png'], expected.resize((45, 30), Image.Resampling.LANCZOS))
    large, turned = (cv2.imread(str(target / f'a/{name}.jpg')) for name in ('large', 'turned'))
    assert np.abs(turned.astype(int) - np.rot90(large, -1)).mean() < 3
    before = (target / 'a/large.jpg').stat().st_mtime_ns
    assert run(photos, target, 45) == 0
    assert (target / 'a/large.jpg').stat().st_mtime_ns == before


@pytest.mark.parametrize('orientation, stored', [(1, True), (6, True), (6, False)])
def test_label_maps_keep_their_values_and_turn_with_their_image(tmp_path, orientation, stored):
    ids = np.kron(np.array([[0, 7], [255, 3]], np.uint8), np.ones((20, 30), np.uint8))
    for folder in ('photos', 'maps'):
        (tmp_path / folder).mkdir()
    photo = Image.fromarray(np.stack([ids] * 3, -1))
    photo.save(tmp_path / 'photos/1.jpg', quality=100, exif=bad_files.exif(orientation))
    shown = ids if orientation == 1 else np.ascontiguousarray(np.rot90(ids, -1))
    Image.fromarray(ids if stored else shown).save(tmp_path / 'maps/1.png')
    for side in (30, 20):  # another side replaces the copies
        folders = tmp_path / 'maps', tmp_path / 'small_maps'
        assert run(tmp_path / 'photos', tmp_path / 'small', side, '--masks', *folders) == 0
        image = np.asarray(Image.open(tmp_path / 'small/1.jpg'))[..., 0].astype(int)
        small = np.asarray(Image.open(tmp_path / 'small_maps/1.png'))
        assert max(small.shape) == side and small.shape == image.shape
        assert set(np.unique(small)) == {0, 3, 7, 255} and (np.abs(image - small) < 40).mean() > 0.8


def test_what_cannot_be_shrunk_is_named(photos, tmp_path, capsys):
    Image.new('I;16', (64, 48)).save(photos / 'deep.png')
    np.save(photos / 'bands.npy', np.zeros((48, 64, 5), np.uint8))
    assert run(photos, tmp_path / 'out', 32) == 1
    out = capsys.readouterr().out
    assert 'deep.png: mode I;16, expected 8 bits' in out and 'bands.npy: cannot identify' in out
    Image.new('RGB', (8, 8)).save(photos / 'a/large.png')
    with pytest.raises(SystemExit):
        run(photos, tmp_path / 'other', 40)
    names = 'a/large.png, a/large.webp: their copies can get the same name'
    assert names in capsys.readouterr().err
