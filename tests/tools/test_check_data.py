"""tools/check_data.py finds no fault in Shapes, and each planted fault once."""

import re
import shutil
from pathlib import Path

import bad_files
import check_data
import numpy as np
import pytest
from PIL import Image
from small import load, nodes

pytestmark = pytest.mark.any_stack


@pytest.fixture
def config(data, tmp_path):
    """Return a function that writes a config of the quickstart over `data`."""

    def write(task: str, change=lambda cfg: None) -> str:
        cfg = load(f'quickstart/{task}')
        for node in nodes([cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]):
            if 'data_root' in node:
                node.data_root = node.data_root.replace('data/quickstart', str(data))
                node.serialize_data = False  # which would collect garbage
                listed = re.sub(r'train_\d+', 'train_20', node.get('ann_file', ''))
                node.ann_file = listed.replace('training_500.txt', '')
        change(cfg)
        cfg.dump(tmp_path / f'{task}.py')
        return str(tmp_path / f'{task}.py')

    return write


def faults(capsys, *arguments: str, jobs: int = 1) -> list[str]:
    status = check_data.main([*arguments, '--jobs', str(jobs)])
    out = capsys.readouterr().out.splitlines()
    found = [line.removeprefix('fault: ') for line in out if line.startswith('fault: ')]
    assert status == bool(found)
    assert out[-1] == (f'{len(found)} faults' if found else 'no faults')
    return found


@pytest.mark.parametrize('task', ['pretrain', 'segmentation'])
def test_shapes_has_no_faults(config, task, capsys):
    assert faults(capsys, config(task)) == []


def test_all_faults_of_a_class_data_set_are_named(config, data, capsys):
    root = data / 'imagenet'
    lines = (root / 'meta/train_20.txt').read_text().splitlines()
    cut, text = (root / 'train' / line.split()[0] for line in lines[:2])
    cut.write_bytes(cut.read_bytes()[:500])
    text.write_text('not found')
    double = root / 'train' / Path(lines[2].split()[0]).with_suffix('.png')
    double.write_bytes(bad_files.png())
    kept = [line for line in lines if not line.endswith(' 7')]
    twice, wrong = kept[4].split()[0], kept[5].split()[0]
    extra = [f'{double.relative_to(root / "train")} 2', kept[4], f'{wrong} 12', 'gone.jpg 3']
    (root / 'meta/train_20.txt').write_text('\n'.join(kept + extra) + '\n')
    found = faults(capsys, config('classification'), '--split', 'train', jobs=2)
    expected = [
        f'{cut.name} cannot be decoded', f'{text.name} is not an image',
        'has the label 12, expected 0 … 9', 'gone.jpg cannot be read: No such file',
        f'{double.stem}.JPEG and .*{double.name} differ only in case or suffix',
        f'{Path(twice).name} is listed 2 times', f'{Path(wrong).name} is listed 2 times',
        "the class 'cross' does not occur",
    ]  # fmt: skip
    assert len(found) == len(expected)
    assert all(any(re.search(one, line) for line in found) for one in expected)


def test_all_faults_of_a_segmentation_data_set_are_named(config, data, capsys):
    maps = sorted((data / 'ade20k/annotations/training').iterdir())
    values = np.asarray(Image.open(maps[0]))
    planted = {
        'has the value': bad_files.grey(values + 200 * (values == values.max())),
        'has colors': bad_files.png(),
        'has 32×16 pixels, expected 32×32': bad_files.grey(values[:16]),
        'has no labeled pixel': bad_files.grey(0 * values),
        'is empty': b'',
    }
    for path, content in zip(maps, planted.values(), strict=False):
        path.write_bytes(content)
    lines = faults(capsys, config('segmentation'))
    found = [line for line in lines if 'does not occur' not in line]
    assert len(found) == len(planted)
    for path, message, line in zip(maps, planted, found, strict=False):
        assert str(path) in line and message in line


def test_labels_are_compared_with_the_head_and_a_missing_folder_is_a_fault(config, data, capsys):
    path = config('segmentation', lambda cfg: cfg.model.decode_head.update(num_classes=5))
    found = faults(capsys, path, '--split', 'val')
    assert found and all('expected 1 … 5 for classes' in line for line in found)
    shutil.rmtree(data / 'ade20k/images/validation')
    (found,) = faults(capsys, config('segmentation'))
    assert 'the data set of val cannot be built' in found and 'validation' in found
