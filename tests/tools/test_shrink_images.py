"""Copies of images and label maps with a largest side."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

SPEC = spec_from_file_location(
    'shrink_images', Path(__file__).parents[2] / 'tools/shrink_images.py'
)
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
    assert f'fault: {photos}/a/broken.jpg is no image that Pillow reads' in capsys.readouterr().out
    assert sorted(path.name for path in (target / 'a').iterdir()) == [
        'large.jpg',
        'large.png',
        'small.png',
        'turned.jpg',
    ]
    sizes = {path.name: Image.open(path).size for path in (target / 'a').iterdir()}
    assert sizes == {
        'large.jpg': (45, 30),
        'large.png': (45, 30),
        'small.png': (30, 20),
        'turned.jpg': (30, 45),
    }
    assert (target / 'a/small.png').read_bytes() == (photos / 'a/small.png').read_bytes()
    expected = (
        Image.open(photos / 'a/large.webp')
        .convert('RGB')
        .resize((45, 30), Image.Resampling.LANCZOS)
    )
    assert np.array_equal(Image.open(target / 'a/large.png'), expected)
    turned = cv2.imread(str(target / 'a/turned.jpg')).astype(int)
    assert np.abs(turned - np.rot90(cv2.imread(str(target / 'a/large.jpg')), -1)).mean() < 3
    (photos / 'a/broken.jpg').unlink()
    before = (target / 'a/large.jpg').stat().st_mtime_ns
    assert MAIN([str(photos), str(target), '--side', '45', '--jobs', '1']) == 0
    assert (target / 'a/large.jpg').stat().st_mtime_ns == before


@pytest.mark.parametrize('orientation, stored', [(1, True), (6, True), (6, False)])
def test_label_maps_keep_their_values_and_turn_with_their_image(tmp_path, orientation, stored):
    """A map may be as the turned photograph is shown or as it is stored."""
    ids = np.kron(np.array([[0, 7], [255, 3]], np.uint8), np.ones((20, 30), np.uint8))
    for folder in ('photos', 'maps'):
        (tmp_path / folder).mkdir()
    TURNED[0x0112] = orientation
    Image.fromarray(np.stack([ids] * 3, -1)).save(
        tmp_path / 'photos/1.jpg', quality=100, exif=TURNED
    )
    shown = ids if orientation == 1 else np.rot90(ids, -1)
    Image.fromarray(ids if stored else np.ascontiguousarray(shown)).save(tmp_path / 'maps/1.png')
    masks = ['--masks', str(tmp_path / 'maps'), str(tmp_path / 'small_maps')]
    for side in (30, 20):  # another side makes other copies
        assert (
            MAIN(
                [
                    str(tmp_path / 'photos'),
                    str(tmp_path / 'small'),
                    '--side',
                    str(side),
                    *masks,
                    '--jobs',
                    '1',
                ]
            )
            == 0
        )
        image = np.asarray(Image.open(tmp_path / 'small/1.jpg'))[..., 0].astype(int)
        small = np.asarray(Image.open(tmp_path / 'small_maps/1.png'))
        assert max(small.shape) == side and small.shape == image.shape
        assert set(np.unique(small)) == {0, 3, 7, 255} and (np.abs(image - small) < 40).mean() > 0.8


def test_a_label_map_whose_orientation_cannot_be_told_is_named(tmp_path, capsys):
    for folder in ('photos', 'maps'):
        (tmp_path / folder).mkdir()
    TURNED[0x0112] = 3
    Image.new('RGB', (40, 30)).save(tmp_path / 'photos/1.jpg', exif=TURNED)
    Image.new('L', (40, 30)).save(tmp_path / 'maps/1.png')
    masks = ['--masks', str(tmp_path / 'maps'), str(tmp_path / 'b')]
    assert (
        MAIN([str(tmp_path / 'photos'), str(tmp_path / 'a'), '--side', '20', *masks, '--jobs', '1'])
        == 1
    )
    assert 'fault: ' in (out := capsys.readouterr().out) and 'cannot be told' in out


def test_channels_are_kept_and_what_cannot_be_shrunk_is_named(tmp_path, capsys):
    (tmp_path / 'a').mkdir()
    for mode in ('L', 'RGBA'):
        Image.effect_noise((64, 48), 50).convert(mode).save(tmp_path / f'a/{mode}.png')
    Image.new('I;16', (64, 48)).save(tmp_path / 'a/deep.png')
    np.save(tmp_path / 'a/bands.npy', np.zeros((48, 64, 5), np.uint8))
    assert MAIN([str(tmp_path / 'a'), str(tmp_path / 'b'), '--side', '32', '--jobs', '1']) == 1
    assert {path.stem: Image.open(path).mode for path in (tmp_path / 'b').iterdir()} == dict(
        L='L', RGBA='RGBA'
    )
    out = capsys.readouterr().out
    assert (
        'deep.png has mode I;16 or 16 bits' in out
        and 'bands.npy is no image that Pillow reads' in out
    )


def test_names_that_would_become_one_are_refused(tmp_path, capsys):
    for name in ('a.png', 'a.webp'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    with pytest.raises(SystemExit):
        MAIN([str(tmp_path), str(tmp_path.parent / 'out'), '--side', '40'])
    assert 'a.png, a.webp: some of them would get the same name' in capsys.readouterr().err
