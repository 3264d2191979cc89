"""tools/shrink_images.py copies images and label maps with a largest side."""

from pathlib import Path

import bad_files
import cv2
import numpy as np
import pytest
import shrink_images
from PIL import Image

TURNED = bad_files.exif(6)  # shown turned by 90°


def run(source: Path, target: Path, side: int, *options: object) -> int:
    words = [source, target, '--side', side, *options, '--jobs', 1]
    return shrink_images.main([str(word) for word in words])


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / 'photos/a'
    folder.mkdir(parents=True)
    y, x = np.mgrid[:60, :90]
    picture = Image.fromarray(np.stack([x * 2, y * 4, x + y], -1).astype(np.uint8))
    picture.save(folder / 'large.jpg', quality=95)
    picture.save(folder / 'turned.jpg', quality=95, exif=TURNED)
    picture.save(folder / 'large.webp', lossless=True)
    picture.crop((0, 0, 30, 20)).save(folder / 'small.png')
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder.parent


def test_large_images_shrink_turned_ones_are_turned_small_ones_are_copied(photos, tmp_path, capsys):
    source, target = photos / 'a', tmp_path / 'out/a'
    assert run(photos, target.parent, 45) == 1
    assert f'fault: {source}/broken.jpg: ' in capsys.readouterr().out
    sizes = {path.name: Image.open(path).size for path in target.iterdir()}
    assert sizes == {'large.jpg': (45, 30), 'large.png': (45, 30), 'small.png': (30, 20),
                     'turned.jpg': (30, 45)}  # fmt: skip
    assert (target / 'small.png').read_bytes() == (source / 'small.png').read_bytes()
    large = Image.open(source / 'large.webp').convert('RGB')
    expected = large.resize((45, 30), Image.Resampling.LANCZOS)
    assert np.array_equal(Image.open(target / 'large.png'), expected)
    turned = cv2.imread(str(target / 'turned.jpg')).astype(int)
    assert np.abs(turned - np.rot90(cv2.imread(str(target / 'large.jpg')), -1)).mean() < 3
    (source / 'broken.jpg').unlink()
    before = (target / 'large.jpg').stat().st_mtime_ns
    assert run(photos, target.parent, 45) == 0
    assert (target / 'large.jpg').stat().st_mtime_ns == before


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


def test_channels_are_kept_and_what_cannot_be_shrunk_is_named(tmp_path, capsys):
    source, target = tmp_path / 'a', tmp_path / 'b'
    source.mkdir()
    for mode in ('L', 'RGBA'):
        Image.effect_noise((64, 48), 50).convert(mode).save(source / f'{mode}.png')
    Image.new('I;16', (64, 48)).save(source / 'deep.png')
    np.save(source / 'bands.npy', np.zeros((48, 64, 5), np.uint8))
    assert run(source, target, 32) == 1
    modes = {path.stem: Image.open(path).mode for path in target.iterdir()}
    assert modes == dict(L='L', RGBA='RGBA')
    out = capsys.readouterr().out
    assert 'deep.png: mode I;16, expected 8 bits' in out and 'bands.npy: cannot identify' in out


def test_names_that_would_become_one_are_refused(tmp_path, capsys):
    for name in ('a.png', 'a.webp'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    with pytest.raises(SystemExit):
        run(tmp_path, tmp_path.parent / 'out', 40)
    assert 'a.png, a.webp: their copies can get the same name' in capsys.readouterr().err
