"""Images of one, four and thirteen channels go through all parts, from the tokenizer to export and pictures."""

import io
import runpy
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from beit_mm.apis import deploy
from beit_mm.data.guard import expect_channels, guard
from beit_mm.data.reading import BadSample, decode_bands, decode_image
from beit_mm.data.two_views import TwoViews, channels_first, resize
from beit_mm.engine.launch import build_runner
from beit_mm.registry import DATASETS
from beit_mm.viz.inputs import to_rgb

pytestmark = pytest.mark.usefixtures('unformatted')
ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
SUFFIX = {1: '.png', 4: '.npy', 13: '.tif'}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array: np.ndarray) -> bytes:
    """An uncompressed TIFF of uint8 [H, W, C]."""
    height, width, bands = array.shape
    entries = [
        (256, 3, (width,)), (257, 3, (height,)), (258, 3, (8,) * bands), (259, 3, (1,)), (262, 3, (1,)), (273, 4, (0,)),
        (277, 3, (bands,)), (278, 3, (height,)), (279, 4, (array.size,)), (284, 3, (1,)), (338, 3, (0,) * (bands - 1)),
    ]  # fmt: skip
    entries = [(tag, kind, values) for tag, kind, values in entries if values]
    place, table, extra = 8 + 2 + 12 * len(entries) + 4, b'', b''
    extra_size = sum(
        2 * len(values) for _, kind, values in entries if kind == 3 and len(values) > 2
    )
    for tag, kind, values in entries:
        values = (place + extra_size,) if tag == 273 else values
        packed = struct.pack(f'<{len(values)}{"H" if kind == 3 else "I"}', *values)
        if len(packed) > 4:
            packed, extra = struct.pack('<I', place + len(extra)), extra + packed
        table += struct.pack('<HHI', tag, kind, len(values)) + packed.ljust(4, b'\0')
    header = b'II*\0' + struct.pack('<IH', 8, len(entries))
    return header + table + struct.pack('<I', 0) + extra + array.tobytes()


def written(array: np.ndarray, suffix: str) -> bytes:
    if suffix == '.npy':
        return npy(array)
    if suffix == '.tif':
        return tiff(array)
    file = io.BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[2] == 1 else array).save(file, suffix[1:])
    return file.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'channels, suffix',
    [
        (1, '.png'),
        (3, '.png'),
        (4, '.png'),
        (2, '.tif'),
        (4, '.tif'),
        (13, '.tif'),
        (1, '.npy'),
        (13, '.npy'),
    ],
)
def test_the_bands_of_a_file_are_those_that_were_written(channels, suffix):
    array = noise(6, 7, channels)
    found, orientation = decode_bands('a', written(array, suffix))
    expected = array[..., ::-1] if channels == 3 else array[..., 0] if channels == 1 else array
    assert orientation == 1 and np.array_equal(found, expected)


def test_pages_of_a_tiff_are_bands():
    pages, file = [noise(6, 7, seed=seed) for seed in range(5)], io.BytesIO()
    first, *others = map(Image.fromarray, pages)
    first.save(file, 'TIFF', save_all=True, append_images=others)
    assert np.array_equal(decode_bands('a', file.getvalue())[0], np.stack(pages, -1))


def test_an_array_of_three_bands_is_rgb():
    array = noise(6, 7, 3)
    assert np.array_equal(decode_image('a', npy(array))[0], array[..., ::-1])


@pytest.mark.parametrize(
    'content, message',
    [
        (npy(noise(6, 7, 4)), r"a has the shape \(6, 7, 4\), expected \[H, W, 3\].*color_type='unchanged'"),
        (npy(noise(6, 7, 3).astype('f4')), r'a has values of float32, expected uint8. Scale all files alike to 0 … 255'),
        (npy(noise(5, 6, 7, 3)), r'a has the shape \(5, 6, 7, 3\), expected \[H, W\] or \[H, W, bands\]'),
        (npy(np.array([None])), 'a cannot be read as a NumPy array: Object arrays cannot be loaded'),
        (b'\x93NUMPY\x01\x00', 'a cannot be read as a NumPy array'),
    ],
)  # fmt: skip
def test_arrays_that_are_no_images_are_named(content, message):
    with pytest.raises(BadSample, match=message):
        decode_image('a', content)


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
@pytest.mark.parametrize('channels', [1, 2, 4, 13])
def test_views_of_any_channels_are_resized_channel_by_channel(backend, channels):
    image = noise(40, 30, channels)
    own = [
        resize(np.ascontiguousarray(image[..., i]), 16, 'bicubic', backend) for i in range(channels)
    ]
    found = channels_first(
        resize(image[..., 0] if channels == 1 else image, 16, 'bicubic', backend)
    )
    assert np.array_equal(found, np.stack(own))


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
def test_views_need_bytes(backend):
    image = noise(40, 30, 3).astype(np.float32) / 255
    with pytest.raises(
        ValueError, match=r'TwoViews was given float32 of shape .*, expected uint8 \[H, W\]'
    ):
        TwoViews(size=16, token_size=8, backend=backend).transform(dict(img=image))


# -- all parts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 4, 13])
def channels(request) -> int:
    return request.param


@pytest.fixture
def data(channels, tmp_path) -> dict:
    for i in range(4):
        for folder, content, suffix in (
            (
                f'images/{"ab"[i % 2]}',
                written(noise(32, 32, channels, seed=i), SUFFIX[channels]),
                SUFFIX[channels],
            ),
            ('maps', cv2.imencode('.png', noise(32, 32, seed=i) % 2)[1].tobytes(), '.png'),
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f'{i}{suffix}').write_bytes(content)
    return dict(root=str(tmp_path), suffix=SUFFIX[channels])


READ = dict(type='LoadImageFromFile', color_type='unchanged')


def trained(
    work: Path,
    scope: str,
    model: dict,
    dataset: dict,
    collate: str,
    hooks: list[dict] | None = None,
):
    """The model after two iterations that `tools/train.py` would make."""
    init_default_scope(scope)
    loader = dict(num_workers=0, batch_size=2, collate_fn=dict(type=collate))
    cfg = Config(
        dict(
            default_scope=scope, work_dir=str(work), experiment_name=work.name, model=model, custom_hooks=hooks or [],
            train_dataloader=dict(
                loader, sampler=dict(type='beit_mm.KeyedSampler', infinite=True),
                dataset=dict(type='beit_mm.SeededDataset', dataset=dataset)),
            val_dataloader=None, train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)), randomness=dict(seed=0),
            default_hooks=dict(checkpoint=dict(type='beit_mm.AtomicCheckpointHook', by_epoch=False, interval=2)),
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
        )
    )  # fmt: skip
    runner = build_runner(cfg)
    runner.train()
    return runner.model.eval()


def exported(model, path: Path) -> float:
    kind = deploy.Deployed(model)
    deploy.export(kind, path, 'torch', (32, 32))
    return deploy.difference(kind, path, 'torch', (32, 32))


def test_every_part_takes_images_of_any_channels(channels, data, tmp_path):
    folder = dict(type='mmpretrain.CustomDataset', data_root=data['root'], data_prefix='images')
    pack, resized = dict(type='mmpretrain.PackInputs'), dict(type='mmpretrain.Resize', scale=32)
    raw = dict(type='mmpretrain.ClsDataPreprocessor', mean=[0] * channels, std=[255] * channels)
    vae = dict(
        type='beit_mm.DiscreteVAE', vocab_size=16, width=8, groups=3, blocks=1, width_in=8, in_channels=channels,
        data_preprocessor=raw,
    )  # fmt: skip
    steps = [READ, dict(type='mmpretrain.RandomFlip', prob=0.5), resized, pack]
    tokenizer = trained(
        tmp_path / 'tokenizer', 'beit_mm', vae, dict(folder, pipeline=steps), 'default_collate'
    )
    assert tokenizer.decode(torch.zeros(1, 2, 2, dtype=torch.int64)).shape == (1, channels, 8, 8)
    assert exported(tokenizer, tmp_path / 'tokenizer.pt2') < 1e-5

    own = dict(type='beit_mm.BEiT', arch=ARCH, img_size=32, patch_size=8, in_channels=channels)
    views = [
        READ, dict(type='beit_mm.TwoViews', size=32, token_size=16),
        dict(type='beit_mm.BlockwiseMask', grid=4, num_masked=6, min_block=2), dict(type='beit_mm.PackViews'),
    ]  # fmt: skip
    checkpoint = str(tmp_path / 'tokenizer/iter_2.pth')
    target = dict(
        type='beit_mm.TokenTarget',
        checkpoint=checkpoint,
        tokenizer={k: vae[k] for k in vae if k != 'data_preprocessor'},
    )
    normalize = dict(mean=[127.5] * channels, std=[64.0] * channels)
    pretrainer = dict(
        type='beit_mm.BEiTPretrainer', backbone=dict(own, mask_token=True, rel_pos_bias='shared'), target=target,
        head=dict(type='beit_mm.MIMHead', in_channels=16, out_channels=16), num_masked=6,
        data_preprocessor=dict(type='beit_mm.MIMDataPreprocessor', **normalize),
    )  # fmt: skip
    probe = dict(type='beit_mm.Probe', interval=2, num_images=4, dataloader='train_dataloader')
    dataset = dict(folder, pipeline=views)
    trained(tmp_path / 'pretrain', 'beit_mm', pretrainer, dataset, 'default_collate', [probe])

    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrain/iter_2.pth'))
    classifier = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(own, rel_pos_bias='per_layer', out_type='avg_featmap', init_cfg=init),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=16, topk=(1,)),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', num_classes=2, **normalize),
    )  # fmt: skip
    model = trained(
        tmp_path / 'classify',
        'mmpretrain',
        classifier,
        dict(folder, pipeline=steps),
        'default_collate',
    )
    assert exported(model, tmp_path / 'classifier.pt2') < 1e-5

    scenes = dict(
        type='mmseg.BaseSegDataset', data_root=data['root'], img_suffix=data['suffix'], metainfo=dict(classes=['x', 'y']),
        data_prefix=dict(img_path='flat', seg_map_path='maps'),
        pipeline=[READ, dict(type='mmseg.LoadAnnotations'), dict(type='mmseg.PackSegInputs')],
    )  # fmt: skip
    (tmp_path / 'flat').mkdir()
    for path in (tmp_path / 'images').rglob(f'*{data["suffix"]}'):
        (tmp_path / 'flat' / path.name).write_bytes(path.read_bytes())
    segmentor = dict(
        type='mmseg.EncoderDecoder', backbone=dict(own, rel_pos_bias='per_layer', out_type='featmap', init_cfg=init),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1, num_classes=2, norm_cfg=dict(type='BN')),
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', size=(32, 32), bgr_to_rgb=False, **normalize),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    trained(tmp_path / 'segment', 'mmseg', segmentor, scenes, 'pseudo_collate')

    image = str(next((tmp_path / 'flat').iterdir()))
    visualize = runpy.run_path(str(ROOT / 'tools/visualize.py'))['main']
    bands = ['--bands', '1', str(channels), '1']
    visualize(
        [
            'tokens',
            image,
            '--tokenizer',
            checkpoint,
            '--size',
            '32',
            '--out',
            str(tmp_path / 'tokens.html'),
            *bands,
        ]
    )
    page = str(tmp_path / 'attention.html')
    visualize(['attention', image, '--checkpoint', init['checkpoint'], '--html', page, *bands])
    assert Path(page).stat().st_size > 1000


def test_three_bands_are_chosen_for_pictures():
    image = noise(4, 5, 13)
    assert np.array_equal(to_rgb(image, [13, 2, 7]), image[..., [12, 1, 6]])
    assert np.array_equal(to_rgb(image[..., :1]), image[..., [0, 0, 0]])
    with pytest.raises(ValueError, match=r'--bands 1 2 14: expected three numbers from 1 to 13'):
        to_rgb(image, [1, 2, 14])


# -- files that are listed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'loader',
    [dict(imdecode_backend='pillow'), dict(color_type='grayscale'), dict(ignore_empty=True)],
)
def test_a_loader_with_settings_of_its_own_stays(loader, tmp_path):
    (tmp_path / 'a.png').write_bytes(written(noise(4, 5, 3), '.png'))
    init_default_scope('mmpretrain')
    steps = [dict(type='LoadImageFromFile', **loader)]
    dataset = DATASETS.build(
        dict(
            type='mmpretrain.CustomDataset',
            data_root=str(tmp_path),
            with_label=False,
            pipeline=steps,
        )
    )
    before = dataset.pipeline.transforms[-1]
    assert guard(dataset).pipeline.transforms[-1] is before


def test_files_of_all_readable_suffixes_are_trained_on_and_others_are_named(tmp_path, capfd):
    picture = Image.fromarray(noise(8, 8, 3))
    for name in ('a.webp', 'b.TIFF', 'c.JPG', 'd.png', 'e.gif', 'f.GIF', 'g.jp2'):
        picture.save(tmp_path / name)
    (tmp_path / 'notes.txt').touch()
    init_default_scope('mmpretrain')
    node = dict(
        type='mmpretrain.CustomDataset',
        data_root=str(tmp_path),
        with_label=False,
        pipeline=[dict(READ, color_type='color')],
    )
    dataset = DATASETS.build(dict(type='beit_mm.SeededDataset', dataset=node))
    assert sorted(Path(path).name for path in dataset.paths) == [
        'a.webp',
        'b.TIFF',
        'c.JPG',
        'd.png',
    ]
    captured = capfd.readouterr()
    log = captured.out + captured.err
    assert (
        log.count(
            'images that the data set does not list, by suffix: 1 .GIF, 1 .gif, 1 .jp2. Convert or rename'
        )
        == 1
    )
    own = DATASETS.build(
        dict(type='beit_mm.SeededDataset', dataset=dict(node, extensions=['.gif']))
    )
    assert len(own) == 2


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L'])
def test_sixteen_bits_are_refused(mode):
    channels = len(mode) if mode != 'L' else 1
    content = cv2.imencode('.png', np.full((4, 5, channels), 200, np.uint16))[1].tobytes()
    with pytest.raises(
        BadSample, match='a has 16 bits per channel, expected 8. Scale all files alike'
    ):
        decode_bands('a', content)


def test_a_palette_gives_colors_whatever_the_format():
    picture = Image.new('P', (4, 3))
    picture.putpalette([10, 20, 30] * 256)
    for suffix in ('PNG', 'TIFF'):
        file = io.BytesIO()
        picture.save(file, suffix)
        assert decode_bands('a', file.getvalue())[0].tolist() == [[[30, 20, 10]] * 4] * 3


def test_files_with_other_channels_than_the_mean_are_named(tmp_path):
    """mmpretrain's and mmseg's data preprocessors would repeat a single channel."""
    Image.new('L', (8, 8)).save(tmp_path / 'a.png')
    init_default_scope('mmpretrain')
    node = dict(
        type='mmpretrain.CustomDataset', data_root=str(tmp_path), with_label=False, pipeline=[READ]
    )
    dataset = guard(DATASETS.build(node))
    assert dataset[0]['img'].shape == (8, 8)
    expect_channels(dataset, [0.0] * 4)
    with pytest.raises(
        BadSample, match=r'a.png has 1 channels, expected 4 as in mean and std of data_preprocessor'
    ):
        dataset[0]
