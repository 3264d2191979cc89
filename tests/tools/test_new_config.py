"""tools/new_config.py writes configs that pass the checks and train, for the layouts users have."""

import csv
import re
import shutil
from pathlib import Path

import new_config
import numpy as np
import pages
import pytest
import small
from mmengine.config import Config
from PIL import Image
from starter import lengths
from starter.models import Device

from beit_mm.config_check.preflight import preflight
from beit_mm.engine.launch import build_runner

pytestmark = pytest.mark.any_stack

GPU = Device(24.0)
PAGE, USE = ((pages.ROOT / f'docs/{name}.md').read_text() for name in ('own_images', 'use'))
COLORS = dict(road=(128, 64, 128), sky=(70, 130, 180), ignore=(0, 0, 0))


def noise(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (70, 90, channels), np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    return tmp_path / 'data'


def write_images(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed)).save(folder / name)


def flat(folder: Path) -> None:
    write_images(folder, [f'{i}.{("jpg", "png", "webp", "tif")[i % 4]}' for i in range(20)])


def splits(folder: Path) -> None:
    write_images(folder, [f'{split}/a/{i}.jpg' for split in ('train', 'val') for i in range(8)])


def classes(folder: Path) -> None:
    write_images(folder, [f'{name}/{i}.jpg' for name in ('cat', 'dog') for i in range(10)])


def class_splits(folder: Path) -> None:
    names = [f'{s}/{c}/{i}.png' for s in ('train', 'val') for c in ('cat', 'dog') for i in range(4)]
    write_images(folder, names)


def bands(folder: Path) -> None:
    for i in range(16):
        (folder / 'ab'[i % 2]).mkdir(exist_ok=True)
        np.save(folder / 'ab'[i % 2] / f'{i}.npy', noise(i, 5))


def table(folder: Path, header=('image', 'label')) -> None:
    write_images(folder, [f'{i}.jpg' for i in range(10)])
    rows = [(f'{i}.jpg', ('cat', 'cat;dog', 'dog|sun', '')[i % 4]) for i in range(10)]
    if len(header) > 2:
        rows = [(name, *(int(label in labels) for label in header[1:])) for name, labels in rows]
    with open(folder / 'labels.csv', 'w', newline='') as file:
        csv.writer(file).writerows([header, *rows])


def scenes(folder: Path, values, masks='masks/{}.png', images='images/{}.jpg') -> None:
    """Write 10 images, and masks whose halves have the given values or colors."""
    write_images(folder, [images.format(i) for i in range(10)])
    for i in range(10):
        mask = np.zeros((70, 90, *np.shape(values[0])), np.uint8)
        for part, value in zip(np.array_split(mask, len(values)), values, strict=True):
            part[:] = value
        (folder / masks.format(i)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(folder / masks.format(i))


def halves(*values: object):
    return lambda folder: scenes(folder, values)


def run(*arguments: object) -> int:
    return new_config.main(list(map(str, arguments)))


def shorten(cfg: Config) -> Config:
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval, cfg.param_scheduler = 2, None
    return cfg


def train(name: str) -> None:
    cfg = shorten(Config.fromfile(name))
    cfg.work_dir, cfg.launcher = f'work_dirs/{Path(name).stem}', 'none'
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    build_runner(cfg).train()


def test_a_tenth_of_a_flat_folder_is_held_out(folder, capsys):
    flat(folder)
    assert run('tokenizer', 'data') == 0
    assert 'python tools/train.py my_tokenizer.py' in capsys.readouterr().out
    files = [Path(f'my_tokenizer_{split}.txt').read_text() for split in ('val', 'train')]
    held_out, trained = (set(text.split()) for text in files)
    assert len(held_out) == 2 and len(trained) == 18 and not held_out & trained


@pytest.mark.parametrize('write', [flat, splits, classes, class_splits, table, bands])
def test_images_that_cannot_be_read_are_skipped_by_name(write, folder, capsys):
    write(folder)
    bad = sorted(path for path in folder.rglob('*') if path.suffix in ('.jpg', '.png', '.npy'))[::7]
    for path in bad:
        path.write_bytes(path.read_bytes()[:100])
    task = 'tokenizer' if write in (flat, splits) else 'classification'
    assert run(task, 'data') == 0
    shown = capsys.readouterr().out
    assert bad and all(f'skipped: {path.relative_to(Path.cwd())}' in shown for path in bad)
    train(f'my_{task}.py')
    lists = ''.join(path.read_text() for path in Path().glob(f'my_{task}_*'))
    assert not any(path.name in lists.replace('"', ' ').split() for path in bad)


def test_large_photographs_are_pointed_to_smaller_copies(folder, capsys):
    for i in range(4):
        Image.new('RGB', (600, 450)).save(folder / f'{i}.jpg')
    assert run('tokenizer', 'data') == 0
    command = 'python tools/shrink_images.py data data_small --side 149\n'
    assert command in capsys.readouterr().out


def test_bands_are_normalized_by_their_own_mean_and_deviation(folder):
    """Values 0, 1 and 2, and a band that is constant."""
    values = np.random.default_rng(0).integers(0, 3, (20, 60, 60, 5), np.uint8)
    values[..., 4] = 3
    for i, image in enumerate(values):
        (folder / 'ab'[i % 2]).mkdir(exist_ok=True)
        np.save(folder / 'ab'[i % 2] / f'{i}.npy', image)
    assert run('classification', 'data') == 0
    shown = Config.fromfile('my_classification.py').model.data_preprocessor
    assert shown.mean == pytest.approx([1] * 4 + [3], abs=0.02)
    assert shown.std == pytest.approx([(2 / 3) ** 0.5] * 4 + [1], abs=0.02)


def test_a_column_per_class_is_the_table_of_names(folder):
    table(folder)
    run('classification', 'data')
    names = [Path(f'my_classification_{split}.json').read_text() for split in ('train', 'val')]
    shutil.rmtree(folder)
    table(folder, ('image', 'cat', 'dog', 'sun'))
    Path('my_classification.py').unlink()
    run('classification', 'data')
    again = [Path(f'my_classification_{split}.json').read_text() for split in ('train', 'val')]
    assert again == names


@pytest.mark.parametrize(
    ('values', 'options', 'names', 'reduce_zero_label'),
    [
        ((0, 1), ['--zero', 'background'], ['background', 'class 1'], False),
        ((0, 1, 2), ['--zero', 'ignore'], ['class 1', 'class 2'], True),
        ((1, 2, 255), [], ['class 1', 'class 2'], True),
        ((0, 255), ['--colors', 'table.txt'], ['back ground', 'object'], False),
        (tuple(COLORS.values()), ['--colors', 'table.txt'], ['road', 'sky'], False),
    ],
)
def test_a_segmentor_trains_on_masks(values, options, names, reduce_zero_label, folder):
    scenes(folder, values)
    lines = ['back ground 0', 'object 255']
    if len(values) == 3 and np.ndim(values[0]):
        lines = [f'{name} {" ".join(map(str, color))}' for name, color in COLORS.items()]
    Path('table.txt').write_text('\n'.join(lines))
    assert run('segmentation', 'data', *options) == 0
    cfg = Config.fromfile('my_segmentation.py')
    dataset = cfg.train_dataloader.dataset.dataset
    assert dataset.metainfo.classes == names and dataset.reduce_zero_label == reduce_zero_label
    train('my_segmentation.py')


@pytest.mark.parametrize(
    ('masks', 'images', 'options'),
    [
        ('labels/{}_mask.png', 'img/{}.webp', []),
        ('train/masks/{0}.png', 'train/images/{0}.jpg', []),
        ('elsewhere/{}.png', 'photos/{}.png', ['--masks', 'data/elsewhere']),
    ],
)
def test_images_and_masks_are_matched_by_name(masks, images, options, folder):
    scenes(folder, (0, 1), masks, images)
    if 'train' in masks:
        shutil.copytree(folder / 'train', folder / 'val')
    (folder / 'classes.txt').write_text('wall\n')
    data = 'data/photos' if options else 'data'
    assert run('segmentation', data, '--zero', 'background', *options) == 0
    if not options:
        assert Config.fromfile('my_segmentation.py').classes == ['background', 'wall']


@pytest.mark.parametrize(
    ('task', 'write', 'options', 'message'),
    [
        ('segmentation', halves(0, 255), [], 'only one class.*`object 255`.*--colors'),
        ('segmentation', halves(0, 1), [], 'Is 0 a class.*--zero background'),
        ('segmentation', halves(0, 1), ['--zero', 'ignore'], 'only one class remains'),
        ('segmentation', halves((1, 2, 3), (4, 5, 6)), [], 'has colors.*--colors'),
        ('segmentation', lambda f: scenes(f, (1, 2), 'masks/x{}.png'), [], 'no mask in .* name'),
        ('segmentation', flat, [], 'none of the folders images'),
        ('classification', flat, [], '0 class folders: expected one folder per class'),
        ('tokenizer', lambda f: None, [], 'no image'),
        ('pretrain', flat, [], 'needs a tokenizer: pass --weights'),
        ('tokenizer', flat, ['--weights', 'x'], 'trained from scratch'),
    ],
)
def test_what_cannot_be_used_is_said(task, write, options, message, folder):
    write(folder)
    with pytest.raises(SystemExit, match=message):
        run(task, 'data', *options)
    assert not Path(f'my_{task}.py').exists()


@pytest.mark.parametrize(
    ('task', 'write', 'weights'),
    [
        ('tokenizer', splits, None),
        ('classification', classes, None),
        ('classification', classes, 'none'),
        ('classification', classes, 'beit_large_patch16_224_pt22k'),
        ('classification', classes, 'beit_base_patch16_224_pt1k_800ep'),
        ('classification', table, None),
        ('classification', bands, None),
        ('segmentation', halves(1, 2), None),
        ('segmentation', halves(1, 2), 'beit_base_patch16_224_pt1k_800ep'),
        ('segmentation', halves(1, 2), 'beit_large_patch16_224_pt22k_ft22k'),
    ],
)
def test_configs_for_a_gpu_pass_the_checks_and_train(task, write, weights, folder, monkeypatch):
    monkeypatch.setattr(new_config, 'find_device', lambda: GPU)
    write(folder)
    assert run(task, 'data', *(['--weights', weights] if weights else [])) == 0
    cfg = Config.fromfile(f'my_{task}.py')
    assert preflight(cfg) == []
    cfg = small.shrink(cfg, None, Path('work'))
    cfg.param_scheduler = None  # a warm-up may be longer than two iterations
    build_runner(cfg).train()


def test_the_batch_follows_the_memory_and_the_learning_rate_follows_the_batch(folder, monkeypatch):
    write_images(folder, [f'{c}/{i}.jpg' for c in 'ab' for i in range(150)])
    found = []
    for gib in (5.0, 24.0):
        monkeypatch.setattr(new_config, 'find_device', lambda gib=gib: Device(gib))
        run('classification', 'data', '--out', f'{gib}.py')
        found.append(Config.fromfile(f'{gib}.py'))
    small, large = found
    assert small.batch_size < large.batch_size
    assert small.lr / small.batch_size == pytest.approx(large.lr / large.batch_size, rel=0.01)
    assert large.lr == pytest.approx(4e-3 * large.batch_size / 1024, rel=0.01)


def test_the_page_shows_what_is_written(folder, monkeypatch):
    monkeypatch.setattr(new_config, 'find_device', lambda: GPU)
    monkeypatch.setattr(lengths.os, 'sched_getaffinity', lambda process: range(8))
    for i in range(400):
        path = Path('my/classes', ('cat', 'dog')[i % 2], f'{i}.jpg')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (500, 375)).save(path)
    assert run('classification', 'my/classes') == 0
    shown = re.search('<!-- written config: begin -->\n```python\n(.*?)```', PAGE, re.S)[1]
    written = Path('my_classification.py').read_text()
    base = re.search("_base_ = '(.*)/configs/", written)[1]  # from a folder elsewhere
    assert shown == written.replace(f'{base}/', '')


@pytest.mark.parametrize('page', ['docs/own_images.md', 'README.md'])
def test_the_commands_of_the_pages_train(page, folder, monkeypatch, unformatted):
    write_images(Path('my/images'), [f'{i}.jpg' for i in range(12)])
    classes(Path('my/classes'))
    scenes(Path('my/scenes'), (0, 1, 2))
    write_images(Path(), ['photo.jpg'])

    runs = pages.ShortRuns(monkeypatch, shorten, ('iter_2',))
    blocks = pages.blocks((pages.ROOT / page).read_text(), 'bash')
    for block in (text for text in blocks if 'my_' in text):
        for command in block.splitlines():
            runs.call(command)
    logs = runs.logs()
    for task, metric in dict(classification='accuracy/top1', segmentation='mIoU').items():
        assert metric in logs[f'my_{task}']
    assert re.search(r'my_tokenizer\S*, written by beit_mm', logs['my_pretrain'])
    assert 'mim/val_loss' in logs['my_pretrain']
    if page != 'README.md':
        assert re.search(r'my_pretrain\S*, written by beit_mm', logs['my_tuned'])
        classify, segment = (text for text in pages.blocks(USE, 'python') if 'photo.jpg' in text)
        here = f'import os; os.chdir({str(Path.cwd())!r})\n'
        done = small.run_python(here + classify)
        assert re.search(r'(cat|dog) 0\.\d+$', done.stdout, re.M), done.stderr
        done = small.run_python(f'{here}{segment}\nprint(classes.shape)')
        shape = done.stdout.splitlines()[-1]
        assert shape == str(np.asarray(Image.open('photo.jpg')).shape[:2])
