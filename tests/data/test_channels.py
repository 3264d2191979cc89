"""Images with one, four and thirteen channels work in all parts, from the tokenizer to export."""

import runpy
from pathlib import Path

import bad_files
import cv2
import numpy as np
import pytest
import torch
from data.test_image_files import encode, noise
from small import ROOT, find_dataset, load, nodes, shrink

from beit_mm.apis import deploy
from beit_mm.engine.launch import build_runner
from beit_mm.utils.config_tree import kind
from beit_mm.viz.inputs import to_rgb

pytestmark = pytest.mark.usefixtures('unformatted')
SUFFIX = {1: '.png', 4: '.npy', 13: '.tif'}
PREPROCESSORS = dict(
    tokenizer=dict(type='mmpretrain.ClsDataPreprocessor'),
    pretrain=dict(type='MIMDataPreprocessor'),
    classification=dict(type='ClsDataPreprocessor', num_classes=10),
    segmentation=dict(type='SegDataPreProcessor', size=(64, 64), bgr_to_rgb=False),
)


@pytest.fixture(params=[1, 4, 13])
def channels(request) -> int:
    return request.param


@pytest.fixture
def root(channels, tmp_path) -> Path:
    """Return a folder with four images by class, the same images in one folder, and label maps."""
    for i in range(4):
        name = f'{i}{SUFFIX[channels]}'
        content = encode(noise(64, 64, channels, seed=i), SUFFIX[channels])
        bad_files.write(tmp_path / 'images' / 'ab'[i % 2] / name, content)
        bad_files.write(tmp_path / 'flat' / name, content)
        labels = cv2.imencode('.png', noise(64, 64, seed=i) % 2)[1].tobytes()
        bad_files.write(tmp_path / f'maps/{i}.png', labels)
    return tmp_path


def trained(task: str, root: Path, channels: int, weights: str | None, hooks: list | None = None):
    """Return the model of the quickstart after two iterations. It starts from `weights`."""
    cfg = load(f'quickstart/{task}')
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.custom_hooks = hooks or []
    mean, std = ([0.0], [255.0]) if task == 'tokenizer' else ([127.5], [64.0])
    cfg.model.data_preprocessor = dict(
        PREPROCESSORS[task], mean=mean * channels, std=std * channels
    )
    for node in nodes(cfg.model):
        if kind(node) in ('BEiT', 'DiscreteVAE'):
            node.in_channels = channels
        if 'checkpoint' in node:
            node.checkpoint = weights
    shrink(cfg, None, root / task)
    data = find_dataset(cfg.train_dataloader)
    data.pipeline[0].color_type = 'unchanged'
    if task == 'tokenizer':
        data.pipeline[1].backend = 'cv2'  # Pillow has no images of 13 bands
    data.update(data_root=str(root), ann_file='', data_prefix='images', metainfo=None)
    if task == 'segmentation':
        folders = dict(img_path='flat', seg_map_path='maps')
        data.update(data_prefix=folders, img_suffix=SUFFIX[channels])
    runner = build_runner(cfg)
    runner.train()
    return runner.model.eval()


def exported(model, path: Path) -> float:
    kind = deploy.Deployed(model)
    deploy.export(kind, path, 'torch', (64, 64))
    return deploy.largest_difference(kind, path, 'torch', (64, 64))


def test_every_part_takes_images_with_any_channels(channels, root):
    tokenizer = trained('tokenizer', root, channels, None)
    assert tokenizer.decode(torch.zeros(1, 2, 2, dtype=torch.int64)).shape == (1, channels, 8, 8)
    assert exported(tokenizer, root / 'tokenizer.pt2') < 1e-5
    vae, beit = (str(root / f'{task}/iter_2.pth') for task in ('tokenizer', 'pretrain'))
    probe = dict(type='Probe', interval=2, num_images=4, dataloader='train_dataloader')
    trained('pretrain', root, channels, vae, [probe])
    classifier = trained('classification', root, channels, beit)
    assert exported(classifier, root / 'classifier.pt2') < 1e-5
    trained('segmentation', root, channels, beit)

    image = str(next((root / 'flat').iterdir()))
    visualize = runpy.run_path(str(ROOT / 'tools/visualize.py'))['main']
    bands, pages = ['--bands', '1', str(channels), '1'], [root / 'a.html', root / 'b.html']
    visualize(['tokens', image, '--tokenizer', vae, '--size', '32', '--out', str(pages[0]), *bands])
    visualize(['attention', image, '--checkpoint', beit, '--html', str(pages[1]), *bands])
    assert all(page.stat().st_size > 1000 for page in pages)


def test_three_bands_are_chosen_for_pictures():
    image = noise(4, 5, 13)
    assert np.array_equal(to_rgb(image, [13, 2, 7]), image[..., [12, 1, 6]])
    assert np.array_equal(to_rgb(image[..., :1]), image[..., [0, 0, 0]])
    with pytest.raises(ValueError, match=r'--bands 1 2 14: expected three numbers'):
        to_rgb(image, [1, 2, 14])
