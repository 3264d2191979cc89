"""From a JPEG to a batch, and masks alone: images or masks a second of one core.

Ours is the training pipeline of a pre-training config as it stands; mmpretrain's is that of its own BEiT config;
torchvision's is the official code's (PIL, the same transforms), with our mask, since it has none.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from shapes.draw import scene

from beit_mm.data.blockwise_mask import BlockwiseMask
from beit_mm.registry import TRANSFORMS

from .steps import CONFIG, present
from .turns import Settings, Turn, row, take_turns

PEERS = dict(mmpretrain=(None, 'mmpretrain'), torchvision=(None, 'torchvision'))
MASKS = 1000


def mask(settings: Settings) -> Iterator[dict]:
    number = 10 if settings.quick else MASKS
    mine = BlockwiseMask(14, 75)
    turns = dict(ours=lambda: [mine.transform({}) for _ in range(number)])
    if 'mmpretrain' in settings.peers:
        from mmpretrain.datasets.transforms import BEiTMaskGenerator

        theirs = BEiTMaskGenerator((14, 14), 75, min_num_patches=16)
        turns['mmpretrain'] = lambda: [theirs.transform({}) for _ in range(number)]
    yield row('mask', 'masks/s', take_turns(turns, settings.rounds), number)


def draw(folder: Path, number: int) -> list[str]:
    """Files as ImageNet's are on average: 500×375 pixels, about 110 kB; scenes of Shapes with a camera's noise."""
    rng, paths = np.random.default_rng(0), []
    for i in range(number):
        image = scene(0, i, 500)[0][:375, :, ::-1] + rng.normal(0, 8, (375, 500, 1))
        paths.append(str(folder / f'{i}.jpg'))
        cv2.imwrite(paths[-1], image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 96])
    return paths


def ours() -> Turn:
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    transforms = [TRANSFORMS.build(t) for t in _pipeline(cfg.train_dataloader.dataset)]
    return lambda path: _through(transforms, dict(img_path=path, sample_idx=0))


def _pipeline(dataset: dict) -> list[dict]:
    """That of the innermost data set."""
    return dataset['pipeline'] if 'pipeline' in dataset else _pipeline(dataset['dataset'])


def _through(transforms: list, results: dict) -> dict:
    for transform in transforms:
        results = transform(results)
    return results


def mmpretrain() -> Turn:
    import mmpretrain.datasets.transforms  # noqa: F401 (registers)
    from mmpretrain.registry import TRANSFORMS as THEIRS

    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(
            type='RandomResizedCropAndInterpolationWithTwoPic',
            size=224,
            second_size=112,
            interpolation='bicubic',
            second_interpolation='lanczos',
            scale=(0.08, 1.0),
        ),
        dict(
            type='BEiTMaskGenerator',
            input_size=(14, 14),
            num_masking_patches=75,
            min_num_patches=16,
        ),
        dict(type='PackInputs'),
    ]
    init_default_scope('mmpretrain')
    transforms = [THEIRS.build(t) for t in pipeline]
    return lambda path: _through(transforms, dict(img_path=path))


def torchvision() -> Turn:
    from PIL import Image
    from torchvision import transforms as T
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    before = T.Compose([T.ColorJitter(0.4, 0.4, 0.4), T.RandomHorizontalFlip()])
    masks = BlockwiseMask(14, 75)

    def load(path: str) -> dict:
        with Image.open(path) as file:
            image = before(file.convert('RGB'))
        crop = T.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        views = dict(
            patch_view=F.resized_crop(image, *crop, [224, 224], InterpolationMode.BICUBIC),
            token_view=F.resized_crop(image, *crop, [112, 112], InterpolationMode.LANCZOS),
        )
        views = {name: F.pil_to_tensor(view) for name, view in views.items()}
        return dict(inputs=views | dict(mask=torch.from_numpy(masks.transform({})['mask'])))

    return load


def _batch(load: Turn, paths: list[str]) -> object:
    return default_collate([load(path) for path in paths])


def data(settings: Settings) -> Iterator[dict]:
    """On one thread, as in a worker."""
    makers = dict(ours=ours) | {
        name: dict(mmpretrain=mmpretrain, torchvision=torchvision)[name]
        for name in present(settings, PEERS)
    }
    threads, of_cv2 = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = draw(Path(folder), 2 if settings.quick else 64)
            turns = {}
            for name, maker in makers.items():
                turns[name] = partial(_batch, maker(), paths)
            times = take_turns(turns, settings.rounds)
            size = sum(Path(path).stat().st_size for path in paths) / len(paths)
            found = row('data', 'images/s/core', times, len(paths))
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(of_cv2)
    yield found | dict(jpeg_kb=size / 1000)
