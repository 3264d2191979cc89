"""Sections of a report with pictures: what a stage's model does with a few validation images.

A section is a dict with `heading`, `text`, and either `columns` and `rows` of pictures (`legend`:
name → RGB) or `images` and `captions`. Pictures are uint8 RGB [H, W, 3].
"""

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
from beit_mm.viz.fill import draw_tokens, fill_in
from beit_mm.viz.images import gray_out, outline_classes, to_uint8

NUM_IMAGES = 6


class Predictions(NamedTuple):
    """A model's predictions for a batch of validation images."""

    model: nn.Module
    batch: dict[str, Any]  # from the data loader
    inputs: Any  # of the model
    samples: list  # what it predicts
    metainfo: dict  # of the data set


def stage_config(work_dir: Path, name: str) -> Config:
    """Return the config of a stage's latest run, with its checkpoints as they lie in `work_dir`."""
    cfg = Config.fromfile(str(sorted((work_dir / name).glob('*/vis_data/config.py'))[-1]))
    weights = (read_record(work_dir / name) or {}).get('weights', {})
    cfg.merge_from_dict(dict(option.split('=', 1) for option in weight_options(weights, work_dir)))
    return cfg


@torch.no_grad()
def predict(work_dir: Path, name: str, count: int) -> Predictions:
    """Load a stage's model and predict `count` images, drawn from its validation set."""
    cfg = stage_config(work_dir, name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = load_model(cfg, find_checkpoint(work_dir / name))
    stacked = cfg.val_dataloader.get('collate_fn', {}).get('type') == 'default_collate'
    collate = default_collate if stacked else pseudo_collate
    # Random, because every n-th image may be of the same class.
    picks = np.sort(np.random.default_rng(0).permutation(len(dataset))[:count])
    batch = collate([dataset[int(pick)] for pick in picks])
    data = model.data_preprocessor(batch, False)
    samples = model(**data, mode='predict')
    return Predictions(model, batch, data['inputs'], samples, dataset.metainfo)


def make_section(work_dir: Path, name: str) -> dict | None:
    """Return the section for the kind of model that a stage trains; None for other models."""
    model = stage_config(work_dir, name).model
    kind = model.type.rpartition('.')[2]
    if kind in ('DiscreteVAE', 'VQKD'):
        return _tokenizer(work_dir, name)
    if kind == 'BEiTPretrainer' and 'tokenizer' in model.target:
        return _pretraining(work_dir, name)
    if kind == 'EncoderDecoder':
        return segmentation(work_dir, name.partition('/')[0], [name])
    if kind == 'ImageClassifier':
        return _classification(work_dir, name)
    return None


def _tokenizer(work_dir: Path, name: str) -> dict:
    found = predict(work_dir, name, NUM_IMAGES)
    pairs = []
    for image, sample in zip(found.inputs, found.samples, strict=True):
        (drawn,) = draw_tokens(found.model, sample.ids[None], image.shape[-2:])
        pairs.append([to_uint8(image.numpy()), drawn])
    two_per_row = [left + right for left, right in zip(pairs[::2], pairs[1::2], strict=False)]
    rows = two_per_row or pairs
    decoded = 'The decoder reconstructs the image from the tokens alone.'
    colored = 'Each color stands for one token.'
    return dict(
        heading='What the tokenizer keeps',
        text='The tokenizer maps each patch of an image to one integer, its token. '
        + (decoded if found.model.can_decode else colored),
        columns=['image', 'decoded' if found.model.can_decode else 'tokens'] * (len(rows[0]) // 2),
        rows=rows,
    )


@torch.no_grad()
def _pretraining(work_dir: Path, name: str) -> dict:
    found = predict(work_dir, name, NUM_IMAGES)
    model, views = found.model, found.batch['inputs']
    ids = model.target(found.inputs)
    mask = views.get('mask', torch.zeros_like(ids, dtype=torch.bool))
    filled = fill_in(model.backbone, model.head, found.inputs['patch_view'], ids, mask)
    tokenizer, rows = model.target.tokenizer, []
    for view, masked, true, guessed in zip(views['patch_view'], mask, ids, filled, strict=True):
        image = view.numpy().transpose(1, 2, 0)
        pictures = draw_tokens(tokenizer, torch.stack([true, guessed]), image.shape[:2])
        rows.append([image, gray_out(image, masked.numpy()), *pictures])
    return dict(
        heading='What pre-training predicts',
        text='BEiT predicts the tokens of the masked patches, which are gray. The last two columns '
        'show tokens, decoded or in colors: first the true ones, then the most likely token in '
        'each masked patch.',
        columns=['image', 'visible', 'its tokens', 'filled in'],
        rows=rows,
    )


def segmentation(work_dir: Path, task: str, names: list[str]) -> dict:
    """Return the section with the truth and the predictions of stages on the same data set."""
    rows: list[list[np.ndarray]] = []
    for name in names:
        found = predict(work_dir, name, NUM_IMAGES)
        palette, classes = found.metainfo['palette'], found.metainfo['classes']
        images = _to_rgb(found.batch['inputs'])
        if not rows:
            for image, sample in zip(images, found.samples, strict=True):
                truth = sample.gt_sem_seg.data[0].numpy()
                rows.append([image, outline_classes(image, truth, palette)])
        for row, image, sample in zip(rows, images, found.samples, strict=True):
            row.append(outline_classes(image, sample.pred_sem_seg.data[0].numpy(), palette))
    text = 'Validation images.'
    if len(names) > 1:
        text += ' All columns have the same labels and number of steps, from different starts.'
    return dict(
        heading=task.capitalize(),
        text=text,
        columns=['image', 'truth', *(name.rpartition('/')[2] for name in names)],
        rows=rows,
        legend=dict(zip(classes, palette, strict=True)),
    )


def _classification(work_dir: Path, name: str) -> dict:
    found = predict(work_dir, name, 2 * NUM_IMAGES)
    classes = found.metainfo.get('classes') or []

    def class_name(label: torch.Tensor) -> str:
        return classes[int(label)] if int(label) < len(classes) else f'class {int(label)}'

    captions = []
    for sample in found.samples:
        predicted, true = class_name(sample.pred_label), class_name(sample.gt_label)
        captions.append(true if predicted == true else f'{predicted}, true class: {true}')
    return dict(
        heading='Predictions',
        text='Validation images with the predicted class.',
        images=_to_rgb(found.batch['inputs']),
        captions=captions,
    )


def _to_rgb(images: list[torch.Tensor]) -> list[np.ndarray]:
    """Convert BGR [3, H, W] to RGB [H, W, 3]."""
    return [image.numpy()[::-1].transpose(1, 2, 0) for image in images]
