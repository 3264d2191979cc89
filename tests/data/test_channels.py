"""Images with one, four and thirteen channels work in all parts, from the tokenizer to export."""

import runpy
from pathlib import Path

import bad_files
import cv2
import numpy as np
import pytest
import torch
from data.test_image_files import encode, noise
from mmengine.config import Config
from mmengine.registry import init_default_scope

from beit_mm.apis import deploy
from beit_mm.engine.launch import build_runner
from beit_mm.viz.inputs import to_rgb

pytestmark = pytest.mark.usefixtures('unformatted')
ROOT = Path(__file__).parents[2]
SUFFIX = {1: '.png', 4: '.npy', 13: '.tif'}
READ = dict(type='LoadImageFromFile', color_type='unchanged')
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


@pytest.fixture(params=[1, 4, 13])
def channels(request) -> int:
    return request.param


@pytest.fixture
def root(channels, tmp_path) -> Path:
    """Return a folder with four images by class, the same images in one folder, and label maps."""
    for i in range(4):
        name, content = (
            f'{i}{SUFFIX[channels]}',
            encode(noise(32, 32, channels, seed=i), SUFFIX[channels]),
        )
        bad_files.write(tmp_path / 'images' / 'ab'[i % 2] / name, content)
        bad_files.write(tmp_path / 'flat' / name, content)
        labels = cv2.imencode('.png', noise(32, 32, seed=i) % 2)[1].tobytes()
        bad_files.write(tmp_path / f'maps/{i}.png', labels)
    return tmp_path


def trained(work: Path, scope: str, model: dict, dataset: dict, hooks: list | None = None):
    """Return the model after two iterations."""
    init_default_scope(scope)
    collate = 'pseudo_collate' if scope == 'mmseg' else 'default_collate'
    cfg = Config(dict(
        default_scope=scope, work_dir=str(work), experiment_name=work.name, model=model,
        train_dataloader=dict(
            num_workers=0, batch_size=2, collate_fn=dict(type=collate),
            sampler=dict(type='beit_mm.KeyedSampler', infinite=True),
            dataset=dict(type='beit_mm.SeededDataset', dataset=dataset)),
        val_dataloader=None, train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)), custom_hooks=hooks or [],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        env_cfg=dict(dist_cfg=dict(backend='gloo')), randomness=dict(seed=0),
    ))  # fmt: skip
    runner = build_runner(cfg)
    runner.train()
    return runner.model.eval()


def exported(model, path: Path) -> float:
    kind = deploy.Deployed(model)
    deploy.export(kind, path, 'torch', (32, 32))
    return deploy.largest_difference(kind, path, 'torch', (32, 32))


def test_every_part_takes_images_with_any_channels(channels, root):
    vae = dict(type='beit_mm.DiscreteVAE', vocab_size=16, width=8, groups=3, blocks=1, width_in=8,
               in_channels=channels)  # fmt: skip
    backbone = dict(type='beit_mm.BEiT', arch=ARCH, img_size=32, patch_size=8, in_channels=channels)
    raw = dict(type='mmpretrain.ClsDataPreprocessor', mean=[0] * channels, std=[255] * channels)
    normalize = dict(mean=[127.5] * channels, std=[64.0] * channels)
    flip = dict(type='mmpretrain.RandomFlip', prob=0.5)
    steps = [
        READ,
        flip,
        dict(type='mmpretrain.Resize', scale=32),
        dict(type='mmpretrain.PackInputs'),
    ]
    folder = dict(type='mmpretrain.CustomDataset', data_root=str(root), data_prefix='images')

    data = dict(folder, pipeline=steps)
    tokenizer = trained(root / 'tokenizer', 'beit_mm', dict(vae, data_preprocessor=raw), data)
    assert tokenizer.decode(torch.zeros(1, 2, 2, dtype=torch.int64)).shape == (1, channels, 8, 8)
    assert exported(tokenizer, root / 'tokenizer.pt2') < 1e-5

    weights = str(root / 'tokenizer/iter_2.pth')
    views = [
        READ, dict(type='beit_mm.TwoViews', size=32, token_size=16),
        dict(type='beit_mm.BlockwiseMask', grid=4, num_masked=6, min_block=2),
        dict(type='beit_mm.PackViews'),
    ]  # fmt: skip
    pretrainer = dict(
        type='beit_mm.BEiTPretrainer', num_masked=6,
        backbone=dict(backbone, mask_token=True, rel_pos_bias='shared'),
        target=dict(type='beit_mm.TokenTarget', checkpoint=weights, tokenizer=vae),
        head=dict(type='beit_mm.MIMHead', in_channels=16, out_channels=16),
        data_preprocessor=dict(type='beit_mm.MIMDataPreprocessor', **normalize),
    )  # fmt: skip
    probe = dict(type='beit_mm.Probe', interval=2, num_images=4, dataloader='train_dataloader')
    trained(root / 'pretrain', 'beit_mm', pretrainer, dict(folder, pipeline=views), [probe])

    init = dict(type='Pretrained', checkpoint=str(root / 'pretrain/iter_2.pth'))
    backbone = dict(backbone, rel_pos_bias='per_layer', init_cfg=init)
    classifier = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(backbone, out_type='avg_featmap'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=16, topk=(1,)),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', num_classes=2, **normalize),
    )  # fmt: skip
    model = trained(root / 'classify', 'mmpretrain', classifier, data)
    assert exported(model, root / 'classifier.pt2') < 1e-5

    pack = [dict(type='mmseg.LoadAnnotations'), dict(type='mmseg.PackSegInputs')]
    scenes = dict(
        type='mmseg.BaseSegDataset', data_root=str(root), img_suffix=SUFFIX[channels],
        metainfo=dict(classes=['x', 'y']), pipeline=[READ, *pack],
        data_prefix=dict(img_path='flat', seg_map_path='maps'),
    )  # fmt: skip
    segmentor = dict(
        type='mmseg.EncoderDecoder', backbone=dict(backbone, out_type='featmap'),
        decode_head=dict(type='mmseg.FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1,
                         num_classes=2, norm_cfg=dict(type='BN')),
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', size=(32, 32), bgr_to_rgb=False,
                               **normalize),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    trained(root / 'segment', 'mmseg', segmentor, scenes)

    image = str(next((root / 'flat').iterdir()))
    visualize = runpy.run_path(str(ROOT / 'tools/visualize.py'))['main']
    bands, pages = ['--bands', '1', str(channels), '1'], [root / 'a.html', root / 'b.html']
    tokens = ['--tokenizer', weights, '--size', '32', '--out', str(pages[0])]
    visualize(['tokens', image, *tokens, *bands])
    attention = ['--checkpoint', init['checkpoint'], '--html', str(pages[1])]
    visualize(['attention', image, *attention, *bands])
    assert all(page.stat().st_size > 1000 for page in pages)


def test_three_bands_are_chosen_for_pictures():
    image = noise(4, 5, 13)
    assert np.array_equal(to_rgb(image, [13, 2, 7]), image[..., [12, 1, 6]])
    assert np.array_equal(to_rgb(image[..., :1]), image[..., [0, 0, 0]])
    with pytest.raises(ValueError, match=r'--bands 1 2 14: expected three numbers'):
        to_rgb(image, [1, 2, 14])
