"""Images per second and core from a JPEG to a batch, and masks per second.

Ours is the training pipeline of a pre-training config, mmpretrain's that of its BEiT config;
torchvision's has the transforms of the official code on PIL images, with our mask.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from shapes.draw import scene

from beit_mm.data.blockwise_mask import BlockwiseMask
from beit_mm.utils.config_tree import find_dataset

from .timing import BenchmarkSettings, row, take_turns
from .training import PRETRAINING_CONFIG

Loader = Callable[[str], dict]


def mask(settings: BenchmarkSettings) -> Iterator[dict]:
    number = 10 if settings.quick else 1000
    generators = dict(ours=BlockwiseMask(14, 75))
    for library in settings.installed('mmpretrain'):
        from mmpretrain.datasets.transforms import BEiTMaskGenerator

        generators[library] = BEiTMaskGenerator((14, 14), 75, min_num_patches=16)

    def turn(generator: object) -> None:
        for _ in range(number):
            generator.transform({})

    turns = {name: partial(turn, generator) for name, generator in generators.items()}
    yield row(settings, 'mask', 'masks/s', take_turns(turns, settings.rounds), number)


def data(settings: BenchmarkSettings) -> Iterator[dict]:
    """Time whole pipelines on one thread, as in a worker."""
    loaders = dict(ours=our_loader())
    for library in settings.installed(*LIBRARY_LOADERS):
        loaders[library] = LIBRARY_LOADERS[library]()
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = draw_images(Path(folder), 2 if settings.quick else 64)
            turns = {name: partial(_load_batch, load, paths) for name, load in loaders.items()}
            times = take_turns(turns, settings.rounds)
            size = sum(Path(path).stat().st_size for path in paths) / len(paths)
            found = row(settings, 'data', 'images/s/core', times, len(paths))
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
    yield found | dict(jpeg_kb=size / 1000)


def _load_batch(load: Loader, paths: list[str]) -> object:
    return default_collate([load(path) for path in paths])


def draw_images(folder: Path, number: int) -> list[str]:
    """Write Shapes with noise, of the average size in ImageNet: 500×375 pixels and 110 kB."""
    rng, paths = np.random.default_rng(0), []
    for i in range(number):
        image = scene(0, i, 500)[0][:375, :, ::-1] + rng.normal(0, 8, (375, 500, 1))
        paths.append(str(folder / f'{i}.jpg'))
        cv2.imwrite(paths[-1], image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 96])
    return paths


def our_loader() -> Loader:
    cfg = Config.fromfile(PRETRAINING_CONFIG)
    init_default_scope(cfg.default_scope)
    dataset = find_dataset(cfg.train_dataloader)
    pipeline = Compose(dataset['pipeline'])
    return lambda path: pipeline(dict(img_path=path, sample_idx=0))


def mmpretrain_loader() -> Loader:
    import mmpretrain.datasets.transforms  # noqa: F401 (registers)

    jitter = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)
    crops = dict(size=224, second_size=112, scale=(0.08, 1.0))
    filters = dict(interpolation='bicubic', second_interpolation='lanczos')
    grid = dict(input_size=(14, 14), num_masking_patches=75, min_num_patches=16)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ColorJitter', **jitter),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='RandomResizedCropAndInterpolationWithTwoPic', **crops, **filters),
        dict(type='BEiTMaskGenerator', **grid),
        dict(type='PackInputs'),
    ]
    init_default_scope('mmpretrain')
    transforms = Compose(pipeline)
    return lambda path: transforms(dict(img_path=path))


def torchvision_loader() -> Loader:
    from PIL import Image
    from torchvision import transforms as T
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    jitter_and_flip = T.Compose([T.ColorJitter(0.4, 0.4, 0.4), T.RandomHorizontalFlip()])
    masks = BlockwiseMask(14, 75)

    def load(path: str) -> dict:
        with Image.open(path) as file:
            image = jitter_and_flip(file.convert('RGB'))
        crop = T.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        patch_view = F.resized_crop(image, *crop, [224, 224], InterpolationMode.BICUBIC)
        token_view = F.resized_crop(image, *crop, [112, 112], InterpolationMode.LANCZOS)
        inputs = dict(
            patch_view=F.pil_to_tensor(patch_view),
            token_view=F.pil_to_tensor(token_view),
            mask=torch.from_numpy(masks.transform({})['mask']),
        )
        return dict(inputs=inputs)

    return load


LIBRARY_LOADERS = dict(mmpretrain=mmpretrain_loader, torchvision=torchvision_loader)
