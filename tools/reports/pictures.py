"""What a stage's model does with a few validation images: its config and last checkpoint in, RGB images out."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from recipe.records import find_checkpoint, read_record, weight_options
from torch import nn

from beit_mm.checkpoint.loading import load_model
from beit_mm.viz import draw
from beit_mm.viz.fill import filled

Picture = np.ndarray  # uint8 RGB [H, W, 3]


class Shown(NamedTuple):
    model: nn.Module
    batch: dict[str, Any]  # as the data loader makes it
    inputs: Any  # as the model takes them
    samples: list  # what it predicts
    metainfo: dict  # of the data set


def stage_config(work_dir: Path, name: str) -> Config:
    """The config that a stage ran with; of a finished one its checkpoints are found in `work_dir` as it lies now."""
    cfg = Config.fromfile(str(sorted((work_dir / name).glob('*/vis_data/config.py'))[-1]))
    weights = (read_record(work_dir / name) or {}).get('weights', {})
    cfg.merge_from_dict(dict(option.split('=', 1) for option in weight_options(weights, work_dir)))
    return cfg


@torch.no_grad()
def show(work_dir: Path, name: str, count: int) -> Shown:
    """A stage's trained model and its predictions for `count` images, spread over its validation set."""
    cfg = stage_config(work_dir, name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = load_model(cfg, find_checkpoint(work_dir / name))
    stacked = cfg.val_dataloader.get('collate_fn', {}).get('type') == 'default_collate'
    # Even steps would meet one class only where the classes alternate.
    picks = np.sort(np.random.default_rng(0).permutation(len(dataset))[:count])
    batch = (default_collate if stacked else pseudo_collate)([dataset[int(pick)] for pick in picks])
    data = model.data_preprocessor(batch, False)
    return Shown(model, batch, data['inputs'], model(**data, mode='predict'), dataset.metainfo)


def tokenizer(work_dir: Path, name: str, count: int = 6) -> tuple[list[str], list[list[Picture]]]:
    """Columns and rows: image, and what the decoder makes of its tokens."""
    shown = show(work_dir, name, count)
    pairs = zip(shown.inputs, (sample.reconstruction for sample in shown.samples), strict=True)
    return ['image', 'from its tokens'], [
        [draw.to_uint8(image.numpy()) for image in pair] for pair in pairs
    ]


@torch.no_grad()
def pretraining(work_dir: Path, name: str, count: int = 6) -> tuple[list[str], list[list[Picture]]]:
    """Columns and rows: image, what is seen of it, its tokens decoded, and those with guesses in the hidden places."""
    shown = show(work_dir, name, count)
    views, target = shown.batch['inputs'], shown.model.target
    true = target(shown.inputs)
    decoded = [target.tokenizer.decode(ids).numpy() for ids in (true, filled(true, shown.samples))]
    masks = views.get('mask', torch.zeros_like(true, dtype=torch.bool)).numpy()
    rows = []
    for view, mask, *tokens in zip(views['patch_view'].numpy(), masks, *decoded, strict=True):
        image = view.transpose(1, 2, 0)
        rows.append([image, draw.hide(image, mask), *map(draw.to_uint8, tokens)])
    return ['image', 'what is seen', 'its tokens', 'hidden guessed'], rows


def segmentation(
    work_dir: Path, names: list[str], count: int = 6
) -> tuple[list[str], list[list[Picture]], dict[str, str]]:
    """Columns and rows: image, truth, what each stage sees, all on one data set; and the classes' colours."""
    rows: list[list[Picture]] = []
    for name in names:
        shown = show(work_dir, name, count)
        palette, classes = shown.metainfo['palette'], shown.metainfo['classes']
        images = [
            image.numpy()[::-1].transpose(1, 2, 0) for image in shown.batch['inputs']
        ]  # BGR → RGB
        if not rows:
            truths = [sample.gt_sem_seg.data[0].numpy() for sample in shown.samples]
            rows = [
                [image, draw.overlay(image, truth, palette)]
                for image, truth in zip(images, truths, strict=True)
            ]
        for row, image, sample in zip(rows, images, shown.samples, strict=True):
            row.append(draw.overlay(image, sample.pred_sem_seg.data[0].numpy(), palette))
    colours = {
        name: 'rgb({},{},{})'.format(*colour) for name, colour in zip(classes, palette, strict=True)
    }
    return ['image', 'truth', *(name.rpartition('/')[2] for name in names)], rows, colours


def classification(work_dir: Path, name: str, count: int = 12) -> tuple[list[Picture], list[str]]:
    """Images, and for each the class that is seen and the true one."""
    shown = show(work_dir, name, count)
    classes = shown.metainfo.get('classes') or []

    def word(label: torch.Tensor) -> str:
        return classes[int(label)] if int(label) < len(classes) else f'class {int(label)}'

    images = [
        image.numpy()[::-1].transpose(1, 2, 0) for image in shown.batch['inputs']
    ]  # BGR → RGB
    pairs = [(word(sample.pred_label), word(sample.gt_label)) for sample in shown.samples]
    return images, [seen if seen == true else f'{seen}; it is {true}' for seen, true in pairs]
